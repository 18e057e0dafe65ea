"""Answering a question: what both halves do around reading their framework's objects."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.journal import Journal
from pipeline.preprocess import PreparedData, prepare
from pipeline.recipe import Recipe, recipe_from_dict, recipe_to_dict
from pipeline.record import Record
from portproof.exchange import Question, Trace, read_question, write_trace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answer:
    """One part of a trace: plain values and arrays."""

    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)


Answerer = Callable[[Question, Recipe], Answer]


def answer_file(
    engine: str,
    answerers: Mapping[str, Answerer],
    configure: Callable[[Recipe, Execution], Any],
    question_path: Path,
    trace_path: Path,
) -> int:
    """Answer a question file with a trace file; return 0, or 2 where something unknown is asked."""
    question = read_question(question_path)
    unknown = [ask for ask in question.asks if ask not in answerers]
    if unknown:
        print(f"{engine} cannot answer {unknown[0]!r}", file=sys.stderr)
        return 2
    recipe = recipe_from_dict(dict(question.settings["recipe"]))
    configure(recipe, execution_of(question))
    facts: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for ask in question.asks:
        answer = answerers[ask](question, recipe)
        facts |= answer.facts
        arrays |= answer.arrays
    write_trace(trace_path, Trace(engine, question.identity, facts, arrays))
    return 0


def execution_of(question: Question) -> Execution:
    """Return how a question wants to be carried out: on the CPU, fast unless `plain` is set."""
    return Execution(device="cpu", plain=bool(question.settings.get("plain", False)))


def data_of(question: Question, recipe: Recipe) -> PreparedData:
    """Return the sets that a question names by `data_dir`."""
    return prepare(load_dataset(Path(question.settings["data_dir"])), recipe)


def weights_of(question: Question) -> dict[str, Array]:
    """Return the canonical weights of a question, its arrays `weights.*`."""
    prefix = "weights."
    return {
        name.removeprefix(prefix): array
        for name, array in question.arrays.items()
        if name.startswith(prefix)
    }


def scratch_journal(recipe: Recipe, data: PreparedData, folder: str) -> Journal:
    """Return a journal in a folder of its own, for training inside an answer."""
    record = Record(
        status="running",
        engine="",
        variant=recipe.variant,
        command=[],
        recipe=recipe_to_dict(recipe),
        execution={},
        dataset={},
        environment={},
        parameters=0,
    )
    return Journal(Path(folder), record, len(data.train), lambda line: None)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that goes when its block ends."""
    return tempfile.TemporaryDirectory(prefix=f"answer-{os.getpid()}-")


@dataclass
class FedBatches:
    """Keeps a digest of each batch that reached a step, with where it was fed."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def note(self, stage: str, images_nhwc: Array, one_hot: Array) -> None:
        """Note a batch, images (B, H, W, 1) and labels (B, classes), of `stage`."""
        self.rows.append(batch_row(stage, images_nhwc, one_hot))


def batch_row(stage: str, images_nhwc: Array, one_hot: Array) -> dict[str, Any]:
    """Return `stage`, size, shape, dtype, and digests of a batch's images and of its labels.

    `members` holds a digest for each image, `images` and `labels` one for all of the batch.
    """
    return {
        "stage": stage,
        "size": len(images_nhwc),
        "shape": list(images_nhwc.shape),
        "dtype": str(images_nhwc.dtype),
        "images": _digest(images_nhwc),
        "members": [_digest(image)[:16] for image in images_nhwc],
        "labels": _digest(one_hot),
    }


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def tagged(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return `arrays` with `prefix` and a dot before each name."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def seeds_of(question: Question) -> Sequence[int]:
    """Return the seeds that a question asks for."""
    return [int(seed) for seed in question.settings["seeds"]]
