"""Asking engines: programs that answer questions, each started as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ladder.interpreters import Engine


class EngineError(RuntimeError):
    """An engine died or left no answer; the message ends with what it wrote to stderr."""


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
    environ = {**os.environ, **engine.environment(precision)}
    command = engine.command(*engine.program, str(question), str(trace))
    try:
        done = ran(leashed(command), environ, timeout_seconds)
    except EngineError as error:
        raise EngineError(f"{engine.name} {error}") from error
    if done.returncode != 0:
        raise EngineError(f"{engine.name} exited with {done.returncode}:\n{done.stderr[-4000:]}")
    if not trace.is_file():
        raise EngineError(f"{engine.name} exited with 0 and left no trace:\n{done.stderr[-4000:]}")


def ran(
    command: Sequence[str], environ: Mapping[str, str], timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a program without input to its end, whatever that is, and return what it printed.

    Raises:
        EngineError: it ran too long, or cannot be started.
    """
    try:
        return subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"gave no answer in {timeout_seconds:g} s") from error
    except OSError as error:
        raise EngineError(f"cannot be started ({error.strerror})") from error


# Runs before a program in the program's own process: a `preexec_fn` would run Python code
# between fork and exec, which may deadlock when the parent has threads.
LEASH = """
import ctypes, os, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(sys.argv[1]))
if os.getppid() != int(sys.argv[2]):  # the parent died before the request was made
    os._exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


def leashed(command: Sequence[str], signum: int = signal.SIGKILL) -> list[str]:
    """Return `command` so that on Linux it is sent `signum` when this process dies."""
    if sys.platform != "linux":
        return list(command)
    leash = [sys.executable, "-I", "-S", "-c", LEASH, str(int(signum)), str(os.getpid())]
    return [*leash, *command]
