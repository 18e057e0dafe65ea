"""Where output goes: words for people to the terminal, a framework's noise to the run's log."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_set_aside: list[int] = []
"""What stderr was before `noise_to`, innermost last."""


@contextmanager
def noise_to(log: Path) -> Iterator[None]:
    """Send all that is written to stderr to `log` until the block ends.

    It works on the file descriptor, so it also catches what C++ code writes. stdout, which
    carries progress bars and results, stays as it is.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    _set_aside.append(terminal)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(_set_aside.pop())


def last_words(line: str) -> None:
    """Write a line to what stderr is outside `noise_to`, from any thread."""
    os.write((_set_aside or [2])[0], f"{line}\n".encode())


def open_missing_streams() -> None:
    """Put the null device where a process was started without stdout or stderr.

    Else the next file that is opened becomes stdout, and gets what C++ code prints.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def say(line: str) -> None:
    """Print a line to stdout at once."""
    print(line, flush=True)
