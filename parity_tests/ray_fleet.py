"""Work as tasks of a Ray cluster (extra `ray`): runs, as `parity_tests/fleet.py` has them.

Each machine of the cluster needs this checkout at the same path, its environment and the data set;
a run that was under way goes on from its last epoch where the output folder is shared, too.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ladder.engines import EngineError
from parity_tests.fleet import ROOT, RUN_BYTES, TRIES
from pipeline.errors import RunError, UsageError

T = TypeVar("T")
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


def cores(of_smallest_machine: bool = False) -> int:
    """Return how many processors the cluster has, or the smallest of its machines that has any."""
    import ray

    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return int(min(filter(None, machines), default=1) if of_smallest_machine else sum(machines))


class ClusterPool:
    """A `parity_tests.fleet.Pool` of the cluster that this process is connected to.

    Work is begun where `num_cpus` and, with `device` `gpu`, a GPU are free. Where its machine is
    lost, it is begun again on another one.
    """

    def __init__(self, num_cpus: float, device: str = "cpu") -> None:
        import ray

        self._remote = ray.remote(
            num_cpus=num_cpus,
            num_gpus=int(device == "gpu"),
            memory=RUN_BYTES,
            max_retries=TRIES - 1,
        )(_done)

    def submit(self, work: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Begin `work` as soon as there is room for it.

        The future raises a RunError for work whose machines were lost.
        """
        future: Future[T] = Future()

        def settle(ended: Future[Any]) -> None:
            try:
                result, error = ended.result()
            except Exception as lost:
                result, error = None, RunError(_line(lost))
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._remote.remote(work, *arguments).future().add_done_callback(settle)
        return future


def _done(work: Callable[..., T], *arguments: Any) -> tuple[T | None, Exception | None]:
    """Do `work`; an error that the project raises comes back as a value, without Ray's trace."""
    try:
        return work(*arguments), None
    except (RunError, EngineError) as error:
        return None, error


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
