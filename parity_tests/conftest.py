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

from ladder.exchange import Question, Trace
from parity_tests.climbs import Climber, new_climber
from parity_tests.engine_room import EngineRoom
from pipeline.datasets import Dataset, find_dataset, load_dataset
from pipeline.engines import trainer_arguments
from pipeline.recipe import Recipe, recipe_to_dict
from pipeline.record import Record
from pipeline.recorded import read_record

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent / "scripts"
Ask = Callable[..., Trace]


@pytest.fixture(scope="session", autouse=True)
def no_framework() -> Iterator[None]:
    """Fail a session that has loaded a framework: engines run as processes of their own."""
    yield
    assert not {"torch", "tensorflow", "jax", "keras"} & set(sys.modules)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """The real Fashion-MNIST."""
    return load_dataset(find_dataset(None))


@pytest.fixture(scope="session")
def room() -> Iterator[EngineRoom]:
    """The engines, each started once a session."""
    with EngineRoom() as engines:
        yield engines


@pytest.fixture(scope="session")
def climber(
    room: EngineRoom, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Climber:
    """A climber on the real data set; what was answered once is not asked again."""
    return new_climber(room, dataset, tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="session")
def ask(room: EngineRoom) -> Ask:
    """Return a function that asks an engine, by name, with a mutant planted if one is named."""
    answered: dict[tuple[str, ...], Trace] = {}

    def ask_engine(
        engine: str,
        recipe: Recipe,
        *asks: str,
        arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
        mutant: str = "",
        **settings: Any,
    ) -> Trace:
        question = Question(asks, {"recipe": recipe_to_dict(recipe), **settings}, arrays or {})
        key = (engine, mutant, question.identity)
        if key not in answered:
            answered[key] = room.ask(engine, question, mutant)
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
            command += ["--threads", "1"]  # two test processes share the cores
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ.copy()
            )
            assert done.returncode == 0, done.stderr + json.dumps(command)
            records[engine, variant] = read_record(run_dir)
        return records[engine, variant]

    return train
