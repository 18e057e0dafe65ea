"""Whole trainings of the Keras implementation on drawn data, with TensorFlow."""

import json
import subprocess
import sys

import pytest
from safetensors.numpy import save

from ladder.arrays import digest, read_arrays
from tests.both.training import (  # noqa: F401
    check_a_loss_that_is_not_a_number,
    check_damaged_checkpoints,
    check_the_same_bits_again,
    test_a_gpu_that_is_not_there_is_a_wrong_call,
    test_a_resumed_run_ends_with_the_same_bits,
    test_a_resumed_run_is_followed_as_one,
    test_a_script_is_followed_by_the_trackers_that_were_asked_for,
    test_a_script_trains_to_the_same_bits_and_says_little,
    test_another_number_of_threads_rounds_otherwise_at_most,
    test_other_runs_have_other_bits,
)
from tests.training import check_more_epochs


@pytest.mark.slow  # without it `make test` has the same of Lightning, and kills with `--resume`
@pytest.mark.parametrize("batch_size", ["4", "64"])
def test_more_epochs_end_with_the_bits_of_as_many_at_once(trainings, batch_size):
    """Of batches of 4 an epoch has 40: 25 in one call and the rest in another."""
    check_more_epochs(trainings, "--variant", "dropout", "--batch-size", batch_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [("--deterministic",), ("--precision", "bf16"), ("--precision", "64", "--plain")],
    ids=" ".join,
)
def test_the_same_command_twice_gives_the_same_bits(trainings, flags):
    check_the_same_bits_again(trainings, flags)


# Of batches of 4 an epoch has 40: a whole execution and one of the rest.
@pytest.mark.parametrize(
    "flags",
    [(), pytest.param(("--precision", "64"), marks=pytest.mark.slow), ("--batch-size", "4")],
    ids=str,
)
def test_the_fast_path_trains_as_the_plain_one(trainings, flags):
    """They differ in how batches come to the steps, and how many are one call: the same bits."""
    flags = ("--variant", "dropout", *flags)
    fast, plain = (trainings.once(*flags, *more) for more in ([], ["--plain"]))
    assert fast.metrics == plain.metrics
    assert fast.bits == plain.bits


@pytest.mark.slow
def test_on_torch_the_fast_path_trains_as_the_plain_one(trainings):
    """They differ in maps that are not copied, and in pools before activations: the same bits."""
    flags = ("--variant", "dropout", "--backend", "torch")
    (fast, loaded), (plain, _) = (
        trainings.script(name, *flags, *more)
        for name, more in (("torch-fast", []), ("torch-plain", ["--plain"]))
    )
    assert loaded == {"keras", "torch"}
    assert fast.metrics == plain.metrics
    assert fast.bits == plain.bits


HOSTILE = {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 1e-3,
           "backend": "jax", "nnx_enabled": True}  # fmt: skip
RESOLVED = """
import keras
print(keras.config.image_data_format(), keras.config.floatx(), keras.config.epsilon())
"""


@pytest.mark.slow
@pytest.mark.parametrize("content", [json.dumps(HOSTILE), '{"floatx": '])
def test_no_keras_json_changes_a_bit(trainings, content, tmp_path):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(content)
    limits = {"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1", "KERAS_BACKEND": "torch"}
    homes = {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / ".keras")}
    run, loaded = trainings.script(tmp_path.name, "--variant", "base", **homes, **limits)
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    assert loaded == {"keras", "tensorflow"}
    assert (tmp_path / ".keras" / "keras.json").read_text() == content


def test_a_keras_json_does_change_what_is_not_a_trainer(tmp_path):
    without = {name: value for name, value in HOSTILE.items() if name != "nnx_enabled"}
    (tmp_path / "keras.json").write_text(json.dumps(without))
    environment = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVED], capture_output=True, text=True, check=True,
        env=environment,
    )  # fmt: skip
    assert done.stdout.split() == ["channels_first", "float16", "0.001"]


@pytest.mark.parametrize(
    ("flags", "steps", "last"),
    [(["--plain"], "step 2", 2), ([], "steps 1 to 3 (a new run with --plain tells which)", 3)],
    ids=["plain", "fast"],
)
def test_a_loss_that_is_not_a_number_is_recorded(trainings, flags, steps, last):
    check_a_loss_that_is_not_a_number(trainings, f"nan{len(flags)}", flags, steps, last)


def test_a_damaged_checkpoint_fails_in_one_line(trainings):
    trainings.forked("damaged", fault="kill 1 0")
    checkpoint = trainings.folder / "damaged" / "checkpoints" / "training-state.safetensors"
    whole = checkpoint.read_bytes()
    arrays, words = read_arrays(checkpoint)
    other = {name: array[..., None] for name, array in arrays.items()}

    ((seal, value),) = words.items()

    def signed(arrays, epochs):
        return save(arrays, {seal: f"{epochs}, {digest(arrays, epochs)}"})

    assert signed(arrays, "1") == whole
    hostile = [save(arrays), save(arrays, {seal: "2" + value[1:]}), save(other, words)]
    hostile += [whole[:-1] + bytes([whole[-1] ^ 1])]
    hostile += [signed(arrays, "-1"), signed(arrays, "many"), signed({}, "1"), signed(other, "1")]
    check_damaged_checkpoints(trainings, checkpoint, hostile)
