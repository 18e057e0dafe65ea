"""Following a run in TensorBoard and MLflow, the same from both implementations.

Each hands its epochs' metrics over in its framework's way, a Logger and a Callback; nothing here
is imported from either tracker unless it was asked for.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock

from ladder.files import write_text
from pipeline.errors import UsageError
from pipeline.event_files import EventFile
from pipeline.recipe import shortest
from pipeline.record import (
    BEST_WEIGHTS,
    EPOCH_METRICS,
    HISTORY,
    LAST_WEIGHTS,
    LAYERS,
    PLOTS,
    RECIPE,
    RECORD,
    REPORT,
    Layer,
    Record,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXTRAS = {"tensorboard": "tracking", "mlflow": "mlflow"}
"""The extra of `pyproject.toml` that brings each tracker's package."""
TENSORBOARD_FOLDER = Path("logs", "tensorboard")
EXPERIMENT = "keras-lightning-parity"
MLFLOW_RUN = "mlflow-run.txt"
MLFLOW_STORE, MLFLOW_ARTIFACTS = "mlflow.db", "mlflow-artifacts"
MLFLOW_STATUSES = {"complete": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# Nothing is reported to anybody, no git repository is looked for, and a server that does not
# answer costs seconds; MLflow itself retries for minutes.
MLFLOW_VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
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

    def __init__(self, trackers: Sequence[Tracker] = (), say: Callable[[str], None] = print):
        self._all, self._working, self._say = list(trackers), list(trackers), say

    def __bool__(self) -> bool:
        return bool(self._all)

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
    loggers: Sequence[str],
    run_dir: Path,
    record: Record,
    say: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> Trackers:
    """Open the trackers among `loggers`; of a run that goes on, where it left off.

    Raises:
        UsageError: one of them can't be opened.
    """
    trackers: list[Tracker] = []
    if "tensorboard" in loggers:
        trackers.append(TensorBoardTracker(run_dir))
    if "mlflow" in loggers:
        uri = environ.get("MLFLOW_TRACKING_URI")
        try:
            trackers.append(MlflowTracker(run_dir, record, uri))
        except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own
            place = "MLFLOW_TRACKING_URI" if uri else f"{run_dir.parent / MLFLOW_STORE}"
            raise UsageError(
                f"`--logger mlflow` cannot use the store {place}: {_line(error)}"
            ) from error
    return Trackers(trackers, say)


class TensorBoardTracker:
    """Event files in the run's folder; tags are the columns of `history.csv`, steps its epochs."""

    name = "tensorboard"

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.events = EventFile(run_dir / TENSORBOARD_FOLDER)

    def begin(self, record: Record) -> None:
        """Write the sample images at step 0, and the epochs of a resumed run."""
        self.events.write_picture(0, SAMPLES, self.run_dir / PLOTS / f"{SAMPLES}.png")
        for epoch, metrics in epochs_of(record):
            self.log_epoch(epoch, metrics)

    def log_graph(self, layers: Sequence[Layer]) -> None:
        """Write the graph."""
        self.events.write_graph(layers)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the scalars."""
        self.events.write_scalars(epoch, metrics)

    def end(self, record: Record) -> None:
        """Write the test's metrics and the run's pictures at the step of the last epoch."""
        if record.status == "complete":
            step = len(record.history)
            self.events.write_scalars(step, test_metrics(record))
            for path in sorted((self.run_dir / PLOTS).glob("*.png")):
                if path.stem != SAMPLES:
                    self.events.write_picture(step, path.stem, path)
        self.events.close()


class MlflowTracker:
    """A run in MLflow, in one experiment for all engines.

    Without a `uri` of the caller's, the store is an SQLite file beside the run's folder. The run's
    id is kept in the run's folder, so that a resumed run goes on in it.
    """

    name = "mlflow"

    def __init__(self, run_dir: Path, record: Record, uri: str | None) -> None:
        for name, value in MLFLOW_VARIABLES.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self.run_dir = run_dir
        folder = run_dir.absolute().parent
        if uri is None:
            require_sqlite(folder / MLFLOW_STORE)
            # Two runs that start at once would both make the store's tables.
            with FileLock(folder / f"{MLFLOW_STORE}.lock"):
                self.client = MlflowClient(f"sqlite:///{folder / MLFLOW_STORE}")
                experiment = experiment_id(self.client, (folder / MLFLOW_ARTIFACTS).as_uri())
        else:
            self.client = MlflowClient(uri)
            experiment = experiment_id(self.client, None)
        self.run_id = self._earlier_run(record) or self._new_run(experiment, record)
        self._logged = {
            (name, metric.step)
            for name in self.client.get_run(self.run_id).data.metrics
            for metric in self.client.get_metric_history(self.run_id, name)
        }

    def begin(self, record: Record) -> None:
        """Write the recipe as parameters, tags, and the epochs of a resumed run."""
        from mlflow.entities import Param, RunTag

        parameters = [Param(name, str(shortest(value))) for name, value in record.recipe.items()]
        tags = [RunTag(name, value) for name, value in tags_of(record).items()]
        self.client.log_batch(self.run_id, params=parameters, tags=tags)
        for epoch, metrics in epochs_of(record):
            self.log_epoch(epoch, metrics)

    def log_graph(self, layers: Sequence[Layer]) -> None:
        """Do nothing: MLflow shows no graphs."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics that this step has not yet; MLflow keeps each that it is given."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        new = {name: value for name, value in metrics.items() if (name, epoch) not in self._logged}
        entries = [Metric(name, value, now_ms, epoch) for name, value in new.items()]
        self.client.log_batch(self.run_id, metrics=entries)
        self._logged |= {(name, epoch) for name in new}

    def end(self, record: Record) -> None:
        """Write what the run came to, its files as artifacts, and its status."""
        try:
            if record.status == "complete":
                self.log_epoch(len(record.history), {**test_metrics(record), **record.timing})
            elif record.failure is not None:
                self.client.set_tag(self.run_id, "failure", record.failure["reason"])
            for name in (RECORD, RECIPE, HISTORY, LAYERS, REPORT, LAST_WEIGHTS, BEST_WEIGHTS):
                if (self.run_dir / name).exists():
                    self.client.log_artifact(self.run_id, str(self.run_dir / name))
            if (self.run_dir / PLOTS).is_dir():
                self.client.log_artifacts(self.run_id, str(self.run_dir / PLOTS), PLOTS)
        finally:
            self.client.set_terminated(self.run_id, MLFLOW_STATUSES.get(record.status, "KILLED"))

    def _earlier_run(self, record: Record) -> str | None:
        """Return the run that this folder's run has in the store, if it has one, and reopen it.

        One of fewer epochs stays as it is: MLflow lets nobody change a parameter.
        """
        from mlflow.exceptions import MlflowException

        path = self.run_dir / MLFLOW_RUN
        try:
            run = self.client.get_run(path.read_text().strip())
        except (OSError, ValueError, MlflowException):  # none, not text, or of another store
            return None
        num_epochs = str(record.recipe["num_epochs"])
        is_other = run.data.params.get("num_epochs", num_epochs) != num_epochs
        if run.info.lifecycle_stage != "active" or is_other:
            return None
        self.client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def _new_run(self, experiment: str, record: Record) -> str:
        name = self.run_dir.absolute().name
        run_id = str(self.client.create_run(experiment, run_name=name).info.run_id)
        write_text(self.run_dir / MLFLOW_RUN, f"{run_id}\n")
        return run_id


def require_sqlite(path: Path) -> None:
    """Check that `path` is an SQLite file or can become one; MLflow tries for minutes.

    Raises:
        ValueError: SQLAlchemy and MLflow read a `?` or `%` in its address differently.
        sqlite3.Error: it can't be opened, or is something else.
    """
    if set("?%") & set(str(path)):
        raise ValueError("an SQLite store's path can't hold `?` or `%`; set MLFLOW_TRACKING_URI")
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA schema_version")


def experiment_id(client: "MlflowClient", artifacts: str | None) -> str:
    """Return the experiment of all runs, made where the store has none yet."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))


def epochs_of(record: Record) -> list[tuple[int, dict[str, float]]]:
    """Return each epoch, from 1, with its metrics; NaN where one was not finite."""
    return [
        (row["epoch"], {n: math.nan if row[n] is None else row[n] for n in EPOCH_METRICS})
        for row in record.history
    ]


def test_metrics(record: Record) -> dict[str, float]:
    """Return the test's metrics under names of their own."""
    return {f"test_{name}": value for name, value in record.test.items()}


def tags_of(record: Record) -> dict[str, str]:
    """Return what one looks for runs by: engine, variant, data, device and versions."""
    packages: dict[str, Any] = record.environment.get("packages") or {}
    tags = {
        "engine": record.engine,
        "variant": record.variant,
        "dataset": record.dataset.get("name"),
        "device": record.environment.get("device"),
        "version.python": record.environment.get("python"),
        **{f"version.{name}": version for name, version in packages.items()},
        "mlflow.source.name": " ".join(record.command),
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _line(error: Exception) -> str:
    """Return an error in a line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
