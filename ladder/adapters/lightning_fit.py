"""Watching a fit of Lightning: callbacks that keep its states or end it early."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor
from torchmetrics import Metric

from ladder.arrays import Array


class StopAtStart(L.Callback):
    """End a fit before its first step, once `use` has been given the Trainer and its module."""

    class Reached(Exception):  # noqa: N818
        """The first step would be next."""

    def __init__(self, use: Callable[[L.Trainer, L.LightningModule], None]) -> None:
        self.use = use

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let both be used, and stop."""
        self.use(trainer, pl_module)
        raise self.Reached


class AfterEachStep(L.Callback):
    """Keep the state after each of the first `num_steps` steps, with the step's loss.

    `subject_of` makes a subject of the module that is trained. `Reached` ends the fit.
    """

    class Reached(Exception):  # noqa: N818
        """The last step has been taken."""

    def __init__(self, subject_of: Any, num_steps: int) -> None:
        self.subject_of, self.num_steps = subject_of, num_steps
        self.states: list[dict[str, Array]] = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep a copy of the state."""
        state = self.subject_of(pl_module).state(trainer.optimizers[0])
        loss = np.asarray(loss_of(outputs).item())
        self.states.append({**state, "loss": loss})
        if len(self.states) == self.num_steps:
            raise self.Reached


def loss_of(output: Any) -> Tensor:
    """Return the loss of what a training step returned.

    Raises:
        ValueError: it returned none.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise ValueError(f"a step must return its loss; received {type(output).__name__}")
    return loss


@contextmanager
def muted(module: L.LightningModule) -> Iterator[None]:
    """Let a step log without a Trainer, to nowhere; metrics forget the step."""

    def log(*_: Any, **__: Any) -> None:
        pass

    module.log = module.log_dict = log  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log, module.log_dict
        for metric in module.modules():
            if isinstance(metric, Metric):
                metric.reset()
