"""Whole trainings on drawn data: the tests that both implementations pass.

tests/keras/test_training.py and tests/lightning/test_training.py import them, so they run, and are
reported, once in each folder.
"""

import numpy as np
import pytest

from pipeline.record import BEST_WEIGHTS
from pipeline.recorded import read_layers, read_predictions
from tests.training import check_tracked, check_validation_seconds, mlflow_runs


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--variant", "dropout"), "kill 2 1"),
        pytest.param(("--variant", "dropout", "--plain"), "interrupt 2 1", marks=pytest.mark.slow),
        pytest.param(("--variant", "base"), "interrupt 1 0", marks=pytest.mark.slow),
        pytest.param(("--variant", "base"), "terminate 1 1", marks=pytest.mark.slow),
        # After the first 25 of 40 steps, which the fast path takes at once.
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


def check_the_same_bits_again(trainings, flags):
    """Run the same command twice; each folder says with which flags."""
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


def test_a_script_trains_to_the_same_bits_and_says_little(trainings, implementation):
    run, loaded = trainings.script("a {epoch} ü", "--variant", "base")
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    assert loaded == implementation.FRAMEWORKS
    layers = read_layers(run.folder)
    first = layers[0]
    assert (first.type, first.output_shape) == implementation.FIRST_LAYERS[0][1:3]
    assert sum(layer.parameters for layer in layers) == run.record.parameters == 356_234
    title, *epochs, last = run.out.splitlines()
    assert title == f"{trainings.engine} base: {run.folder}"
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert last.startswith(f"{trainings.engine} base: test accuracy ")
    assert "\r" not in run.out
    assert implementation.NOISE in (run.folder / "log.txt").read_text()
    assert not (run.folder / "logs" / "tensorboard").exists()
    assert not (run.folder / "plots" / "samples.png").exists()


@pytest.mark.slow
def test_a_script_is_followed_by_the_trackers_that_were_asked_for(trainings, implementation):
    run, loaded = trainings.script(
        "b {epoch} ü", "--variant", "base", "--logger", "tensorboard,mlflow"
    )
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    assert loaded == implementation.FRAMEWORKS | {"tensorboard", "mlflow"}
    events, _ = check_tracked(run, run.folder.name, 3)
    assert set(events["images"]) == {
        "samples", "accuracy", "loss", "confusion", "correct", "incorrect"
    }  # fmt: skip
    names = [name for name, *_ in events["graph"]]
    assert names == [
        "image", "conv1", "act1", "pool1", "conv2", "act2", "pool2", "conv3", "act3", "pool3",
        "flatten", "hidden", "hidden_act", "logits",
    ]  # fmt: skip
    kinds = ["Input", *(kind for _, kind, *_ in implementation.FIRST_LAYERS)]
    assert [kind for _, kind, _ in events["graph"][:4]] == kinds
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


def check_a_loss_that_is_not_a_number(trainings, name, flags, steps, last_step):
    """Diverge in the first epoch: `steps` are those that are named, `last_step` is recorded."""
    run = trainings.forked(name, "--learning-rate", "1e30", *flags)
    assert run.code == 1
    assert run.err.startswith(f"{trainings.script_name}: the loss became ")
    assert f" in epoch 1, {steps}; a smaller --learning-rate may help" in run.err
    assert run.err.count("\n") == 1
    assert run.record.status == "failed"
    assert (run.record.failure["epoch"], run.record.failure["step"]) == (1, last_step)


def test_a_gpu_that_is_not_there_is_a_wrong_call(trainings, implementation):
    run = trainings.forked("gpu", "--device", "gpu")
    assert run.code == 2
    assert f"error: `--device gpu`: {implementation.NO_GPU}" in run.err
    assert run.err.count("\n") == 1
    assert not run.folder.exists()


def check_damaged_checkpoints(trainings, checkpoint, contents):
    """Resume the run `checkpoint` is of with each of `contents` in its place, then as it was."""
    name, whole = checkpoint.parents[1].name, checkpoint.read_bytes()
    for content in (whole[:1000], b"", b"garbage" * 100, *contents):
        checkpoint.write_bytes(content)
        run = trainings.forked(name, "--resume")
        assert run.code == 1
        assert f"{trainings.script_name}: cannot go on from {checkpoint}: " in run.err
        assert run.err.count("\n") == 1
    checkpoint.write_bytes(whole)
    assert trainings.forked(name, "--resume").code == 0
