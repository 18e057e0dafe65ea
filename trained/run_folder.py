"""A trained model, as its run folder holds it, and asking its engine in a process of its own."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ladder.engines import EngineError, answer
from ladder.exchange import Question, Trace, read_trace, write_question
from ladder.subject import tagged
from pipeline.engines import ENGINES
from pipeline.errors import RunError, UsageError
from pipeline.implementation import no_keras_home
from pipeline.network import read_weights
from pipeline.recipe import Recipe, recipe_from_dict, recipe_to_dict
from pipeline.record import LAST_WEIGHTS, RECORD, Record
from pipeline.recorded import read_record

Array = np.ndarray[Any, Any]
HOURS = 3600.0


@dataclass(frozen=True)
class TrainedRun:
    """What a run folder holds of a model: record, recipe and last canonical weights."""

    folder: Path
    record: Record
    recipe: Recipe
    weights: dict[str, Array]
    class_names: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the run's name for people."""
        return f"{self.record.engine}, {self.recipe.variant}"


def read_run(folder: Path) -> TrainedRun:
    """Read a run and its last weights.

    Raises:
        UsageError: not a run folder, damaged, of an unknown engine, or without weights.
    """
    if folder.is_file():
        inside = next((path for path in folder.parents if (path / RECORD).is_file()), None)
        meant = f"; its run is {inside}" if inside else ""
        raise UsageError(f"{folder} is a file; name the folder of a run{meant}")
    try:
        record = read_record(folder)
        recipe = recipe_from_dict(record.recipe)
        names = record.dataset.get("class_names")
        if not isinstance(names, list) or len(names) != recipe.num_classes:
            raise RunError(f"its record names other than {recipe.num_classes} classes")
        if record.engine not in ENGINES:
            raise RunError(f"unknown engine {record.engine!r}")
        weights = read_weights(folder / LAST_WEIGHTS, recipe)
    except (RunError, ValueError) as error:  # a UsageError is a ValueError
        raise UsageError(f"cannot use the run {folder}: {error}") from error
    return TrainedRun(folder, record, recipe, weights, tuple(map(str, names)))


def ask_engine(
    engine: str, ask: str, recipe: Recipe, arrays: Mapping[str, Array], **settings: Any
) -> Trace:
    """Let `engine` answer, in a process of its own, and return its trace.

    Raises:
        RunError: it cannot run here, died, or could not do what was asked.
    """
    words = {"recipe": recipe_to_dict(recipe), **settings}
    question = Question((ask,), words, arrays)
    with tempfile.TemporaryDirectory(prefix="ask-") as folder, no_keras_home():
        asked, answered = Path(folder, "question"), Path(folder, "trace")
        write_question(asked, question)
        try:
            precision = recipe.precision
            answer(ENGINES[engine], asked, answered, precision=precision, timeout_seconds=HOURS)
            trace = read_trace(answered, question)
        except (EngineError, ValueError) as error:
            first, *rest = [line for line in str(error).splitlines() if line.strip()]
            raise RunError(f"{first} {rest[-1].strip()}" if rest else first) from error
    if reason := trace.facts.get("failed", {}).get(ask):
        raise RunError(f"{engine}: {' '.join(str(reason).split())}")
    return trace


def predict(run: TrainedRun, images: Array) -> Array:
    """Return the logits (N, classes) that a run's engine gives for uint8 images (N, H, W, 1)."""
    arrays = {**tagged("weights", run.weights), "images": images}
    return np.asarray(ask_engine(run.record.engine, "predict", run.recipe, arrays).arrays["logits"])
