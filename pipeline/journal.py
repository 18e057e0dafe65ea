"""The journal of one run: what both implementations measure and save, epoch after epoch."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.environment import peak_memory_bytes, seconds_since_process_start
from pipeline.errors import RunError
from pipeline.network import write_weights
from pipeline.record import (
    BEST_WEIGHTS,
    EPOCH_METRICS,
    LAST_WEIGHTS,
    VALIDATION_SECONDS,
    Layer,
    Record,
    series,
    write_layers,
    write_record,
)

if TYPE_CHECKING:
    from pipeline.tracking import Trackers

Weights = dict[str, np.ndarray[Any, Any]]


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite in a training step, or in one of several up to `step`."""

    def __init__(self, epoch: int, step: int, loss: float, num_steps: int = 1) -> None:
        self.epoch, self.step = epoch, step
        steps, hint = f"step {step}", ""
        if num_steps > 1:
            steps, hint = (
                f"steps {step - num_steps + 1} to {step}",
                " (a new run with --plain tells which)",
            )
        super().__init__(
            f"the loss became {loss} in epoch {epoch}, {steps}{hint}; "
            "a smaller --learning-rate may help"
        )


class Startup:
    """The phases from a process's start until its first step, and what each takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Note that a phase has ended; it began when the one before ended."""
        self.seconds[f"{phase}_seconds"] = seconds_since_process_start() - self.total_seconds

    @property
    def total_seconds(self) -> float:
        """Seconds of all phases that have ended."""
        return sum(self.seconds.values())


class Journal:
    """Follows a training run; both implementations call it from their own callbacks.

    Epochs count from 0 in its methods, as in both frameworks, and from 1 in the record. Of several
    processes that train together, one alone `writes`.
    """

    def __init__(
        self,
        run_dir: Path,
        record: Record,
        num_images: int,
        say: Callable[[str], None],
        startup: Startup | None = None,
        writes: bool = True,
    ):
        self.run_dir = run_dir
        self.startup = startup or Startup()
        self.record = record
        self.writes = writes
        self.trackers: Trackers | None = None
        self._num_images = num_images
        self._say = say

    def resume_at(self, epoch: int) -> None:
        """Forget the rows of `epoch` and later, which will be trained again.

        Raises:
            RunError: the record holds fewer epochs than the checkpoint that goes on from `epoch`.
        """
        if self.epochs_done < epoch:
            raise RunError(
                f"cannot resume: the checkpoint has seen {epoch} epochs, "
                f"the record {self.epochs_done}"
            )
        self.record = replace(self.record, history=self.record.history[:epoch])

    @property
    def has_begun(self) -> bool:
        """Whether everything is built, and a checkpoint taken up."""
        return "build_seconds" in self.startup.seconds

    @property
    def epochs_done(self) -> int:
        """Whole epochs in the record."""
        return len(self.record.history)

    @property
    def best_val_loss(self) -> float | None:
        """The lowest validation loss so far; None before the first epoch."""
        return min(series(self.record, "val_loss"), default=None)

    def begin_training(self, layers: Sequence[Layer]) -> None:
        """Note that the network of `layers` is built and the first step is about to be taken."""
        if self.writes:
            write_layers(self.run_dir, layers)
        if self.trackers:
            self.trackers.begin(self.record)
        self._began = time.perf_counter()
        self.startup.end("build")
        timing = {**self.startup.seconds, "startup_seconds": self.startup.total_seconds}
        num_parameters = sum(layer.parameters for layer in layers)
        self._update(parameters=num_parameters, timing={**self.record.timing, **timing})

    def begin_epoch(self) -> None:
        """Start the clock of an epoch."""
        self._epoch_began = time.perf_counter()
        self._steps_done = 0
        self._validation_seconds = 0.0
        self._ended: float | None = None

    def end_step(self, epoch: int, step: int, loss: float) -> None:
        """Note a finished training step (from 0) and its loss.

        Where several were taken since the last call, it is the last of them.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
        """
        num_steps = step + 1 - self._steps_done
        self._steps_done = step + 1
        if "first_step_seconds" not in self.record.timing:
            self.record.timing["first_step_seconds"] = time.perf_counter() - self._began
            self.record.timing["first_call_steps"] = num_steps
        if not math.isfinite(loss):
            raise NonFiniteLossError(epoch + 1, step + 1, loss, num_steps)

    def begin_validation(self) -> None:
        """Start the clock of an epoch's validation."""
        self._validation_began = time.perf_counter()

    def end_validation(self) -> None:
        """Stop both clocks: the epoch's metrics are there, and what is saved of it comes after."""
        self._ended = time.perf_counter()
        self._validation_seconds = self._ended - self._validation_began

    def end_epoch(self, epoch: int, metrics: dict[str, float], weights: Weights) -> None:
        """Write the record with the epoch's row, and the last and best canonical weights.

        The best weights are those with the lowest validation loss.
        """
        seconds = (self._ended or time.perf_counter()) - self._epoch_began
        best_before = self.best_val_loss
        row = {"epoch": epoch + 1, **{name: float(metrics[name]) for name in EPOCH_METRICS}}
        spent = {"seconds": seconds, VALIDATION_SECONDS: self._validation_seconds}
        self._update(history=[*self.record.history, {**row, **spent}])
        if not self.writes:
            return
        write_weights(self.run_dir / LAST_WEIGHTS, weights)
        if best_before is None or row["val_loss"] < best_before:
            write_weights(self.run_dir / BEST_WEIGHTS, weights)
        total = self.record.recipe["num_epochs"]
        measured = "  ".join(f"{name} {row[name]:.4f}" for name in EPOCH_METRICS)
        self._say(f"epoch {epoch + 1}/{total}  {measured}  {seconds:.1f} s")

    def end_training(self) -> None:
        """Work out the run's timing once its last epoch is done."""
        seconds = series(self.record, "seconds")
        timing = {
            **self.record.timing,
            "train_seconds": sum(seconds),
            "images_per_second": self._num_images / statistics.median(seconds),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if all(VALIDATION_SECONDS in row for row in self.record.history):
            timing[VALIDATION_SECONDS] = sum(series(self.record, VALIDATION_SECONDS))
        self._update(timing=timing)

    def complete(self, test: dict[str, float]) -> None:
        """Write the finished record with the test's loss and accuracy.

        Raises:
            RunError: fewer epochs were trained than the recipe asks for.
        """
        if self.epochs_done != self.record.recipe["num_epochs"]:
            raise RunError(
                f"training ended after {self.epochs_done} of "
                f"{self.record.recipe['num_epochs']} epochs"
            )
        self._update(status="complete", test=test, failure=None)

    def fail(self, status: str, error: BaseException) -> None:
        """Write down why the run ended early."""
        failure: dict[str, Any] = {"reason": str(error) or type(error).__name__}
        if isinstance(error, NonFiniteLossError):
            failure |= {"epoch": error.epoch, "step": error.step}
        with contextlib.suppress(OSError):  # full or gone: what ended the run is what to tell
            self._update(status=status, failure=failure)

    def _update(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes)
        if self.writes:
            write_record(self.run_dir, self.record)
