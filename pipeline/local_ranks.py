"""Starting the processes that train together on this machine, and ending them together."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ladder.engines import leashed
from pipeline.errors import Terminated

GRACE_SECONDS = 15.0
"""How long ranks have to end by themselves once one has failed, and again once they are told to."""
POLL_SECONDS = 0.05


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
            sys.stderr.write(said[0].read_text(errors="replace"))
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
            leashed([sys.executable, *sys.orig_argv[1:]], signal.SIGTERM),
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
