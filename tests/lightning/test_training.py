"""Whole trainings of the Lightning half on drawn data."""

import signal

import numpy as np
import pytest

from lightning_impl.model import Classifier
from lightning_impl.train import predict_logits
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.preprocess import prepare
from pipeline.recipe import preset
from pipeline.record import BEST_WEIGHTS
from tests.training import scalars_of

# The fast path takes LeakyReLU after the pool, and layouts and kernels that add up in another
# order: float64's rounding over nine steps; measured 4e-16.
FAST_AGAINST_PLAIN = 1e-12


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--variant", "dropout"), "kill 2 1"),
        (("--variant", "dropout", "--plain"), "interrupt 2 1"),
        (("--variant", "base"), "interrupt 1 0"),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(trainings, flags, fault):
    name = f"resumed{''.join(flags)}"
    part = trainings.forked(name, *flags, fault=fault)
    how, epoch, _ = fault.split()
    assert part.record.status == ("interrupted" if how == "interrupt" else "running")
    assert part.code == (130 if how == "interrupt" else None)
    assert len(part.record.history) == int(epoch)
    resumed = trainings.forked(name, *flags, "--resume")
    assert (resumed.code, resumed.err) == (0, "")
    whole = trainings.once(*flags)
    assert resumed.metrics == whole.metrics
    assert resumed.bits == whole.bits
    best = [(run.folder / BEST_WEIGHTS).read_bytes() for run in (resumed, whole)]
    assert best[0] == best[1]


def test_other_runs_have_other_bits(trainings):
    runs = [trainings.once("--variant", "dropout", *more) for more in ([], ["--seed", "1"])]
    runs.append(trainings.once("--variant", "base"))
    assert len({run.bits for run in runs}) == 3


def metrics_of(run):
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return np.array([[row[name] for name in names] for row in run.record.history])


@pytest.mark.parametrize("variant", ["base", "dropout"])
def test_the_fast_path_trains_as_the_plain_one(trainings, variant):
    flags = ("--variant", variant, "--precision", "64")
    fast, plain = (metrics_of(trainings.once(*flags, *more)) for more in ([], ["--plain"]))
    assert np.abs(fast - plain).max() < FAST_AGAINST_PLAIN


def test_another_seed_trains_otherwise(trainings):
    flags = ("--variant", "base", "--precision", "64")
    one, other = (metrics_of(trainings.once(*flags, *more)) for more in ([], ["--seed", "1"]))
    assert np.abs(one - other).max() > 1e-3


def test_a_script_trains_to_the_same_bits_and_says_little(trainings):
    flags = ("--variant", "base", "--logger", "tensorboard")
    run, loaded = trainings.script("a {epoch} ü", *flags)
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    assert loaded == {"torch", "lightning"}
    lines = run.out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"lightning base: {run.folder}", "epoch 1/3", "epoch 2/3", "epoch 3/3", lines[-1],
    ]  # fmt: skip
    assert lines[-1].startswith("lightning base: test accuracy ")
    assert "\r" not in run.out
    scalars = scalars_of(run.folder / "logs" / "tensorboard")
    for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
        assert [value for _, value in scalars[name]] == pytest.approx(
            [row[name] for row in run.metrics], rel=1e-6
        )


def test_a_loss_that_is_not_a_number_is_recorded(trainings):
    run = trainings.forked("nan", "--learning-rate", "1e30")
    assert run.code == 1
    assert run.err.startswith("train_lightning.py: the loss became ")
    assert " in epoch 1, step 2; a smaller --learning-rate may help" in run.err
    assert run.err.count("\n") == 1
    assert run.record.status == "failed"
    assert (run.record.failure["epoch"], run.record.failure["step"]) == (1, 2)


def test_a_gpu_that_is_not_there_is_a_wrong_call(trainings):
    run = trainings.forked("gpu", "--device", "gpu")
    assert run.code == 2
    assert "error: `--device gpu`: torch sees no GPU here; use --device cpu" in run.err
    assert run.err.count("\n") == 1
    assert not run.folder.exists()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
def test_an_interrupt_while_predicting_is_one_too(drawn_data, monkeypatch):
    """Lightning turns it into an exit, after which it ignores Ctrl-C."""

    def interrupt(*_):
        raise KeyboardInterrupt

    recipe, execution = preset("base"), Execution(device="cpu")
    test = prepare(load_dataset(drawn_data), recipe).test
    module = Classifier(recipe)
    assert predict_logits(module, test, recipe, execution).shape == (60, 10)
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(module, "predict_step", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            predict_logits(module, test, recipe, execution)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_damaged_checkpoint_fails_in_one_line(trainings):
    trainings.forked("damaged", fault="kill 1 0")
    checkpoint = trainings.folder / "damaged" / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    for content in (whole[:1000], b"", b"garbage" * 100):
        checkpoint.write_bytes(content)
        run = trainings.forked("damaged", "--resume")
        assert run.code == 1
        assert f"train_lightning.py: cannot go on from {checkpoint}" in run.err
        assert run.err.count("\n") == 1
    checkpoint.write_bytes(whole)
    assert trainings.forked("damaged", "--resume").code == 0
