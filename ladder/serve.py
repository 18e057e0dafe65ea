"""Many answers from one engine: its framework is imported once, each answer is a forked process.

Whatever is patched or set for one answer is gone with its process. Needs `os.fork`, so Linux or
macOS.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ladder.engines import EngineError


def serve(plant: Callable[[str], None], answer: Callable[[Path, Path], int]) -> None:
    """Answer the requests on stdin, a JSON object a line, until it closes; then end the process.

    A request holds `mutant` (planted first, unless empty), `question` and `trace` (paths); the
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
    os._exit(0)  # at once: a framework's own end takes seconds


class Server:
    """A running engine program that calls `serve`; `command` starts it."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        timeout_seconds: float = 600.0,
    ) -> None:
        self.name = name
        self._timeout_seconds = timeout_seconds
        # What an answer's process leaves behind where it is killed is gone with this folder.
        self._temporary = tempfile.TemporaryDirectory(prefix="engine-")
        self.folder = Path(self._temporary.name)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(self.folder), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # so that it ends with the process that it has forked
        )

    def answer(self, question: Path, trace: Path, mutant: str = "") -> None:
        """Let the engine answer the file `question` with the file `trace`.

        Raises:
            EngineError: the engine died, left no trace, or took longer than it may.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        trace.unlink(missing_ok=True)
        request = {"mutant": mutant, "question": str(question), "trace": str(trace)}
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError as error:
            raise EngineError(self._last_words()) from error
        line, is_late = self._read_reply()
        if is_late:
            raise EngineError(f"{self.name} gave no answer in {self._timeout_seconds:g} s")
        if not line:
            raise EngineError(self._last_words())
        reply = json.loads(line)
        if reply["exit"] != 0 or not trace.is_file():
            raise EngineError(f"{self.name} exited with {reply['exit']}:\n{reply['stderr']}")

    def kill(self) -> None:
        """End the engine, and an answer that it is at, for which EngineError is raised."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the engine and release what it has held; not while it is asked."""
        self.kill()
        self._process.communicate()
        self._errors.close()
        self._temporary.cleanup()

    def _last_words(self) -> str:
        """Return how the engine ended and what it has written to stderr."""
        code = self._process.wait()
        self._errors.seek(0)
        stderr = self._errors.read().decode(errors="replace")[-4000:].strip()
        return f"{self.name} died with {code}" + (f":\n{stderr}" if stderr else "")

    def _read_reply(self) -> tuple[str, bool]:
        """Return a line, empty where the engine has ended, and whether it was ended for time."""
        assert self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(self._timeout_seconds, end)
        timer.start()
        try:
            return self._process.stdout.readline(), late.is_set()
        finally:
            timer.cancel()


def _end_with_the_asker() -> None:
    """End this process once nobody holds the other end of stdin: who asked was killed."""
    asker = select.poll()
    asker.register(0, 0)  # a hang-up is told unasked
    asker.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _answer_and_exit(
    plant: Callable[[str], None],
    answer: Callable[[Path, Path], int],
    request: dict[str, Any],
    errors: IO[bytes],
) -> None:
    code = 1
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    try:
        os.dup2(errors.fileno(), 2)
        if request["mutant"]:
            plant(request["mutant"])
        code = answer(Path(request["question"]), Path(request["trace"]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
