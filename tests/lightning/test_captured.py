"""Steps that a GPU replays from a CUDA graph; all but the capture is tested without one."""

import contextlib
import gc
import itertools

import lightning as L
import numpy as np
import pytest
import torch

from lightning_impl import captured
from lightning_impl import optimizer as optimizer_module
from lightning_impl import train as training
from lightning_impl.captured import EAGER_STEPS, Replayed
from lightning_impl.data import batch_loader
from lightning_impl.optimizer import KerasAdam
from pipeline.answers import scratch_journal
from pipeline.batches import evaluation_batches, training_batches
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.network import shared_first_weights
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
lightnings_own = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Trained(L.Callback):
    """Keeps the Trainer, and takes batches of any number of steps."""

    max_steps_per_batch = 1000

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trainer = trainer
        self.num_losses = len(outputs["loss"].reshape(-1))


def trained(folder, data, recipe, execution, more=(), weights=None):
    """Train; return weights, slots, the history, and the Trainer."""
    folder.mkdir()
    kept = Trained()
    torch.manual_seed(0)
    journal = scratch_journal(recipe, data, str(folder))
    module = training.train(recipe, data, execution, journal, weights, [kept, *more])
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


@pytest.mark.parametrize(
    ("device", "dtype", "beta_2", "allowed"),
    [
        ("cpu", torch.float64, BETA_2, 1e-13),  # measured 1e-15
        ("cpu", torch.float64, 0.999999, 1e-9),
        ("cpu", torch.float64, 0.9999999, 1e-9),  # the momentum's own rounding grows near 1: 4e-10
        ("cpu", torch.float32, BETA_2, 1e-5),  # measured 5e-7
        pytest.param("cuda", torch.float32, BETA_2, 1e-3, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.float32, 0.9999999, 1e-3, marks=pytest.mark.gpu),
    ],
)
def test_steps_at_a_rate_on_the_device_are_kerass(device, dtype, beta_2, allowed):
    gradients = draw_gradients(10)
    weights = [torch.zeros(60, dtype=dtype, device=device, requires_grad=True)]
    optimizer = KerasAdam(weights, LEARNING_RATE, (BETA_1, beta_2), EPSILON, fused=True)
    rates = optimizer.advance(4) + optimizer.advance(6)
    for gradient, rate in zip(gradients, rates, strict=True):
        weights[0].grad = torch.tensor(gradient, dtype=dtype, device=device)
        optimizer.step_at(torch.tensor(rate, dtype=dtype, device=device))
    received = weights[0].detach().cpu().double().numpy()
    assert relative_gap(received, keras_adam(np.zeros(60), gradients, beta_2=beta_2)) < allowed
    (state,) = optimizer.state_dict()["state"].values()
    assert (state["step"], optimizer.param_groups[0]["num_steps"]) == (10, 10)
    # Any kernel can go on from here.
    weights[0].grad = torch.ones(60, dtype=dtype, device=device)
    optimizer.step()
    assert optimizer.state[weights[0]]["step"] == 11


@pytest.mark.parametrize("beta_2", [0.999999, 0.9999999])
def test_a_count_at_which_the_corrections_are_not_yet_1_is_seen(monkeypatch, beta_2):
    monkeypatch.setattr(optimizer_module, "SETTLED", 2.0**24)
    gradients = draw_gradients(3)
    weights = [torch.zeros(60, dtype=torch.float64, requires_grad=True)]
    optimizer = KerasAdam(weights, LEARNING_RATE, (BETA_1, beta_2), EPSILON, fused=True)
    for gradient, rate in zip(gradients, optimizer.advance(3), strict=True):
        weights[0].grad = torch.tensor(gradient)
        optimizer.step_at(torch.tensor(rate, dtype=torch.float64))
    expected = keras_adam(np.zeros(60), gradients, beta_2=beta_2)
    assert relative_gap(weights[0].detach().numpy(), expected) > 1e-9  # measured 2.6e-8 and 0.1


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
    assert kept.trainer.lightning_module.captured_training is None  # its memory is free again
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
@pytest.mark.parametrize(
    ("device", "allowed"),
    # cuDNN's gradients of kernels are not the same bits twice.
    [("cpu", 0), pytest.param("gpu", 1e-3, marks=pytest.mark.gpu)],
)
def test_it_goes_on_from_its_checkpoint(drawn_data, tmp_path, request, device, allowed):
    if device == "cpu":
        request.getfixturevalue("without_capture")
    recipe = preset("dropout", batch_size=9, num_epochs=3)
    data, execution = prepare(load_dataset(drawn_data), recipe), Execution(device=device)
    whole, _ = trained(tmp_path / "whole", data, recipe, execution)
    folder = tmp_path / "stopped"
    folder.mkdir()
    torch.manual_seed(0)
    journal = scratch_journal(recipe, data, str(folder))
    with pytest.raises(StoppedError):
        training.train(recipe, data, execution, journal, None, [Stop()])
    module = training.train(recipe, data, execution, journal, None, [Trained()])
    assert len(journal.record.history) == 3
    received = [weight.detach().cpu().numpy() for weight in module.parameters()]
    assert largest_gap(whole[: len(received)], received) <= allowed


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


class FakeStream:
    waits = 0

    def wait_stream(self, other):
        FakeStream.waits += 1


@contextlib.contextmanager
def fake_capture(graph, **options):
    """As CUDA's: what breaks off a capture makes its end raise another error."""
    FakeGraph.captures += 1
    try:
        yield
    except Exception:
        raise RuntimeError("operation failed due to a previous error during capture") from None


@pytest.fixture
def fake_cuda(monkeypatch):
    for kind, name in ((FakeGraph, "captures"), (FakeGraph, "replays"), (FakeStream, "waits")):
        monkeypatch.setattr(kind, name, 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", fake_capture)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())


def test_each_step_is_done_once_before_and_after_the_capture(fake_cuda):
    done, collects = [], []

    def work():
        done.append(1)
        collects.append(gc.isenabled())

    step = Replayed(work)
    for count in range(1, 11):
        step()
        eager = len(done) - FakeGraph.captures
        assert eager + FakeGraph.replays == count
    assert (eager, FakeGraph.captures, FakeGraph.replays) == (EAGER_STEPS, 1, 10 - EAGER_STEPS)
    assert FakeStream.waits == 2 * EAGER_STEPS
    # Freed in a capture, a CUDA object breaks it off.
    assert collects == [True] * EAGER_STEPS + [False]
    assert gc.isenabled()


def test_where_no_graph_can_be_captured_steps_go_on_and_the_cause_is_said(fake_cuda):
    done = []

    def work():
        if FakeGraph.captures and not done[-1]:
            done[-1] = True  # the call that is captured
            raise ValueError("this kernel\ncopies to the host")
        done.append(FakeGraph.captures > 0)

    step = Replayed(work)
    for _ in range(EAGER_STEPS):
        step()
    words = "steps are taken one by one: .*: this kernel copies to the host"
    with pytest.warns(UserWarning, match=words):
        step()
    for _ in range(3):
        step()
    assert len(done) == EAGER_STEPS + 4
    assert (FakeGraph.captures, FakeGraph.replays) == (1, 0)
    assert gc.isenabled()


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


@pytest.mark.gpu
@lightnings_own
@pytest.mark.parametrize("variant", ["base", "dropout"])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_replayed_steps_are_the_eager_ones(drawn_data, tmp_path, monkeypatch, variant, precision):
    """The same masks too: each replay goes on in the generator as an eager step does."""
    recipe = preset(variant, batch_size=9, num_epochs=3, precision=precision)
    data, execution = prepare(load_dataset(drawn_data), recipe), Execution(device="gpu")
    graphs = []
    real = Replayed._capture
    monkeypatch.setattr(Replayed, "_capture", lambda self: graphs.append(real(self)) or graphs[-1])
    replayed, _ = trained(tmp_path / "replayed", data, recipe, execution)
    assert len(graphs) == 2  # training and validation
    assert all(graphs)
    monkeypatch.setattr(captured, "replayed", lambda work, device: work)
    eager, _ = trained(tmp_path / "eager", data, recipe, execution)
    assert largest_gap(replayed, eager) < (1e-3 if precision == "32" else 3e-2)


@pytest.mark.gpu
@lightnings_own
@pytest.mark.parametrize(
    ("batch_size", "precision", "allowed"),
    [(9, "32", 1e-3), (64, "32", 1e-3), (100, "32", 1e-3), (200, "32", 1e-3), (9, "64", 1e-10)],
)
def test_a_gpu_trains_as_the_cpu_does(drawn_data, tmp_path, batch_size, precision, allowed):
    """Eighteen steps an epoch, three, two (fewer than are eager), and one that is not full."""
    num_epochs = 3 if precision == "32" else 2
    recipe = preset("base", batch_size=batch_size, num_epochs=num_epochs, precision=precision)
    data = prepare(load_dataset(drawn_data), recipe)
    first = shared_first_weights(recipe)
    on_gpu, on_cpu = (
        trained(tmp_path / device, data, recipe, Execution(device=device), weights=first)[0]
        for device in ("gpu", "cpu")
    )
    assert largest_gap(on_gpu, on_cpu) < allowed


@pytest.mark.gpu
def test_two_replays_draw_two_masks():
    ones, out = torch.ones(1000, device="cuda"), torch.zeros(1000, device="cuda")
    step = Replayed(lambda: out.copy_(torch.nn.functional.dropout(ones)))
    masks = []
    for _ in range(EAGER_STEPS + 3):
        step()
        masks.append(out.cpu())
    assert step.graph is not None
    for one, other in itertools.combinations(masks, 2):
        assert not torch.equal(one, other)


@pytest.mark.gpu
def test_a_replay_does_not_wait_for_the_gpu():
    numbers = torch.ones(1000, device="cuda")
    step = Replayed(lambda: numbers.mul_(1.5))
    for _ in range(EAGER_STEPS + 1):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:steps are taken one by one")
def test_where_a_gpu_can_capture_nothing_steps_go_on():
    numbers = torch.ones(4, device="cuda")

    def work():
        numbers.add_(1)
        numbers.sum().item()  # waits for the GPU, which no graph holds

    step = Replayed(work)
    for _ in range(EAGER_STEPS + 3):
        step()
    assert step.graph is None
    assert numbers.tolist() == [1 + EAGER_STEPS + 3] * 4
