"""What MLflow's client finds in an SQLite store: `python -m tests.read_mlflow FILE` prints JSON."""

import json
import os
import sys


def mlflow_runs(store):
    """Return the runs of the project's experiment."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{store}")
    (experiment,) = [
        found for found in client.search_experiments() if found.name == "keras-lightning-parity"
    ]
    return [as_words(client, run) for run in client.search_runs([experiment.experiment_id])]


def as_words(client, run):
    run_id, data = run.info.run_id, run.data
    metrics = {
        name: sorted([m.step, m.value] for m in client.get_metric_history(run_id, name))
        for name in data.metrics
    }
    return {
        "name": run.info.run_name, "status": run.info.status, "params": data.params,
        "tags": data.tags, "artifacts": sorted(files(client, run_id)), "metrics": metrics,
    }  # fmt: skip


def files(client, run_id, folder=None):
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from files(client, run_id, entry.path)
        else:
            yield entry.path


if __name__ == "__main__":
    print(json.dumps(mlflow_runs(sys.argv[1])))
