"""Several processes that train together: which of them this one is, and starting them here.

Each is a *rank*, numbered from 0. torchrun and SLURM start them and say by the environment which is
which; `--devices N` alone starts N on this machine. No framework is needed for it.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.errors import Terminated, UsageError

GRACE_SECONDS = 15.0
"""How long ranks have to end by themselves once one has failed, and again once they are told to."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Ranks:
    """The place of a process among those that train together."""

    rank: int = 0
    size: int = 1
    """Ranks in all."""
    local_rank: int = 0
    local_size: int = 1
    """Ranks on this machine."""
    launcher: str = ""
    """What started them: `local`, `torchrun` or `slurm`; empty for a process by itself."""


def ranks_of(environ: Mapping[str, str]) -> Ranks:
    """Return the place that a launcher has given the process of this environment.

    Raises:
        UsageError: a variable that says it is missing or no number, or they contradict each other.
    """

    def number(name: str, default: int | None = None) -> int:
        value = environ.get(name, default)
        if not (str(value).isascii() and str(value).isdecimal()):
            raise UsageError(
                f"`{name}` must be a number, as a launcher sets it; received {value!r}"
            )
        return int(str(value))

    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= set(environ):
        size = number("WORLD_SIZE")
        ranks = Ranks(
            number("RANK"),
            size,
            number("LOCAL_RANK"),
            number("LOCAL_WORLD_SIZE", size),
            "torchrun" if "TORCHELASTIC_RUN_ID" in environ else "local",
        )
    # In a job's script itself, outside `srun`, there is no step.
    elif "SLURM_STEP_ID" in environ and number("SLURM_NTASKS", 1) > 1:
        size = number("SLURM_NTASKS")
        local_size = size // max(1, number("SLURM_NNODES", 1))
        ranks = Ranks(number("SLURM_PROCID"), size, number("SLURM_LOCALID"), local_size, "slurm")
    else:
        return Ranks()
    if not (ranks.local_rank < ranks.local_size <= ranks.size and ranks.rank < ranks.size):
        raise UsageError(
            f"a launcher's variables contradict each other: rank {ranks.rank} of {ranks.size}, "
            f"here {ranks.local_rank} of {ranks.local_size}"
        )
    return ranks


def sharers(ranks: Ranks, environ: Mapping[str, str], num_cores: int) -> int:
    """Return how many ranks share the `num_cores` that this one may run on.

    SLURM binds each to cores of its own where it is told to.
    """
    on_node = environ.get("SLURM_CPUS_ON_NODE", "")
    is_bound = ranks.launcher == "slurm" and on_node.isdecimal() and num_cores < int(on_node)
    return 1 if is_bound else ranks.local_size


@cache
def this_process() -> Ranks:
    """Return this process's place; once, as Lightning takes WORLD_SIZE away after a training."""
    return ranks_of(os.environ)


def run_ranks(size: int) -> int:
    """Run this command as `size` ranks on this machine; return the exit code.

    Rank 0 writes to stdout. Of what ranks say on stderr, that of the lowest is passed on, where one
    failed of the lowest that failed by itself. The others are then ended within three times
    `GRACE_SECONDS`; SIGINT and SIGTERM are handed on to all.
    """
    port = os.environ.get("MASTER_PORT") or str(_free_port())
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        said = [Path(folder, str(rank)) for rank in range(size)]
        processes = [_started(rank, size, port, path) for rank, path in enumerate(said)]
        failed = _ended(processes)
        if not failed:
            sys.stderr.write(said[0].read_text())
            return 0
        for rank in sorted(failed):
            if words := said[rank].read_text(errors="replace"):
                sys.stderr.write(words)
                return max(processes[rank].returncode, 1)
    first, code = failed[0], processes[failed[0]].returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    print(f"{Path(sys.argv[0]).name}: rank {first} of {size} {how}", file=sys.stderr)
    return 1


def _started(rank: int, size: int, port: str, said: Path) -> subprocess.Popen[bytes]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    others = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    with said.open("wb") as stderr:
        # A session of its own: Ctrl-C reaches it through this process, and once.
        return subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, **others, **{name: str(value) for name, value in place.items()}},
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )


def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all; return the ranks that failed before they were told to end, the first first."""
    failed: list[int] = []
    signals = [signal.SIGTERM, signal.SIGKILL]
    deadline, is_told = float("inf"), False

    def tell(signum: int) -> None:
        for process in processes:
            process.send_signal(signum)

    while any(process.poll() is None for process in processes):
        try:
            time.sleep(POLL_SECONDS)
            if not is_told:
                new = [rank for rank, process in enumerate(processes)
                       if process.poll() and rank not in failed]  # fmt: skip
                if new and not failed:
                    # A wrong call is wrong for all, and nobody has begun.
                    is_wrong_call = processes[new[0]].returncode == 2
                    deadline = time.monotonic() + (0.5 if is_wrong_call else GRACE_SECONDS)
                failed += sorted(new, key=lambda rank: processes[rank].returncode)
            if time.monotonic() > deadline and signals:
                is_told = True
                tell(signals.pop(0))
                deadline = time.monotonic() + GRACE_SECONDS
        except KeyboardInterrupt as error:
            tell(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
            deadline = time.monotonic() + GRACE_SECONDS
    return failed + [rank for rank, process in enumerate(processes)
                     if not is_told and process.returncode and rank not in failed]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
