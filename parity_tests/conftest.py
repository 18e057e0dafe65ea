"""Questions to engines, and whole runs, each asked for once in a session."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets import Dataset, find_dataset, load_dataset
from pipeline.engines import ENGINES, trainer_arguments
from pipeline.recipe import Recipe, recipe_to_dict
from pipeline.record import Record, read_record
from portproof.exchange import Question, Trace, read_trace, write_question
from portproof.serve import Server

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent / "scripts"
Ask = Callable[..., Trace]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that has loaded a framework: engines run as processes of their own."""
    loaded = {"torch", "tensorflow", "jax", "keras"} & set(sys.modules)
    if loaded:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        print(f"\nparity tests load no framework; loaded: {', '.join(sorted(loaded))}")


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """The real Fashion-MNIST."""
    return load_dataset(find_dataset(None))


@pytest.fixture(scope="session")
def server() -> Iterator[Callable[[str, str], Server]]:
    """Return a function that starts an engine at a precision, once a session."""
    running: dict[tuple[str, str], Server] = {}

    def start(engine: str, precision: str) -> Server:
        key = (engine, precision)
        if key not in running:
            room = "lightning" if engine == "lightning" else "keras"
            program = [str(HERE.parent / "proof" / "faults" / f"in_{room}.py")]
            running[key] = Server(engine, program, ENGINES[engine].environment(precision))
        return running[key]

    yield start
    for engine in running.values():
        engine.close()


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory, server: Callable[[str, str], Server]) -> Ask:
    """Return a function that asks an engine, by name, with a fault planted if one is named."""
    folder = tmp_path_factory.mktemp("questions")
    answered: dict[tuple[str, ...], Trace] = {}

    def ask_engine(
        engine: str,
        recipe: Recipe,
        *asks: str,
        arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
        fault: str = "",
        **settings: Any,
    ) -> Trace:
        question = Question(asks, {"recipe": recipe_to_dict(recipe), **settings}, arrays or {})
        key = (engine, fault, question.identity)
        if key not in answered:
            question_path, trace_path = (folder / f"{len(answered)}.{kind}" for kind in ("q", "t"))
            write_question(question_path, question)
            server(engine, recipe.precision).answer(question_path, trace_path, fault)
            answered[key] = read_trace(trace_path, question)
        return answered[key]

    return ask_engine


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Record]:
    """Return a function that trains an engine's variant for one real epoch, once a session."""
    folder = tmp_path_factory.mktemp("trained")
    records: dict[tuple[str, str], Record] = {}

    def train(engine: str, variant: str) -> Record:
        if (engine, variant) not in records:
            run_dir = folder / f"{engine}-{variant}"
            script, *arguments = trainer_arguments(engine)
            command = [sys.executable, str(SCRIPTS / script), *arguments, "--variant", variant]
            command += ["--epochs", "1", "--run-dir", str(run_dir), "--device", "cpu"]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ.copy()
            )
            assert done.returncode == 0, done.stderr + json.dumps(command)
            records[engine, variant] = read_record(run_dir)
        return records[engine, variant]

    return train
