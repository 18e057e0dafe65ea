"""Following a run in TensorBoard and MLflow, the same from both implementations.

Each hands its epochs' metrics over in its framework's way, a Logger and a Callback. What writes
them, `event_files` and `mlflow_runs`, is imported where it is asked for.
"""

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from pipeline.errors import UsageError
from pipeline.record import EPOCH_METRICS, Layer, Record

EXTRAS = {"tensorboard": "tracking", "mlflow": "mlflow"}
"""The extra of `pyproject.toml` that brings each tracker's package."""
SAMPLES = "samples"


class Tracker(Protocol):
    """One way of following a run."""

    name: str

    def begin(self, record: Record) -> None:
        """Write what is known before the first step, the epochs of a resumed run included."""

    def log_graph(self, layers: Sequence[Layer]) -> None:
        """Write the built network."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch, counted from 1."""

    def end(self, record: Record) -> None:
        """Write what the run came to, by the record's status."""


class Trackers:
    """The trackers of a run. One that fails is left out, with a line, and training goes on."""

    def __init__(self, trackers: Sequence[Tracker], say: Callable[[str], None] = print):
        self._all, self._working, self._say = list(trackers), list(trackers), say

    def begin(self, record: Record) -> None:
        """Tell each that training begins."""
        self._tell(lambda tracker: tracker.begin(record))

    def log_graph(self, layers: Sequence[Layer]) -> None:
        """Give each the built network."""
        self._tell(lambda tracker: tracker.log_graph(layers))

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Give each the epoch's metrics; `epoch` counts from 1, others of `metrics` are dropped."""
        values = {name: float(metrics[name]) for name in EPOCH_METRICS}
        self._tell(lambda tracker: tracker.log_epoch(epoch, values))

    def end(self, record: Record) -> None:
        """Tell each how the run ended, those that failed too: they may work again."""
        for tracker in self._all:
            if tracker not in self._working:
                with contextlib.suppress(Exception):
                    tracker.end(record)
        self._tell(lambda tracker: tracker.end(record))

    def _tell(self, act: Callable[[Tracker], None]) -> None:
        for tracker in list(self._working):
            try:
                act(tracker)
            except Exception as error:  # the trackers' packages raise what they like
                self._working.remove(tracker)
                self._say(f"{tracker.name} tracking has failed, training goes on: {_line(error)}")


def require_loggers(loggers: Sequence[str]) -> None:
    """Check that what each logger needs is installed.

    Raises:
        UsageError: naming the missing extra.
    """
    for name in loggers:
        if name in EXTRAS and find_spec(name) is None:
            raise UsageError(
                f"`--logger {name}` needs the extra `{EXTRAS[name]}`, which is not installed: "
                f"uv pip install -e '.[{EXTRAS[name]}]'"
            )


def start_trackers(
    loggers: Sequence[str], run_dir: Path, record: Record, say: Callable[[str], None]
) -> Trackers:
    """Open the trackers among `loggers`; of a run that goes on, where it left off.

    Raises:
        UsageError: one of them can't be opened.
    """
    trackers: list[Tracker] = []
    if "tensorboard" in loggers:
        from pipeline.event_files import TensorBoardTracker

        trackers.append(TensorBoardTracker(run_dir))
    if "mlflow" in loggers:
        from pipeline.mlflow_runs import MLFLOW_STORE, MlflowTracker

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            trackers.append(MlflowTracker(run_dir, record, uri))
        except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own
            place = "MLFLOW_TRACKING_URI" if uri else f"{run_dir.parent / MLFLOW_STORE}"
            raise UsageError(
                f"`--logger mlflow` cannot use the store {place}: {_line(error)}"
            ) from error
    return Trackers(trackers, say)


def epochs_of(record: Record) -> list[tuple[int, dict[str, float]]]:
    """Return each epoch, from 1, with its metrics; NaN where one was not finite."""
    return [
        (row["epoch"], {n: math.nan if row[n] is None else row[n] for n in EPOCH_METRICS})
        for row in record.history
    ]


def test_metrics(record: Record) -> dict[str, float]:
    """Return the test's metrics under names of their own."""
    return {f"test_{name}": value for name, value in record.test.items()}


def _line(error: Exception) -> str:
    """Return an error in a line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
