"""Engines kept running, each imported once, that answer questions with or without a mutant."""

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from ladder.engines import EngineError, answer
from ladder.exchange import Question, Trace, read_trace, write_question
from ladder.serve import Server
from pipeline.engines import ENGINES
from pipeline.workers import end_children, workers

PROGRAMS = Path(__file__).resolve().parent / "mutants"
"""Where `in_keras.py` and `in_lightning.py` lie."""

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
"""Two engines answer at a time, and the questions are small: threads would wait for each other."""


class EngineRoom:
    """Answers questions, one at a time an engine; a block that it is entered for ends them.

    A question that is asked on a GPU gets a process of its own: CUDA does not survive a fork.
    """

    def __init__(self, timeout_seconds: float = 600.0, programs: Path = PROGRAMS) -> None:
        self._programs = programs
        self._timeout_seconds = timeout_seconds
        self._servers: dict[tuple[str, str], Server] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._starting = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> "EngineRoom":
        """Return the room itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the engines."""
        self.close()

    def close(self) -> None:
        """End the engines; whoever waits for an answer, or asks from now on, gets EngineError."""
        with self._starting:
            self._is_closed = True
        for server in self._servers.values():
            server.kill()
        for key, server in self._servers.items():
            with self._locks[key]:
                server.close()
        self._servers.clear()

    def ask(self, engine: str, question: Question, mutant: str = "") -> Trace:
        """Return the engine's answer, with a mutant planted if one is named.

        Raises:
            EngineError: the engine died, left no trace or took too long.
            ValueError: what it left is no answer to the question.
        """
        settings = question.settings
        key = (engine, settings.get("recipe", settings)["precision"])
        with tempfile.TemporaryDirectory(prefix="question-") as folder:
            question_path, trace_path = Path(folder, "question"), Path(folder, "trace")
            write_question(question_path, question)
            with self._locks.setdefault(key, threading.Lock()):
                if settings.get("device", "cpu") == "cpu":
                    self._server(key).answer(question_path, trace_path, mutant)
                elif mutant:
                    raise ValueError("faults are planted on the CPU only")
                else:
                    self._answer_alone(key, question_path, trace_path)
            return read_trace(trace_path, question)

    def askers(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """Return two threads to ask in; an interrupt closes the room and so ends their waiting."""

        def end() -> None:
            self.close()
            end_children()  # portproof's programs

        return workers(2, end)

    def at_once(self, left: Callable[[], Trace], right: Callable[[], Trace]) -> tuple[Trace, Trace]:
        """Ask two engines at the same time and return both traces."""
        with self.askers() as pool:
            answers = pool.submit(left), pool.submit(right)
            return answers[0].result(), answers[1].result()

    def _answer_alone(self, key: tuple[str, str], question: Path, trace: Path) -> None:
        engine, precision = key
        if self._is_closed:
            raise EngineError(f"{engine} is asked no more")
        answer(
            ENGINES[engine],
            question,
            trace,
            precision=precision,
            timeout_seconds=self._timeout_seconds,
        )

    def _server(self, key: tuple[str, str]) -> Server:
        engine, precision = key
        with self._starting:
            if self._is_closed:
                raise EngineError(f"{engine} is asked no more")
            if key not in self._servers:
                program = "in_lightning.py" if engine == "lightning" else "in_keras.py"
                self._servers[key] = Server(
                    engine,
                    ENGINES[engine].command(str(self._programs / program)),
                    ENGINES[engine].environment(precision) | ONE_THREAD,
                    self._timeout_seconds,
                )
            return self._servers[key]
