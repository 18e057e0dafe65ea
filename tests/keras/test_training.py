"""Whole trainings of the Keras implementation on drawn data, with TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save

from ladder.exchange import digest, read_arrays
from pipeline.record import BEST_WEIGHTS, read_layers, read_predictions
from tests.training import (
    check_more_epochs,
    check_tracked,
    check_validation_seconds,
    mlflow_runs,
)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--variant", "dropout"), "kill 2 1"),
        pytest.param(("--variant", "dropout", "--plain"), "interrupt 2 1", marks=pytest.mark.slow),
        pytest.param(("--variant", "base"), "interrupt 1 0", marks=pytest.mark.slow),
        pytest.param(("--variant", "base"), "terminate 1 1", marks=pytest.mark.slow),
        # After the first 25 of 40 steps, which are one execution.
        (("--variant", "dropout", "--batch-size", "4"), "kill 2 1"),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(trainings, flags, fault):
    name = f"resumed{''.join(flags)} {fault}"
    part = trainings.forked(name, *flags, fault=fault)
    how, epoch, _ = fault.split()
    codes = {"interrupt": 130, "terminate": 143, "kill": None}
    assert part.code == codes[how]
    assert part.record.status == ("running" if how == "kill" else "interrupted")
    words = {"interrupt": ": interrupted; to go on: ", "terminate": ": terminated; to go on: "}
    assert words.get(how, "") in part.err
    assert len(part.record.history) == int(epoch)
    resumed = trainings.forked(name, *flags, "--resume")
    assert (resumed.code, resumed.err) == (0, "")
    whole = trainings.once(*flags)
    assert resumed.metrics == whole.metrics
    assert resumed.bits == whole.bits
    check_validation_seconds(resumed.record, part.record)
    best = [(run.folder / BEST_WEIGHTS).read_bytes() for run in (resumed, whole)]
    assert best[0] == best[1]


@pytest.mark.slow  # without it `make test` has the same of Lightning, and kills with `--resume`
@pytest.mark.parametrize("batch_size", ["4", "64"])
def test_more_epochs_end_with_the_bits_of_as_many_at_once(trainings, batch_size):
    """Of batches of 4 an epoch has 40: 25 in one call and the rest in another."""
    check_more_epochs(trainings, "--variant", "dropout", "--batch-size", batch_size)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--deterministic",), marks=pytest.mark.slow),
        pytest.param(("--precision", "bf16"), marks=pytest.mark.slow),
        pytest.param(("--precision", "64", "--plain"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_the_same_command_twice_gives_the_same_bits(trainings, flags):
    flags = ("--variant", "dropout", *flags)
    again = trainings.forked(f"again{''.join(flags)}", *flags)
    assert again.code == 0
    assert (again.metrics, again.bits) == (
        trainings.once(*flags).metrics,
        trainings.once(*flags).bits,
    )


@pytest.mark.slow
def test_another_number_of_threads_rounds_otherwise_at_most(trainings):
    """Sums may be split otherwise; in float64 the logits stay within rounding of nine steps."""
    flags = ("--variant", "base", "--precision", "64", "--threads")
    one, two = (read_predictions(trainings.once(*flags, n).folder)[0] for n in ("1", "2"))
    assert np.abs(one - two).max() < 1e-9


def test_other_runs_have_other_bits(trainings):
    runs = [trainings.once("--variant", "dropout", *more) for more in ([], ["--seed", "1"])]
    runs.append(trainings.once("--variant", "base"))
    assert len({run.bits for run in runs}) == 3


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


def test_a_script_trains_to_the_same_bits_and_says_little(trainings):
    run, loaded = trainings.script("a {epoch} ü", "--variant", "base")
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    assert loaded == {"keras", "tensorflow"}
    layers = read_layers(run.folder)
    assert [layers[0].type, layers[0].output_shape] == ["Conv2D", (28, 28, 32)]
    assert sum(layer.parameters for layer in layers) == run.record.parameters == 356_234
    lines = run.out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"keras-tensorflow base: {run.folder}", "epoch 1/3", "epoch 2/3", "epoch 3/3", lines[-1],
    ]  # fmt: skip
    assert lines[-1].startswith("keras-tensorflow base: test accuracy ")
    assert "\r" not in run.out
    assert "oneDNN" in (run.folder / "log.txt").read_text()
    assert not (run.folder / "logs" / "tensorboard").exists()
    assert not (run.folder / "plots" / "samples.png").exists()


@pytest.mark.slow
def test_a_script_is_followed_by_the_trackers_that_were_asked_for(trainings):
    run, loaded = trainings.script(
        "b {epoch} ü", "--variant", "base", "--logger", "tensorboard,mlflow"
    )
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    assert loaded == {"keras", "tensorflow", "tensorboard", "mlflow"}
    events, _ = check_tracked(run, run.folder.name, 3)
    assert set(events["images"]) == {
        "samples", "accuracy", "loss", "confusion", "correct", "incorrect"
    }  # fmt: skip
    names = [name for name, *_ in events["graph"]]
    assert names == [
        "image", "conv1", "act1", "pool1", "conv2", "act2", "pool2", "conv3", "act3", "pool3",
        "flatten", "hidden", "hidden_act", "logits",
    ]  # fmt: skip
    assert [kind for _, kind, _ in events["graph"][:4]] == [
        "Input",
        "Conv2D",
        "LeakyReLU",
        "MaxPooling2D",
    ]
    assert [inputs for *_, inputs in events["graph"][1:]] == [[name] for name in names[:-1]]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill 2 1", "interrupt 1 0", "terminate 1 0"])
def test_a_resumed_run_is_followed_as_one(trainings, fault):
    name = f"followed {fault}"
    flags = ("--variant", "base", "--logger", "tensorboard,mlflow")
    part = trainings.forked(name, *flags, fault=fault)
    (before,) = [run for run in mlflow_runs(trainings.folder / "mlflow.db") if run["name"] == name]
    assert before["status"] == ("RUNNING" if part.code is None else "KILLED")
    run = trainings.forked(name, *flags, "--resume")
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    check_tracked(run, name, 3)


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
    run = trainings.forked(f"nan{len(flags)}", "--learning-rate", "1e30", *flags)
    assert run.code == 1
    assert run.err.startswith("train_keras.py: the loss became ")
    assert f" in epoch 1, {steps}; a smaller --learning-rate may help" in run.err
    assert run.err.count("\n") == 1
    assert run.record.status == "failed"
    assert (run.record.failure["epoch"], run.record.failure["step"]) == (1, last)


def test_a_gpu_that_is_not_there_is_a_wrong_call(trainings):
    run = trainings.forked("gpu", "--device", "gpu")
    assert run.code == 2
    assert "error: `--device gpu`: the tensorflow backend sees no GPU here; use --device" in run.err
    assert run.err.count("\n") == 1
    assert not run.folder.exists()


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
    for content in (whole[:1000], b"", b"garbage" * 100, *hostile):
        checkpoint.write_bytes(content)
        run = trainings.forked("damaged", "--resume")
        assert run.code == 1
        assert f"train_keras.py: cannot go on from {checkpoint}: " in run.err
        assert run.err.count("\n") == 1
    checkpoint.write_bytes(whole)
    assert trainings.forked("damaged", "--resume").code == 0
