"""Answering a question: what both implementations do around reading their framework's objects."""

import dataclasses
import hashlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ladder.exchange import Question, Trace, read_question, write_trace
from ladder.following import Follower
from ladder.subject import FAILED, arrays_under, attempt, error_words, tagged
from pipeline.batches import evaluation_batches
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.journal import Journal
from pipeline.network import first_weights
from pipeline.preprocess import LabeledImages, PreparedData, prepare
from pipeline.recipe import Recipe, recipe_from_dict, recipe_to_dict
from pipeline.record import RECORD, Record, read_record

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
    answer = answer_each(question, recipe, answerers)
    write_trace(trace_path, Trace(engine, question.identity, answer.facts, answer.arrays))
    return 0


def answer_each(question: Question, recipe: Recipe, answerers: Mapping[str, Answerer]) -> Answer:
    """Answer each ask; one answerer that stands for several asks is called once.

    What raises is noted in `facts["failed"]` by ask, its traceback on stderr, and the rest is
    answered: a trace of a broken implementation should show where it is broken.
    """
    facts: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    failed: dict[str, str] = {}
    for answerer in dict.fromkeys(answerers[ask] for ask in question.asks):
        try:
            answer = answerer(question, recipe)
        except Exception as error:  # whatever a broken implementation raises is its answer
            traceback.print_exc()
            asks = [ask for ask in question.asks if answerers[ask] is answerer]
            failed |= dict.fromkeys(asks, error_words(error))
            continue
        failed |= answer.facts.get("failed", {})
        facts |= answer.facts
        arrays |= answer.arrays
    return Answer({**facts, "failed": failed} if failed else facts, arrays)


def execution_of(question: Question) -> Execution:
    """Return how a question wants to be carried out: on the CPU, fast unless `plain` is set.

    The setting `device` is `gpu` where it is asked on a GPU.
    """
    settings = question.settings
    return Execution(
        device=settings.get("device", "cpu"),
        plain=bool(settings.get("plain", False)),
        devices=settings.get("devices", 1),
        num_threads=settings.get("threads"),
    )


def data_of(question: Question, recipe: Recipe) -> PreparedData:
    """Return the sets that a question names by `data_dir`."""
    return prepare(load_dataset(Path(question.settings["data_dir"])), recipe)


def weights_of(question: Question) -> dict[str, Array]:
    """Return the canonical weights of a question, its arrays `weights.*`."""
    return arrays_under(question, "weights")


def unlabeled_images_of(question: Question) -> LabeledImages:
    """Return the images of a question, uint8 (N, H, W, 1), with labels that mean nothing."""
    images = question.arrays["images"]
    return LabeledImages(images, np.zeros(len(images), np.int64))


def states_and(
    question: Question, finish: Callable[[], Answer], states: Sequence[Mapping[str, Array]]
) -> Answer:
    """Return what `finish` answers by training, with the states noted after its first steps.

    Where training breaks off, the states up to there remain.
    """
    failed: dict[str, str] = {}
    answer = attempt(failed, ["training"], finish)
    if answer is FAILED:
        whole = len(states) >= question.settings.get("steps", 0)
        asks = [ask for ask in ("steps", "training") if ask in question.asks]
        missed = [ask for ask in asks if ask != "steps" or not whole]
        answer = Answer({"failed": dict.fromkeys(missed, failed["training"])})
    arrays = dict(answer.arrays)
    for step, state in enumerate(states, start=1):
        arrays |= tagged(f"step.{step}", state)
    return Answer(answer.facts, arrays)


def scratch_journal(recipe: Recipe, data: PreparedData, folder: str) -> Journal:
    """Return a journal in a folder of its own, for training inside an answer."""
    record = Record(
        status="running",
        engine="",
        variant=recipe.variant,
        command=[],
        recipe=recipe_to_dict(recipe),
        execution={},
        dataset=data.described(),
        environment={},
        parameters=0,
    )
    return Journal(Path(folder), record, len(data.train), lambda line: None)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that goes when its block ends."""
    return tempfile.TemporaryDirectory(prefix=f"answer-{os.getpid()}-")


def blank_data(recipe: Recipe) -> PreparedData:
    """Return three sets of blank images, for a training that stops at its start."""
    size = recipe.image_size
    blank = LabeledImages(np.zeros((2, size, size, 1), np.uint8), np.zeros(2, np.int64))
    names = tuple(map(str, range(recipe.num_classes)))
    return PreparedData("blank", "", names, blank, blank, blank)


def thinned(question: Question, recipe: Recipe) -> Recipe:
    """Return the recipe with a network that costs nothing, where the setting `thin` asks for it."""
    if not question.settings.get("thin", False):
        return recipe
    thin = (1,) * len(recipe.conv_filters)
    return dataclasses.replace(recipe, conv_filters=thin, hidden_units=1)


def training_recipe(question: Question, recipe: Recipe) -> Recipe:
    """Return the recipe of the question's whole training: with what its `training` changes."""
    return dataclasses.replace(recipe, **question.settings.get("training", {}))


def narrowed(recipe: Recipe) -> Recipe:
    """Return the recipe with few channels and units; masks differ in some hundred values."""
    few = (2,) * len(recipe.conv_filters)
    return dataclasses.replace(recipe, conv_filters=few, hidden_units=64)


@dataclass
class FedBatches:
    """Keeps a digest of each batch that reached a step, with where it was fed."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def note(self, stage: str, images_nhwc: Array, one_hot: Array) -> None:
        """Note a batch, images (B, H, W, 1) and labels (B, classes), of `stage`."""
        self.rows.append(batch_row(stage, images_nhwc, one_hot))


def set_order(data: PreparedData, recipe: Recipe) -> list[str]:
    """Return a digest of each training image in the order in which the set lies."""
    batches = evaluation_batches(data.train, recipe)
    return [_digest(image)[:16] for index in range(len(batches)) for image in batches[index][0]]


def batch_row(stage: str, images_nhwc: Array, one_hot: Array) -> dict[str, Any]:
    """Return `stage`, size, shape, dtype, and digests of a batch's images and of its labels.

    `members` holds a digest for each image, `images` and `labels` one for all of the batch,
    `pixels` one of all its pixels in the order of their size;
    `classes` are the labels' class numbers, `mean` the images' mean to 6 digits.
    """
    mean = np.ascontiguousarray(images_nhwc).mean(dtype=np.float64)
    return {
        "stage": stage,
        "size": len(images_nhwc),
        "shape": list(images_nhwc.shape),
        "dtype": str(images_nhwc.dtype),
        "images": _digest(images_nhwc),
        "members": [_digest(image)[:16] for image in images_nhwc],
        "pixels": _digest(np.sort(images_nhwc, axis=None)),
        "labels": _digest(one_hot),
        "classes": one_hot.argmax(axis=1).tolist(),
        "mean": round(float(mean), 6),
    }


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def seeds_of(question: Question) -> Sequence[int]:
    """Return the seeds that a question asks for."""
    return [int(seed) for seed in question.settings["seeds"]]


def followed_run(
    question: Question, recipe: Recipe, data: PreparedData
) -> tuple[Journal, Follower]:
    """Return the journal and the follower of a run that is kept and can be gone on with.

    Settings: `run_dir`; `every` and optionally `keeps_every`, `reference`, `synchronises`,
    `stop_gap` and `ends_with`, see `Follower`.
    """
    settings = question.settings
    folder = Path(settings["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    journal = scratch_journal(recipe, data, str(folder))
    if (folder / RECORD).exists():
        journal.record = read_record(folder)
    reference = settings.get("reference")
    follower = Follower(
        folder / "states",
        every=settings["every"],
        keeps_every=settings.get("keeps_every"),
        reference=Path(reference) if reference else None,
        synchronises=settings.get("synchronises", False),
        stop_gap=settings.get("stop_gap"),
        ends_with=tuple(map(Path, settings.get("ends_with", ()))),
    )
    return journal, follower


def start_of(question: Question, recipe: Recipe) -> dict[str, Array] | None:
    """Return the weights to start from: the question's, or else what the recipe names."""
    return weights_of(question) or first_weights(recipe)
