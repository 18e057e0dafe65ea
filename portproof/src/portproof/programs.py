"""Start the recording programs, ask them, and end them in any case."""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any

_PACKAGE = Path(__file__).parent
# Only this package is lent to the other interpreter: its neighbours may be another Python's.
_START = """
import importlib.util, runpy, sys
spec = importlib.util.spec_from_file_location(
    "portproof", {path!r} + "/__init__.py", submodule_search_locations=[{path!r}])
sys.modules["portproof"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["portproof"])
runpy.run_module("portproof.record", run_name="__main__")
"""
_QUIET = {
    "CUDA_VISIBLE_DEVICES": "-1",  # float64 on the CPU: the same numbers everywhere
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "PYTHONWARNINGS": "ignore",
}

GRACE = 2.0
"""Seconds in which others of several programs may say what became of them, once one has failed."""


class CheckError(Exception):
    """A check that cannot be made as it was asked for, in one line."""


class Program:
    """One side's program: a model in an interpreter of its own.

    Args:
        side: `reference` or `suspect`, for messages.
        reference: `module:function` or `file.py:function`.
        python: the interpreter.
        backend: Keras's, should it be a Keras model.
        folder: where arrays are exchanged.
        timeout: seconds that one answer may take.
        place: variables of its environment that say which of several processes it is.
    """

    def __init__(
        self,
        side: str,
        reference: str,
        python: str,
        backend: str,
        folder: Path,
        timeout: float,
        place: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.side, self.reference, self.timeout = side, reference, timeout
        self.folder, self._count = folder, 0
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115 - closed with the program
            "w+", encoding="utf-8", errors="replace"
        )
        environment = {**os.environ, **_QUIET, **place, "KERAS_BACKEND": backend}
        try:
            self._process = subprocess.Popen(
                [python, "-c", _START.format(path=str(_PACKAGE))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            reason = error.strerror or error
            raise CheckError(f"{side}: {python} is no Python interpreter here: {reason}") from error
        self.about: dict[str, Any] = {}
        self.memory = 0.0
        """The largest that the program had taken by its last answer, in GB."""

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._end()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _end(self) -> None:
        """End the program's whole group, for it may have started workers; reap it behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def send(self, what: str, **request: Any) -> None:
        """Send a request; `answer` waits for what it gives."""
        assert self._process.stdin is not None
        line = json.dumps({"do": what, **request}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self.died() from error

    def answer(self) -> dict[str, Any]:
        """Return the answer to the last request, as `answers` does."""
        return answers([self])[0]

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.send(what, **request)
        return self.answer()

    def path(self, name: str) -> str:
        """Return a new file name of this program's own."""
        self._count += 1
        return str(self.folder / f"{self.side}-{self._count}-{name}.npz")

    @property
    def output(self) -> IO[bytes]:
        """What the program answers by."""
        assert self._process.stdout is not None
        return self._process.stdout

    def died(self) -> CheckError:
        """Return how the program ended; one that only closed its output is ended here."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self._end()
        code = self._process.returncode
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read()[-8000:].splitlines() if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = f": {lines[-1][:300]}" if lines else ""
        return CheckError(f"{self.side} {self.reference}: its program ended by {how}{last}")


def answers(programs: Sequence[Program]) -> list[dict[str, Any]]:
    """Return the answers to each program's last request, once all are there.

    Raises:
        CheckError: one died, did not answer in time, or reports a problem. Of several that train
            together it is the first to say so, or one that died, which the others only notice.
    """
    ends = time.monotonic() + max((p.timeout for p in programs), default=0.0)
    lines = [b""] * len(programs)
    problem = ""  # no exception: its frames would hold it, and files open behind it
    with selectors.DefaultSelector() as selector:
        for number, program in enumerate(programs):
            selector.register(program.output, selectors.EVENT_READ, number)
        while selector.get_map():
            ready = selector.select(max(ends - time.monotonic(), 0))
            if not ready:
                break
            for key, _ in ready:
                program = programs[key.data]
                piece = os.read(key.fd, 1 << 20)
                lines[key.data] += piece
                if piece and not piece.endswith(b"\n"):
                    continue
                selector.unregister(key.fileobj)
                if not piece:
                    raise program.died() from None
                error = json.loads(lines[key.data]).get("error")
                if error and not problem:
                    problem = f"{program.side} {program.reference}: {error}"
                    ends = time.monotonic() + (GRACE if len(programs) > 1 else 0)
        if problem:
            raise CheckError(problem)
        if selector.get_map():
            silent = programs[min(key.data for key in selector.get_map().values())]
            raise CheckError(
                f"{silent.side} {silent.reference}: no answer within {silent.timeout:g} s; "
                "--timeout allows more"
            )
    found = [json.loads(line) for line in lines]
    for program, answer in zip(programs, found, strict=True):
        program.memory = answer["gb"]
    return found


def environments(count: int) -> list[dict[str, str]]:
    """Return the variables that say to each of several processes which of them it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "NODE_RANK": "0"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": threads}
    shared["SLURM_JOB_NAME"] = "bash"  # else Lightning takes a job's tasks for the processes
    return [{**shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(count)]
