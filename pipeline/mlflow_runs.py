"""A run followed in MLflow."""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ladder.files import write_text
from pipeline.recipe import shortest
from pipeline.record import (
    BEST_WEIGHTS,
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
from pipeline.tracking import epochs_of, test_metrics

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

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


def tags_of(record: Record) -> dict[str, str]:
    """Return the tags by which runs are searched: engine, variant, data, device, versions."""
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
