"""The fast path on an NVIDIA GPU: a step is captured once as a CUDA graph, then replayed.

A step of this network is some fifty kernels of a few microseconds each, which is less than Python
takes to launch them. A graph launches all of them at once; what it reads and writes stays at the
same addresses, so each step finds its own part of a batch by a counter on the device.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from lightning_impl.fast import Batch
from lightning_impl.optimizer import KerasAdam

Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of images (B, 1, H, W), classes (B,) and a learning rate (): the loss () and logits."""
EAGER_STEPS = 3
"""Steps before the capture, in which libraries choose kernels and take their workspaces."""


@dataclass
class Outcome:
    """What steps of one size gave."""

    losses: Tensor
    """Mean loss of each step (steps,)."""
    predicted: Tensor
    """The class of the highest logit of each image (images,)."""
    classes: Tensor
    """The class of each image (images,)."""


class CapturedSteps:
    """Takes a Trainer's batch step by step: full ones from a graph, a last smaller one eagerly.

    Without a CUDA device every step is eager; all but the capture is then the same.
    """

    def __init__(self, step: Step, batch_size: int) -> None:
        self.step, self.batch_size = step, batch_size
        self.capacity = 0

    def take(self, batch: Batch, rates: Sequence[float]) -> list[Outcome]:
        """Take a step for each `batch_size` of the batch, at its rate; return what they gave."""
        images, one_hot = batch
        classes = one_hot.argmax(dim=1)
        num_full = len(images) // self.batch_size
        self._make_room(num_full, images)
        used = num_full * self.batch_size
        outcomes = []
        if num_full:
            self.images[:num_full].copy_(images[:used].view(num_full, *self.images.shape[1:]))
            self.classes[:num_full].copy_(classes[:used].view(num_full, -1))
            self.rates[:num_full].copy_(torch.tensor(rates[:num_full], dtype=images.dtype))
            self.index.zero_()
            for _ in range(num_full):
                self.replay()
            losses, predicted = self.losses[:num_full].clone(), self.predicted[:num_full].flatten()
            outcomes.append(Outcome(losses, predicted.clone(), classes[:used]))
        if used < len(images):
            rate = torch.tensor(rates[-1], dtype=images.dtype, device=images.device)
            loss, logits = self.step(images[used:], classes[used:], rate)
            predicted = logits.detach().argmax(dim=1)
            outcomes.append(Outcome(loss.detach()[None], predicted, classes[used:]))
        return outcomes

    def _make_room(self, num_full: int, images: Tensor) -> None:
        """Allocate what the graph reads and writes; a larger batch needs another graph."""
        if num_full <= self.capacity:
            return
        self.capacity = num_full
        size = (num_full, self.batch_size)
        self.images = images.new_empty((*size, *images.shape[1:]))
        self.classes = images.new_empty(size, dtype=torch.int64)
        self.rates = images.new_empty(num_full)
        self.losses = images.new_empty(num_full)
        self.predicted = torch.empty_like(self.classes)
        self.index = torch.zeros(1, dtype=torch.int64, device=images.device)
        self.replay = replayed(self._take_one, images.device)

    def _take_one(self) -> None:
        index = self.index
        images, classes, rate = (
            values.index_select(0, index)[0] for values in (self.images, self.classes, self.rates)
        )
        loss, logits = self.step(images, classes, rate)
        self.losses.index_copy_(0, index, loss.detach().to(self.losses.dtype)[None])
        self.predicted.index_copy_(0, index, logits.detach().argmax(dim=1)[None])
        index.add_(1)


class Replayed:
    """`work`, the same each time: called at first, then captured as a CUDA graph and replayed.

    Where it cannot be captured, a warning says why and it goes on being called.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.num_calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self) -> None:
        """Do the work once."""
        self.num_calls += 1
        if self.num_calls == EAGER_STEPS + 1:
            self.graph = self._capture()
        if self.graph is None:
            # On the stream that captures: autograd runs each backward where its forward ran.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.work()
            torch.cuda.current_stream().wait_stream(self.stream)
        else:
            self.graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """Return the work as a graph, without doing it; None where it cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        cause: Exception | None = None
        try:
            with (
                _without_collecting(),
                torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
            ):
                try:
                    self.work()
                except Exception as error:
                    cause = error  # leaving the block then raises another error, of no use
                    raise
        except Exception as error:  # whatever a kernel or a library raises
            reason = " ".join(str(cause or error).split())[:300]
            rank_zero_warn(f"steps are taken one by one: no CUDA graph could be captured: {reason}")
            return None
        return graph


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep Python's collector from freeing CUDA objects, which would break a capture off."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def replayed(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return `work`, replayed from a graph where `device` can."""
    return Replayed(work) if device.type == "cuda" else work


class CapturedTraining(CapturedSteps):
    """Training steps of a module in manual optimization, counted as Lightning counts its own."""

    def __init__(self, module: L.LightningModule, batch_size: int) -> None:
        super().__init__(self._train, batch_size)
        self.module = module
        wrapper = module.optimizers()
        assert isinstance(wrapper, LightningOptimizer)
        assert isinstance(wrapper.optimizer, KerasAdam)
        self.optimizer = wrapper.optimizer

    def train(self, batch: Batch, mean_loss: Metric, accuracy: Metric) -> Tensor:
        """Take a step for each `batch_size` of the batch; return their losses (steps,)."""
        num_steps = -(-len(batch[0]) // self.batch_size)
        outcomes = self.take(batch, self.optimizer.advance(num_steps))
        # A step from a graph passes Lightning's own wrapper by, and `global_step`, by which
        # ModelCheckpoint knows that there is something to save, would stay 0.
        progress = self.module.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for _ in range(num_steps):
            progress.increment_ready()
            progress.increment_completed()
        return _measured(outcomes, mean_loss, accuracy)

    def _train(self, images: Tensor, classes: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.module(images)
        loss = functional.cross_entropy(logits, classes)
        self.optimizer.zero_grad()
        self.module.manual_backward(loss)
        self.optimizer.step_at(rate)
        return loss, logits


class CapturedEvaluation(CapturedSteps):
    """Evaluation steps of a module; they have no learning rate."""

    def __init__(self, module: L.LightningModule, batch_size: int) -> None:
        super().__init__(self._evaluate, batch_size)
        self.module = module

    def evaluate(self, batch: Batch, mean_loss: Metric, accuracy: Metric) -> Tensor:
        """Take a step for each `batch_size` of the batch; return their losses (steps,)."""
        outcomes = self.take(batch, [0.0] * -(-len(batch[0]) // self.batch_size))
        return _measured(outcomes, mean_loss, accuracy)

    def _evaluate(self, images: Tensor, classes: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.module(images)
        return functional.cross_entropy(logits, classes), logits


def _measured(outcomes: list[Outcome], mean_loss: Metric, accuracy: Metric) -> Tensor:
    """Hand on what captured steps gave; return their losses (steps,).

    Outside the graph: a metric's reset makes new tensors, and a graph writes to the old ones.
    """
    for outcome in outcomes:
        mean_loss.update(outcome.losses.double().mean(), len(outcome.classes))
        accuracy.update(outcome.predicted, outcome.classes)
    return torch.cat([outcome.losses for outcome in outcomes])
