"""Answering a question: what both implementations do around reading their framework's objects."""

import dataclasses
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ladder.arrays import under
from ladder.exchange import Question, Trace, read_question, write_trace
from ladder.following import EnoughSeenError, Follower
from ladder.subject import (
    ASKS,
    FAILED,
    Subject,
    answer_subject,
    attempt,
    error_words,
    tagged,
)
from pipeline.batches import batch_dtype, training_batches
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.fed import order_digests
from pipeline.journal import Journal
from pipeline.network import first_weights, parameter_shapes
from pipeline.preprocess import LabeledImages, PreparedData, prepare, rescale
from pipeline.processes import this_process
from pipeline.recipe import Recipe, recipe_from_dict, recipe_to_dict
from pipeline.record import RECORD, Record
from pipeline.recorded import read_record

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Answer:
    """One part of a trace: plain values and arrays."""

    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)


class Side(Protocol):
    """What an implementation's `trace` module provides; models are its framework's.

    Classes whose names are its `watch` module's are callbacks for `train`.
    """

    AfterEachStep: Any
    """Keeps the state after each step, by the subject that its first argument makes of a model."""
    AtSeams: Any
    Follow: Any
    ImplementationSubject: Callable[[Any, Recipe, Execution], Subject]
    InjectMasks: Any
    NoteMasks: Any
    Watch: Any
    configure: Callable[[Recipe, Execution], Any]
    export_model: Callable[[str, Path, Recipe, Weights], None]
    predict_logits: Callable[[Any, LabeledImages, Recipe, Execution], Array]
    read_state: Callable[[Path, Recipe], tuple[Weights, int]]
    run_exported: Callable[[str, Path, list[Array]], list[Array]]
    train: Callable[..., Any]

    def engine(self) -> str:
        """Return the engine's name."""

    def built_subject(self, recipe: Recipe, execution: Execution) -> Subject:
        """Build a model as training does."""

    def drawn_weights(self, recipe: Recipe) -> Weights:
        """Return the first weights that the framework draws by itself, from the recipe's seed."""

    def adopt(
        self,
        recipe: Recipe,
        execution: Execution,
        run_dir: Path,
        state: Weights,
        epochs: int,
        best_val_loss: float,
    ) -> None:
        """Write a training state into a run's checkpoint."""

    def joined(self, question: Question, execution: Execution) -> AbstractContextManager[Any]:
        """Join the other processes that train, where there are some."""


Answerer = Callable[[Side, Question, Recipe], Answer]


def answer_file(side: Side, question_path: Path, trace_path: Path) -> int:
    """Answer a question file with a trace file; return 0, or 2 where something unknown is asked."""
    question = read_question(question_path)
    unknown = [ask for ask in question.asks if ask not in ANSWERERS]
    if unknown:
        print(f"{side.engine()} cannot answer {unknown[0]!r}", file=sys.stderr)
        return 2
    recipe = recipe_from_dict(dict(question.settings["recipe"]))
    side.configure(recipe, execution_of(question))
    answer = answer_each(side, question, recipe)
    trace = Trace(side.engine(), question.identity, answer.facts, answer.arrays)
    write_trace(trace_path, trace)
    return 0


def answer_each(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Answer each ask; one answerer that stands for several asks is called once.

    What raises is noted in `facts["failed"]` by ask, its traceback on stderr, and the rest is
    answered: a trace of a broken implementation should show where it is broken.
    """
    facts: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    failed: dict[str, str] = {}
    for answerer in dict.fromkeys(ANSWERERS[ask] for ask in question.asks):
        try:
            answer = answerer(side, question, recipe)
        except Exception as error:  # whatever a broken implementation raises is its answer
            traceback.print_exc()
            asks = [ask for ask in question.asks if ANSWERERS[ask] is answerer]
            failed |= dict.fromkeys(asks, error_words(error))
            continue
        failed |= answer.facts.get("failed", {})
        facts |= answer.facts
        arrays |= answer.arrays
    return Answer({**facts, "failed": failed} if failed else facts, arrays)


def answer_network(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Answer what one built model can be asked; with masks, as of epoch 0, step 0."""
    subject = side.built_subject(recipe, execution_of(question))
    if question.settings.get("masks", False):
        injected(side, subject, recipe).draw(0, 0)
    facts, arrays = answer_subject(question, subject)
    order = subject.fast_order()
    if "layers" in facts and order is not None:
        facts["fast_order"] = order
    return Answer(facts, arrays)


def injected(side: Side, subject: Subject, recipe: Recipe) -> Any:
    """Give the model's dropout layers masks from NumPy, and return what draws them."""
    masks = side.InjectMasks(recipe)
    masks.set_model(subject.model)
    return masks


def answer_dropout(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Return each dropout layer's output for ones: with masks, in evaluation, on its own."""
    arrays: dict[str, Array] = {}
    subject = side.built_subject(recipe, execution_of(question))
    for name in subject.dropout_layers():
        arrays[f"drop_own.{name}"] = subject.dropped(name, 64, training=True)
        arrays[f"drop_eval.{name}"] = subject.dropped(name, recipe.batch_size, training=False)
    if question.settings.get("masks", False):
        masks = injected(side, subject, recipe)
        for step in (0, 1):
            masks.draw(0, step)
            for name in subject.dropout_layers():
                dropped = subject.dropped(name, recipe.batch_size, training=True)
                arrays[f"drop.{name}.{step}"] = dropped
    if "training" in question.settings:
        arrays |= tagged("drop_steps", own_masks(side, question, recipe))
    return Answer(arrays=arrays)


def own_masks(side: Side, question: Question, recipe: Recipe) -> dict[str, Array]:
    """Return two sums over each mask (steps, 2) that production training draws, by layer."""
    # Few channels and units: masks differ in some hundred values.
    recipe = narrowed(training_recipe(question, recipe))
    data = data_of(question, recipe)
    note = side.NoteMasks(recipe, recipe.num_epochs * len(training_batches(data.train, recipe)))
    trained(side, question, recipe, data, None, [note])
    found: dict[str, Array] = note.noted()
    return found


def trained(
    side: Side,
    question: Question,
    recipe: Recipe,
    data: PreparedData,
    start: Weights | None,
    callbacks: Sequence[Any],
) -> tuple[Any, list[Any]]:
    """Train in a folder that goes again, and return the model and the epochs' history."""
    with scratch_folder() as folder:
        journal = scratch_journal(recipe, data, folder)
        model = side.train(recipe, data, execution_of(question), journal, start, callbacks)
    return model, list(journal.record.history)


def answer_own_weights(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Draw the framework's own first weights for each seed."""
    arrays: dict[str, Array] = {}
    for seed in map(int, question.settings["seeds"]):
        drawn = side.drawn_weights(dataclasses.replace(recipe, seed=seed))
        arrays |= tagged(f"own.{seed}", drawn)
    return Answer(arrays=arrays)


def carrying(side: Side, question: Question, recipe: Recipe) -> Subject:
    """Build the model and carry the question's weights in."""
    subject = side.built_subject(recipe, execution_of(question))
    subject.load_weights(under("weights", question.arrays))
    return subject


def answer_logits(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Carry the question's weights in; return them again, and the images' logits by the subject."""
    subject = carrying(side, question, recipe)
    logits = subject.predict(rescale(question.arrays["images"], batch_dtype(recipe)))
    return Answer(arrays={"logits": logits, **tagged("exported", subject.weights())})


def answer_predict(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Return the logits of the question's images, computed as a run computes its test logits."""
    model = carrying(side, question, recipe).model
    images = question.arrays["images"]
    unlabeled = LabeledImages(images, np.zeros(len(images), np.int64))
    logits = side.predict_logits(model, unlabeled, recipe, execution_of(question))
    return Answer(arrays={"logits": logits})


def answer_state(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Return a run's training state, the epochs it has seen, and the logits of the images."""
    state, epochs = side.read_state(Path(question.settings["run_dir"]), recipe)
    weights = {name: state[name] for name in parameter_shapes(recipe)}
    arrays = {**question.arrays, **tagged("weights", weights)}
    answer = answer_predict(side, dataclasses.replace(question, arrays=arrays), recipe)
    return Answer({"epochs": epochs}, {**answer.arrays, **tagged("state", state)})


def answer_adopt(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Write a training state into a run's checkpoint, and answer from that file."""
    settings, state = question.settings, under("state", question.arrays)
    run_dir, execution = Path(settings["run_dir"]), execution_of(question)
    side.adopt(recipe, execution, run_dir, state, settings["epochs"], settings["best_val_loss"])
    return answer_state(side, question, recipe)


def answer_export(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Write the model with the question's weights as a file of the form that is asked for."""
    settings, weights = question.settings, under("weights", question.arrays)
    side.export_model(settings["form"], Path(settings["path"]), recipe, weights)
    return Answer()


def answer_exported(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Return the logits that an exported file gives for the question's batches."""
    settings, batches = question.settings, list(question.arrays.values())
    logits = side.run_exported(settings["form"], Path(settings["path"]), batches)
    return Answer(arrays={"logits": np.concatenate(logits)})


def answer_batches(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Train, predict, and return a digest of each batch that a step was given."""
    recipe = thinned(question, recipe)
    fed: list[dict[str, Any]] = []
    data = data_of(question, recipe)
    model, _ = trained(side, question, recipe, data, None, [side.Watch(fed)])
    side.predict_logits(model, data.test, recipe, execution_of(question))
    return Answer({"batches": fed, "set_order": order_digests(data, recipe)})


def answer_training(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Train for `steps` and for `training`: states, history, last weights and logits.

    Apart, as a fast path takes several steps at once unless each is looked at: the second is
    production's own, looked at where such calls end. Where training breaks off, the states up to
    there remain.
    """
    execution, start = execution_of(question), start_of(question, recipe)
    num_steps = question.settings.get("steps", 0) if "steps" in question.asks else 0
    after = side.AfterEachStep(
        lambda model: side.ImplementationSubject(model, recipe, execution), num_steps
    )

    def masks_for(recipe: Recipe) -> list[Any]:
        return [side.InjectMasks(recipe)] if question.settings.get("masks", False) else []

    def finish() -> Answer:
        if num_steps:
            data, callbacks = data_of(question, recipe), [*masks_for(recipe), after]
            with suppress(side.AfterEachStep.Reached):
                trained(side, question, recipe, data, start, callbacks)
        if "training" not in question.asks:
            return Answer()
        longer = training_recipe(question, recipe)
        data, masks = data_of(question, longer), masks_for(longer)
        num_batches = len(training_batches(data.train, longer))
        seams = side.AtSeams(question.settings.get("call", num_batches), num_batches)
        model, history = trained(side, question, longer, data, start, [*masks, seams])
        subject = side.ImplementationSubject(model, longer, execution)
        arrays = tagged("trained", subject.weights())
        for step, weights in seams.weights.items():
            arrays |= tagged(f"seam.{step}", weights)
        for images, name in ((data.test, "trained"), (data.validation, "validation")):
            logits = side.predict_logits(model, images, longer, execution)
            arrays[f"{name}_logits"] = logits
        arrays["validation_classes"] = data.validation.labels
        modes = {stage: sorted(seen) for each in masks for stage, seen in each.modes.items()}
        return Answer({"history": history, "dropout_modes": modes}, arrays)

    failed: dict[str, str] = {}
    answer = attempt(failed, ["training"], finish)
    if answer is FAILED:
        whole = len(after.states) >= question.settings.get("steps", 0)
        asks = [ask for ask in ("steps", "training") if ask in question.asks]
        missed = [ask for ask in asks if ask != "steps" or not whole]
        answer = Answer({"failed": dict.fromkeys(missed, failed["training"])})
    arrays = dict(answer.arrays)
    for step, state in enumerate(after.states, start=1):
        arrays |= tagged(f"step.{step}", state)
    return Answer(answer.facts, arrays)


def answer_follow(side: Side, question: Question, recipe: Recipe) -> Answer:
    """Train in a run folder of its own, looked at by a follower; go on where it was left.

    Dropout's masks are NumPy's, unless the setting `own_dropout` leaves the draw to the layers. Of
    several ranks, rank 0 is looked at and writes.
    """
    data, execution = data_of(question, recipe), execution_of(question)
    journal, follower = followed_run(question, recipe, data)
    journal.writes = this_process().rank == 0
    callbacks: list[Any] = []
    if any(recipe.dropout_rates) and not question.settings.get("own_dropout", False):
        callbacks.append(side.InjectMasks(recipe))
    if journal.writes:
        callbacks.append(side.Follow(follower, recipe, len(training_batches(data.train, recipe))))
    with suppress(EnoughSeenError), side.joined(question, execution):
        side.train(recipe, data, execution, journal, start_of(question, recipe), callbacks)
    return Answer({"steps": follower.rows, "history": list(journal.record.history)})


ANSWERERS: dict[str, Answerer] = {
    **dict.fromkeys(ASKS, answer_network),
    "dropout": answer_dropout,
    "own_weights": answer_own_weights,
    "logits": answer_logits,
    "predict": answer_predict,
    "state": answer_state,
    "adopt": answer_adopt,
    "export": answer_export,
    "exported": answer_exported,
    "batches": answer_batches,
    **dict.fromkeys(("steps", "training"), answer_training),
    "follow": answer_follow,
}


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
    return under("weights", question.arrays) or first_weights(recipe)
