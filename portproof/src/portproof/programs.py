"""Start the recording programs, ask them, and end them, whatever becomes of them."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from portproof.graph.calls import Graph

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
    """

    def __init__(
        self,
        side: str,
        reference: str,
        python: str,
        backend: str,
        folder: Path,
        timeout: float,
    ) -> None:
        self.side, self.reference, self.timeout = side, reference, timeout
        self.folder, self._count = folder, 0
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115 - closed with the program
            "w+", encoding="utf-8", errors="replace"
        )
        environment = {**os.environ, **_QUIET, "KERAS_BACKEND": backend}
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

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The program may have started workers: the whole group goes.
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def send(self, what: str, **request: Any) -> None:
        """Send a request; `answer` waits for what it gives."""
        assert self._process.stdin is not None
        line = json.dumps({"do": what, **request}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def answer(self) -> dict[str, Any]:
        """Return the answer to the last request.

        Raises:
            CheckError: the program died, did not answer in time, or reports a problem.
        """
        assert self._process.stdout is not None
        ends, line = time.monotonic() + self.timeout, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(ends - time.monotonic(), 0)):
                    raise CheckError(
                        f"{self.side} {self.reference}: no answer within {self.timeout:g} s; "
                        "--timeout allows more"
                    )
                piece = os.read(self._process.stdout.fileno(), 1 << 20)
                if not piece:
                    raise self._died()
                line += piece
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise CheckError(f"{self.side} {self.reference}: {found['error']}")
        return found

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.send(what, **request)
        return self.answer()

    def open(self) -> None:
        """Ask for the model to be built."""
        self.send("open", reference=self.reference)

    def opened(self) -> None:
        """Wait until the model is built."""
        self.about = self.answer()

    def describe(self, inputs: str) -> Graph:
        """Return the model's calls."""
        return Graph.from_dict(self.ask("describe", given=inputs)["graph"])

    def path(self, name: str) -> str:
        """Return a new file name of this program's own."""
        self._count += 1
        return str(self.folder / f"{self.side}-{self._count}-{name}.npz")

    def _died(self) -> CheckError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read()[-8000:].splitlines() if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = f": {lines[-1][:300]}" if lines else ""
        return CheckError(f"{self.side} {self.reference}: its program ended by {how}{last}")


def save(path: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Write arrays to an `.npz` file, uncompressed, and return its path."""
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def interpreter(path: str | None) -> str:
    """Return the interpreter to use: this one, where none is named."""
    return path or sys.executable
