"""Many answers from one engine: its framework is imported once, each answer is a forked process.

Whatever is patched or set for one answer is gone with its process. Needs `os.fork`, so Linux or
macOS.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from portproof.engines import EngineError


def serve(plant: Callable[[str], None], answer: Callable[[Path, Path], int]) -> None:
    """Answer the requests on stdin, a JSON object a line, until it closes.

    A request holds `fault` (planted first, unless empty), `question` and `trace` (paths); the
    reply, a line on stdout, the `exit` code and what was written to `stderr`.
    """
    # Replies have a stream of their own: what a framework prints must not get between them.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as errors:
            child = os.fork()
            if child == 0:
                _answer_and_exit(plant, answer, request, errors)
            _, status = os.waitpid(child, 0)
            errors.seek(0)
            stderr = errors.read().decode(errors="replace")[-4000:]
        reply = {"exit": os.waitstatus_to_exitcode(status), "stderr": stderr}
        print(json.dumps(reply), file=replies)


class Server:
    """A running engine program that calls `serve`."""

    def __init__(self, name: str, program: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, *program],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self, question: Path, trace: Path, fault: str = "") -> None:
        """Let the engine answer the file `question` with the file `trace`.

        Raises:
            EngineError: the engine died or left no trace.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        trace.unlink(missing_ok=True)
        request = {"fault": fault, "question": str(question), "trace": str(trace)}
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError as error:
            raise EngineError(f"{self.name} died") from error
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"{self.name} died with {self._process.wait()}")
        reply = json.loads(line)
        if reply["exit"] != 0 or not trace.is_file():
            raise EngineError(f"{self.name} exited with {reply['exit']}:\n{reply['stderr']}")

    def close(self) -> None:
        """End the engine."""
        self._process.kill()
        self._process.communicate()


def _answer_and_exit(
    plant: Callable[[str], None],
    answer: Callable[[Path, Path], int],
    request: dict[str, Any],
    errors: IO[bytes],
) -> None:
    code = 1
    try:
        os.dup2(errors.fileno(), 2)
        if request["fault"]:
            plant(request["fault"])
        code = answer(Path(request["question"]), Path(request["trace"]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
