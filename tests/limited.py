"""Run a command with each process that it starts in a memory cgroup of its own.

`python -m tests.limited --megabytes 2000 -- scripts/compare.py --epochs 1`, as one who may make
cgroups. What a process forks counts with it. A process that needs more is killed by the kernel.
"""

import argparse
import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOTS = {
    # Where groups are made, and the names of: the limit, the peak, how often the kernel killed.
    Path("/sys/fs/cgroup/memory"): (
        "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control",
    ),
    Path("/sys/fs/cgroup"): ("memory.max", "memory.peak", "memory.events"),
}  # fmt: skip
POLL_SECONDS = 0.02
ENDING_SECONDS = 30.0


@dataclass(frozen=True)
class Group:
    """One memory cgroup and the process that it was made for."""

    path: Path
    pid: int
    name: str

    def read(self, kind: int) -> str:
        """Return what the kernel says of the group."""
        return (self.path / ROOTS[root()][kind]).read_text()

    @property
    def peak_bytes(self) -> int:
        """Return the most that the group has held, files in the page cache included."""
        return int(self.read(1))

    @property
    def kills(self) -> int:
        """Return how many of its processes the kernel killed for want of memory."""
        return int(dict(line.split() for line in self.read(2).splitlines())["oom_kill"])


def root() -> Path:
    """Return where memory cgroups can be made here.

    Raises:
        PermissionError: nowhere.
    """
    for path, (limit, *_) in ROOTS.items():
        probe = path / f"limited-{os.getpid()}-probe"
        try:
            probe.mkdir()
            has_limits = (probe / limit).exists()
            probe.rmdir()
        except OSError:
            continue
        if has_limits:
            return path
    raise PermissionError("no memory cgroup can be made here")


def make_group(pid: int, name: str, limit_bytes: int) -> Group:
    """Move the process into a new group."""
    group = Group(root() / f"limited-{os.getpid()}-{pid}", pid, name)
    group.path.mkdir()
    (group.path / ROOTS[root()][0]).write_text(str(limit_bytes))
    try:
        (group.path / "cgroup.procs").write_text(str(pid))
    except ProcessLookupError:
        group.path.rmdir()
        raise
    return group


def run(command: list[str], limit_bytes: int, own_bytes: int) -> tuple[int, list[Group]]:
    """Run `command`; return its exit code and the groups, the command's own first.

    It may itself hold `own_bytes`, each process that it starts `limit_bytes`.

    The groups stay until `remove`.
    """
    program = psutil.Popen([sys.executable, *command])
    groups = [make_group(program.pid, name_of(command), own_bytes)]
    while program.poll() is None:
        known = {group.pid for group in groups}
        for pid, name in children(program):
            if pid not in known:
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    groups.append(make_group(pid, name, limit_bytes))
        time.sleep(POLL_SECONDS)
    return program.returncode, groups


def children(program: psutil.Process) -> Iterator[tuple[int, str]]:
    """Yield the processes that `program` has started, with what they are called by."""
    try:
        for child in program.children():
            arguments = child.cmdline()
            # Between fork and exec a child has its parent's command line.
            if arguments and arguments != program.cmdline():
                yield child.pid, name_of(arguments)
    except psutil.NoSuchProcess:
        return


def name_of(arguments: list[str]) -> str:
    """Return the part of a command that says which engine it is."""
    shown = [argument for argument in arguments if "\n" not in argument and len(argument) < 80]
    wanted = [Path(argument).name for argument in shown if not argument.startswith("-")]
    return " ".join(wanted[-8:])


def remove(groups: list[Group]) -> None:
    """Remove the groups of processes that have ended, or are about to."""
    for group in groups:
        deadline = time.monotonic() + ENDING_SECONDS
        while True:
            try:
                group.path.rmdir()
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, required=True)
    parser.add_argument("--own-megabytes", type=int, help="of the command itself (the same)")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    limit, own = (
        megabytes * 10**6
        for megabytes in (options.megabytes, options.own_megabytes or options.megabytes)
    )
    try:
        returncode, groups = run(options.command, limit, own)
    except PermissionError as error:
        print(f"limited: error: {error}", file=sys.stderr)
        return 1
    print(f"limit {options.megabytes} MB; peak with page cache, MB; processes killed; command")
    for group in groups:
        print(f"{group.peak_bytes / 1e6:8.0f} {group.kills:3d}  {group.name}")
    killed = sum(group.kills for group in groups)
    remove(groups)
    return returncode or int(killed > 0)


if __name__ == "__main__":
    sys.exit(main())
