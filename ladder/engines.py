"""Engines: programs that answer questions, each started as a process of its own."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ladder.interpreters import Interpreter, this_interpreter


@dataclass(frozen=True)
class Engine:
    """One implementation, as a program that answers a question file with a trace file."""

    name: str
    program: tuple[str, ...]
    """Run as `python *program QUESTION TRACE`; for a module `("-m", "module")`."""
    packages: tuple[str, ...]
    """Import names without which it cannot run."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that the process needs."""
    float64_variables: Mapping[str, str] = field(default_factory=dict)
    """Further ones where float64 is asked for."""
    find_python: Callable[[], Interpreter] = this_interpreter
    """Returns the interpreter to run under; asked anew each time."""
    support: tuple[str, ...] = ()
    """Import names that its programs need besides."""

    def environment(self, precision: str = "32") -> dict[str, str]:
        """Return the variables that a process of this engine at `precision` needs."""
        extra = self.float64_variables if precision == "64" else {}
        return {**self.find_python().environment(), **self.variables, **extra}

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs Python with `arguments` under this engine's interpreter."""
        return [self.find_python().path, *arguments]

    def why_not(self) -> str | None:
        """Return why this engine cannot run here, or None where it can."""
        return self.find_python().why_not((*self.packages, *self.support))


class EngineError(RuntimeError):
    """An engine died or left no answer; the message ends with what it wrote to stderr."""


STARTED_BY = "LADDER_STARTED_BY"
"""Variable of a child's environment: the number of the process that starts it."""


def end_with_parent() -> None:
    """Let this process be ended when the one that started it ends; does nothing but on Linux.

    Where that one has said its number (`STARTED_BY`) and ended during the imports before, now.
    """
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    started_by = os.environ.pop(STARTED_BY, "")  # no child of this process is that one's
    if not started_by:
        return
    try:
        state = Path("/proc", started_by, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        state = "X"
    if state in "XZ":  # dead, or dead and not yet waited for: proc_pid_stat(5)
        os._exit(1)


def answer(
    engine: Engine, question: Path, trace: Path, *, precision: str, timeout_seconds: float
) -> None:
    """Let `engine` answer the file `question` with the file `trace`.

    Raises:
        EngineError: the engine cannot run here, died, ran too long, or left no trace.
    """
    reason = engine.why_not()
    if reason is not None:
        raise EngineError(f"{engine.name} cannot run here: {reason}")
    trace.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            engine.command(*engine.program, str(question), str(trace)),
            env={
                **os.environ,
                **engine.environment(precision),
                STARTED_BY: str(os.getpid()),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{engine.name} gave no answer in {timeout_seconds:g} s") from error
    if done.returncode != 0:
        raise EngineError(f"{engine.name} exited with {done.returncode}:\n{done.stderr[-4000:]}")
    if not trace.is_file():
        raise EngineError(f"{engine.name} exited with 0 and left no trace:\n{done.stderr[-4000:]}")
