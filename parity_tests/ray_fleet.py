"""The runs of `parity_tests/fleet.py` as tasks of a Ray cluster (extra `ray`).

Each machine of the cluster needs this checkout at the same path, its environment and the data set;
a run that was under way goes on from its last epoch where the output folder is shared, too.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from parity_tests.fleet import ROOT, RUN_BYTES, TRIES, Result, Work, run_task
from pipeline.errors import RunError, UsageError

if TYPE_CHECKING:
    from parity_tests.seeds import Row, Task

LOCAL = "local"
CONNECT_SECONDS = 5
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Be connected to the cluster at `address`; `local` starts one on this machine, and ends it.

    Args:
        address: `local`, `ray://HOST:PORT` (Ray's client server) or `HOST:PORT` of the head.

    Raises:
        UsageError: Ray is not installed, or nothing answers there.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
    except ImportError as error:
        raise UsageError("`--on` needs Ray: pip install 'ray[client]'") from error
    if address != LOCAL:
        _answering(address)
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), **QUIET}},
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster at {address}: {_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _answering(address: str) -> None:
    """Ray itself tries for minutes where nothing listens."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
        if not host or not port or parts.scheme not in ("", "ray"):
            raise UsageError(f"`--on` takes local, HOST:PORT or ray://HOST:PORT, not {address!r}")
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UsageError(f"no Ray cluster at {address}: {_line(error)}") from error


def device_of(wanted: str) -> str:
    """Return the device of the runs on the cluster that this process is connected to.

    Raises:
        UsageError: `gpu` where the cluster has none.
    """
    import ray

    has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    if wanted == "gpu" and not has_gpu:
        raise UsageError("`--device gpu`: no machine of the cluster has a GPU")
    return "gpu" if has_gpu and wanted != "cpu" else "cpu"


def run_on_cluster(work: Work, tasks: Sequence["Task"]) -> Iterator[Result]:
    """Yield each task's row as it ends; as many run at once as the cluster has room for.

    A run whose machine is lost is begun again, or gone on with, on another one.
    """
    import ray
    from ray.exceptions import RayError

    remote = ray.remote(
        num_cpus=work.num_threads,
        num_gpus=int(work.device == "gpu"),
        memory=RUN_BYTES,
        max_retries=TRIES - 1,
    )(_run)
    under_way = {remote.remote(work, task): task for task in tasks}
    while under_way:
        (ended,), _ = ray.wait(list(under_way), num_returns=1)
        task = under_way.pop(ended)
        try:
            yield task, ray.get(ended)
        except RayError as error:
            yield task, RunError(f"{task.name}: {_line(error)}")


def _run(work: Work, task: "Task") -> "Row | RunError":
    """Run a task on a machine of the cluster; what it raises comes back as a value."""
    try:
        return run_task(work, task)
    except RunError as error:
        return error


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
