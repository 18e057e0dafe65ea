"""Whole trainings of the Lightning implementation on drawn data."""

import io
import os
import pickle
import signal
import zipfile

import lightning as L
import numpy as np
import pytest
import torch

from lightning_impl import train as training
from lightning_impl.model import Classifier
from lightning_impl.train import predict_logits
from lightning_impl.transfer import read_state
from pipeline.answers import scratch_journal
from pipeline.datasets import load_dataset
from pipeline.errors import Terminated
from pipeline.execution import Execution
from pipeline.preprocess import prepare
from pipeline.recipe import preset
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
from tests.training import check_more_epochs, without_seconds

# The fast path takes LeakyReLU after the pool, and layouts and kernels that add up in another
# order: float64's rounding over nine steps; measured 4e-16.
FAST_AGAINST_PLAIN = 1e-12


@pytest.mark.parametrize("batch_size", ["4", pytest.param("64", marks=pytest.mark.slow)])
def test_more_epochs_end_with_the_bits_of_as_many_at_once(trainings, batch_size):
    """Of batches of 4 an epoch has 40: 25 in one call and the rest in another."""
    check_more_epochs(trainings, "--variant", "dropout", "--batch-size", batch_size)


@pytest.mark.parametrize(
    "flags",
    [
        ("--deterministic",),
        pytest.param(("--precision", "bf16"), marks=pytest.mark.slow),
        pytest.param(("--precision", "64", "--plain"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_the_same_command_twice_gives_the_same_bits(trainings, flags):
    check_the_same_bits_again(trainings, flags)


def metrics_of(run):
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return np.array([[row[name] for name in names] for row in run.record.history])


@pytest.mark.parametrize("variant", ["base", "dropout"])
def test_the_fast_path_trains_as_the_plain_one(trainings, variant):
    flags = ("--variant", variant, "--precision", "64")
    fast, plain = (metrics_of(trainings.once(*flags, *more)) for more in ([], ["--plain"]))
    assert np.abs(fast - plain).max() < FAST_AGAINST_PLAIN


class Trained(L.Callback):
    """Keeps the Trainer, and what it was handed; sees batches of any number of steps."""

    max_steps_per_batch = 1000

    def __init__(self):
        self.sizes = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trainer = trainer
        self.sizes.append(len(batch[0]))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
@pytest.mark.parametrize(
    "precision", ["32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("64", "bf16"))]
)
def test_several_steps_in_a_batch_end_with_the_bits_of_single_ones(drawn_data, tmp_path, precision):
    """Of batches of 4 an epoch has 40: 25 and the rest."""
    recipe = preset("dropout", batch_size=4, num_epochs=2, precision=precision)
    data, execution = prepare(load_dataset(drawn_data), recipe), Execution(device="cpu")
    found = []
    for name, callbacks in (("several", []), ("single", [L.Callback()])):
        kept, folder = Trained(), tmp_path / name
        folder.mkdir()
        torch.manual_seed(0)
        journal = scratch_journal(recipe, data, str(folder))
        module = training.train(recipe, data, execution, journal, None, [kept, *callbacks])
        optimizer = kept.trainer.optimizers[0].state_dict()
        states = [value.numpy().tobytes() for slots in optimizer["state"].values()
                  for value in slots.values()]  # fmt: skip
        weights = [weight.detach().numpy().tobytes() for weight in module.parameters()]
        history = without_seconds(journal.record.history)
        saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
        found.append((weights, states, optimizer["param_groups"], history, saved,
                      kept.trainer.global_step))  # fmt: skip
        assert kept.sizes == ([100, 60] * 2 if name == "several" else [4] * 80)
    assert found[0] == found[1]
    assert found[0][4:] == (["best.ckpt", "last.ckpt"], 80)


def test_a_loss_that_is_not_a_number_is_recorded(trainings):
    check_a_loss_that_is_not_a_number(trainings, "nan", [], "step 2", 2)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
@pytest.mark.parametrize("where", ["setup", "predict_step", "teardown"])
def test_an_interrupt_while_predicting_is_one_too(drawn_data, monkeypatch, where, error):
    """Lightning turns it into an exit, after which it ignores Ctrl-C."""

    def interrupt(*_, **__):
        raise error

    recipe, execution = preset("base"), Execution(device="cpu")
    test = prepare(load_dataset(drawn_data), recipe).test
    module = Classifier(recipe)
    assert predict_logits(module, test, recipe, execution).shape == (60, 10)
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(module, where, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            predict_logits(module, test, recipe, execution)
        assert caught.type is error
    finally:
        signal.signal(signal.SIGINT, handler)


class Evil:
    """What runs a command where it is unpickled."""

    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return os.system, (f"touch {self.sign}",)


def packed_by_torch(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def bomb():
    """Return a zip like torch's that unpacks to 300 MB of zeros."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(300 << 20))
    return content.getvalue()


def test_a_damaged_or_hostile_checkpoint_fails_in_one_line_and_runs_nothing(trainings, tmp_path):
    trainings.forked("damaged", fault="kill 1 0")
    folder, sign = trainings.folder / "damaged", tmp_path / "ran"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    shapes = {name: torch.zeros(1) for name in saved["state_dict"]}
    code = packed_by_torch({**saved, "state_dict": Evil(sign)})
    changed = ({"state_dict": {}}, {"state_dict": shapes}, {"optimizer_states": []})
    unreadable = [code, pickle.dumps(Evil(sign)), bomb(), packed_by_torch({}), packed_by_torch([1])]
    unreadable += [packed_by_torch({**saved, **change}) for change in changed]
    for_lightning_alone = packed_by_torch({**saved, "loops": {}})
    check_damaged_checkpoints(trainings, checkpoint, [*unreadable, for_lightning_alone])
    for content in unreadable:
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match="cannot read"):
            read_state(folder, preset("base"))
    assert not sign.exists()
    # The twin: what is refused would have run.
    torch.load(io.BytesIO(code), weights_only=False)
    assert sign.exists()
