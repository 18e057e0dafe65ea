"""Steps that a GPU replays from a CUDA graph; all but the capture is tested without one."""

import contextlib

import lightning as L
import numpy as np
import pytest
import torch

from lightning_impl import captured
from lightning_impl import train as training
from lightning_impl.captured import EAGER_STEPS, Replayed
from lightning_impl.data import batch_loader
from lightning_impl.optimizer import KerasAdam
from pipeline.answers import scratch_journal
from pipeline.batches import evaluation_batches, training_batches
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.preprocess import prepare
from pipeline.recipe import preset
from tests.reference import (
    BETA_1,
    BETA_2,
    EPSILON,
    LEARNING_RATE,
    draw_gradients,
    keras_adam,
    relative_gap,
)

CPU = torch.device("cpu")
# Another kernel of Adam, in float64; measured 4e-16. A frozen rate is 0.14 away.
AGAINST_SINGLE_STEPS = 1e-12
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
lightnings_own = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Trained(L.Callback):
    """Keeps the Trainer, and takes batches of any number of steps."""

    max_steps_per_batch = 1000

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trainer = trainer
        self.num_losses = len(outputs["loss"].reshape(-1))


def trained(folder, data, recipe, execution, more=()):
    """Train; return weights, slots, the history, and the Trainer."""
    folder.mkdir()
    kept = Trained()
    torch.manual_seed(0)
    journal = scratch_journal(recipe, data, str(folder))
    module = training.train(recipe, data, execution, journal, None, [kept, *more])
    slots = kept.trainer.optimizers[0].state_dict()["state"].values()
    arrays = [weight.detach().cpu().numpy() for weight in module.parameters()]
    arrays += [value.cpu().numpy() for slot in slots for value in slot.values()]
    rows = [[row[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")]
            for row in journal.record.history]  # fmt: skip
    return [*arrays, np.array(rows)], kept


def largest_gap(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


@pytest.fixture
def without_capture(monkeypatch):
    """Take the path of a GPU on the CPU, where every step is eager."""
    monkeypatch.setattr(training, "captures", lambda recipe, execution: True)
    monkeypatch.setattr(training, "home_of_the_sets", lambda execution: CPU)


@pytest.mark.parametrize("precision", ["32", "64"])
@pytest.mark.parametrize("batches_of", [training_batches, evaluation_batches])
def test_batches_gathered_on_a_device_are_the_same_bits(drawn_data, precision, batches_of):
    recipe = preset("base", batch_size=7, precision=precision)
    data = prepare(load_dataset(drawn_data), recipe).train
    host, device = (batch_loader(batches_of(data, recipe), 3, home) for home in (None, CPU))
    for epoch in (0, 3):
        host.sampler.set_epoch(epoch)
        device.sampler.set_epoch(epoch)
        pairs = list(zip(host, device, strict=True))
        assert len(pairs) == -(-len(data) // 21)
        for expected, received in pairs:
            for one, other in zip(expected, received, strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_at_a_rate_on_the_device_are_kerass(dtype):
    gradients = draw_gradients(10)
    weights = [torch.zeros(60, dtype=dtype, requires_grad=True)]
    optimizer = KerasAdam(weights, LEARNING_RATE, (BETA_1, BETA_2), EPSILON, fused=True)
    rates = optimizer.advance(4) + optimizer.advance(6)
    for gradient, rate in zip(gradients, rates, strict=True):
        weights[0].grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step_at(torch.tensor(rate, dtype=dtype))
    received = weights[0].detach().double().numpy()
    gap = relative_gap(received, keras_adam(np.zeros(60), gradients))
    assert gap < (1e-13 if dtype == torch.float64 else 1e-5)  # measured 1e-15, 5e-7
    (state,) = optimizer.state_dict()["state"].values()
    assert (state["step"], optimizer.param_groups[0]["num_steps"]) == (10, 10)
    # Any kernel can go on from here.
    weights[0].grad = torch.ones(60, dtype=dtype)
    optimizer.step()
    assert optimizer.state[weights[0]]["step"] == 11


@lightnings_own
@pytest.mark.parametrize("fault", [None, "rate", "order"])
def test_the_path_of_a_gpu_trains_as_single_steps_do(
    drawn_data, tmp_path, without_capture, monkeypatch, fault
):
    """Of batches of 9 an epoch has 18, the last of 7 images."""
    recipe = preset("dropout", batch_size=9, num_epochs=2, precision="64")
    data, execution = prepare(load_dataset(drawn_data), recipe), Execution(device="cpu")
    if fault == "rate":  # as a graph that holds a number has it
        real = KerasAdam.advance
        monkeypatch.setattr(KerasAdam, "advance", lambda self, n: real(self, n)[:1] * n)
    if fault == "order":  # as a counter that stands still has it
        monkeypatch.setattr(captured.CapturedSteps, "take", same_images_each_step)
    several, kept = trained(tmp_path / "several", data, recipe, execution)
    single, other = trained(tmp_path / "single", data, recipe, execution, [L.Callback()])
    assert kept.num_losses == 18
    assert other.num_losses == 1
    assert kept.trainer.global_step == other.trainer.global_step == 36
    assert sorted(path.name for path in (tmp_path / "several" / "checkpoints").iterdir()) == [
        "best.ckpt", "last.ckpt",
    ]  # fmt: skip
    assert (largest_gap(several, single) < AGAINST_SINGLE_STEPS) == (fault is None)


def same_images_each_step(self, batch, rates):
    images, one_hot = batch
    size = self.batch_size
    again = [value[:size].repeat(-(-len(value) // size), *[1] * (value.ndim - 1))[: len(value)]
             for value in (images, one_hot)]  # fmt: skip
    return TAKE(self, tuple(again), rates)


TAKE = captured.CapturedSteps.take


@lightnings_own
@pytest.mark.filterwarnings("ignore:.*exists and is not empty:UserWarning")  # it goes on there
def test_it_goes_on_from_its_checkpoint_with_the_same_bits(drawn_data, tmp_path, without_capture):
    recipe = preset("dropout", batch_size=9, num_epochs=3)
    data, execution = prepare(load_dataset(drawn_data), recipe), Execution(device="cpu")
    whole, _ = trained(tmp_path / "whole", data, recipe, execution)
    folder = tmp_path / "stopped"
    folder.mkdir()
    torch.manual_seed(0)
    journal = scratch_journal(recipe, data, str(folder))
    with pytest.raises(StoppedError):
        training.train(recipe, data, execution, journal, None, [Stop()])
    kept = Trained()
    module = training.train(recipe, data, execution, journal, None, [kept])
    assert len(journal.record.history) == 3
    received = [weight.detach().numpy() for weight in module.parameters()]
    for one, other in zip(whole, received, strict=False):
        assert np.array_equal(one, other)


class StoppedError(Exception):
    pass


class Stop(L.Callback):
    max_steps_per_batch = 1000

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 2:
            raise StoppedError


class FakeGraph:
    """Counts replays; what is captured is called once, and not done."""

    captures, replays = 0, 0

    def replay(self):
        FakeGraph.replays += 1


def test_each_step_is_done_once_before_and_after_the_capture(monkeypatch):
    @contextlib.contextmanager
    def capture(graph, **options):
        FakeGraph.captures += 1
        yield

    class Stream:
        def wait_stream(self, other):
            waits.append(other)

    waits, done = [], []
    monkeypatch.setattr(FakeGraph, "captures", 0)
    monkeypatch.setattr(FakeGraph, "replays", 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    step = Replayed(lambda: done.append(1))
    for count in range(1, 11):
        step()
        eager = len(done) - FakeGraph.captures
        assert eager + FakeGraph.replays == count
    assert (eager, FakeGraph.captures, FakeGraph.replays) == (EAGER_STEPS, 1, 10 - EAGER_STEPS)
    assert len(waits) == 2 * EAGER_STEPS


def test_where_it_is_captured(monkeypatch):
    recipes = {name: preset("base", precision=name) for name in ("32", "bf16", "64")}
    assert not any(training.captures(recipe, Execution()) for recipe in recipes.values())
    assert training.home_of_the_sets(Execution()) is None
    monkeypatch.setattr(training, "accelerator", lambda execution: "gpu")
    found = {name: training.captures(recipe, Execution()) for name, recipe in recipes.items()}
    assert found == {"32": True, "bf16": True, "64": False}
    assert not training.captures(recipes["32"], Execution(plain=True))
    assert training.steps_per_batch(Execution(), [], captured=True) == 250
    assert training.steps_per_batch(Execution(), [L.Callback()], captured=True) == 1


@needs_gpu
@lightnings_own
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_replayed_steps_are_the_eager_ones(drawn_data, tmp_path, monkeypatch, precision):
    recipe = preset("base", batch_size=9, num_epochs=3, precision=precision)
    data, execution = prepare(load_dataset(drawn_data), recipe), Execution(device="gpu")
    replayed, _ = trained(tmp_path / "replayed", data, recipe, execution)
    monkeypatch.setattr(captured, "replayed", lambda work, device: work)
    eager, _ = trained(tmp_path / "eager", data, recipe, execution)
    assert largest_gap(replayed, eager) < (1e-3 if precision == "32" else 3e-2)
