"""What a built model can be asked, whichever framework it is written in: NumPy in and out."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from ladder.arrays import Array, Arrays, under
from ladder.exchange import Question

Facts = dict[str, Any]

ASKS = ("layers", "points", "forced", "cases", "gradients")
"""What `answer_subject` answers."""


class Subject(Protocol):
    """A model of this pipeline, its loss and its optimizer, as the ladder asks about them.

    Images are (N, H, W, C), floats; classes int64 (N,). Parameters have canonical names
    `<layer>.<kernel|bias>` and layouts: (H, W, in, out) and (in, out), the rows of a dense layer
    behind a flattened map in H, W, C order. So are maps and flattened maps that go in or come out.
    """

    model: Any

    def layer_table(self) -> list[Facts]:
        """Return a row for each layer: `name`, `kind`, `output_shape`, `parameters`."""

    def weights(self) -> dict[str, Array]:
        """Return the parameters."""

    def load_weights(self, weights: Arrays) -> None:
        """Set the parameters; ValueError where an entry does not fit."""

    def points(self, images: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the value once all layers up to each named one have run, in evaluation mode."""

    def forced(self, inputs: Arrays, names: Sequence[str]) -> dict[str, Array]:
        """Feed each segment its own input, in evaluation mode.

        The segment of a point is what lies behind the point named before it in `names`; only
        those are run that have an entry in `inputs`.
        """

    def predict(self, images: Array) -> Array:
        """Return the outputs (N, …), in evaluation mode."""

    def loss(self, images: Array, classes: Array) -> Array:
        """Return the batch's loss, shape (), in evaluation mode."""

    def gradients(
        self, images: Array, classes: Array, training: bool = True
    ) -> tuple[dict[str, Array], Array]:
        """Return each parameter's gradient and the `input`'s, and the loss.

        In training mode, or else in evaluation mode.
        """

    def dropout_layers(self) -> list[str]:
        """Return the names of the dropout layers, in order."""

    def dropped(self, name: str, count: int, training: bool) -> Array:
        """Return a dropout layer's output for `count` inputs of ones."""

    def fast_order(self) -> list[str] | None:
        """Return the layers in the order in which the fast path runs them; None for the table's."""


def answer_subject(question: Question, subject: Subject) -> tuple[Facts, dict[str, Array]]:
    """Answer those of `ASKS` that are in the question, and return facts and arrays.

    What raises is noted in `facts["failed"]`, by ask or by name of the array, and the rest is
    answered: a trace of a broken model should show where it is broken.
    """
    facts: Facts = {}
    arrays: dict[str, Array] = {}
    failed: dict[str, str] = {}
    asks = [ask for ask in question.asks if ask in ASKS]
    weights = under("weights", question.arrays)
    if weights and attempt(failed, asks, lambda: subject.load_weights(weights)) is FAILED:
        asks = [ask for ask in asks if ask == "layers"]
        failed = {name: text for name, text in failed.items() if name not in asks}
    for ask in asks:
        answer = attempt(failed, [ask], partial(_ANSWERS[ask], question, subject, failed))
        if answer is not FAILED:
            facts |= answer[0]
            arrays |= answer[1]
    return ({**facts, "failed": failed} if failed else facts), arrays


def snake_case(name: str) -> str:
    """Return a class's name in small letters, words apart."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


FAILED = object()
"""Returned by `attempt` where there is no answer."""


def attempt(failed: dict[str, str], names: Sequence[str], compute: Callable[[], Any]) -> Any:
    """Call `compute` and return its result; on an error, note it under `names`, return FAILED."""
    try:
        return compute()
    except Exception as error:  # whatever a broken model raises is its answer
        failed.update(dict.fromkeys(names, error_words(error)))
        return FAILED


def error_words(error: Exception) -> str:
    """Return an error's kind and message, cut where it is long."""
    return f"{type(error).__name__}: {error}"[:1000]


def tagged(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return `arrays` with `prefix` and a dot before each name."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def scaled(images: Array) -> Array:
    """Return uint8 pixels divided by 255, and floats as they are.

    In float64: its quotients, rounded to float32 later, are float32's own.
    """
    return images / np.float64(255) if images.dtype == np.uint8 else images


Answer = tuple[Facts, dict[str, Array]]


def _layers(question: Question, subject: Subject, failed: dict[str, str]) -> Answer:
    table = subject.layer_table()
    return {"layers": table, "parameters": sum(row["parameters"] for row in table)}, {}


def _points(question: Question, subject: Subject, failed: dict[str, str]) -> Answer:
    images, names = scaled(question.arrays["images"]), question.settings["points"]
    unused: dict[str, str] = {}
    values = attempt(unused, ["all"], lambda: subject.points(images, names))
    if values is FAILED:  # those before the layer that fails can still be had, one by one
        values = {}
        for name in names:
            found = attempt(failed, [f"point.{name}"], partial(subject.points, images, [name]))
            values |= {} if found is FAILED else found
    return {}, tagged("point", values)


def _forced(question: Question, subject: Subject, failed: dict[str, str]) -> Answer:
    inputs, names = under("input", question.arrays), question.settings["points"]
    values: dict[str, Array] = {}
    for name in names:
        one = {name: scaled(inputs[name])}
        found = attempt(failed, [f"forced.{name}"], partial(subject.forced, one, names))
        values |= {} if found is FAILED else found
    return {}, tagged("forced", values)


def _cases(question: Question, subject: Subject, failed: dict[str, str]) -> Answer:
    arrays: dict[str, Array] = {}
    for case in question.settings["cases"]:
        images, classes = _case(question, case)
        found = attempt(failed, [f"logits.{case}"], partial(subject.predict, images))
        arrays |= {} if found is FAILED else {f"logits.{case}": found}
        found = attempt(
            failed,
            [f"loss.{case}"],
            partial(subject.loss, images, classes),
        )
        arrays |= {} if found is FAILED else {f"loss.{case}": found}
    return {}, arrays


def _gradients(question: Question, subject: Subject, failed: dict[str, str]) -> Answer:
    """Answer `gradients`, in `gradient_mode`; the input's only for `input_gradient_cases`."""
    arrays: dict[str, Array] = {}
    settings = question.settings
    training = settings.get("gradient_mode", "training") == "training"
    for case in settings["gradient_cases"]:
        images, classes = _case(question, case)
        found = attempt(
            failed,
            [f"gradient.{case}"],
            partial(subject.gradients, images, classes, training),
        )
        if found is FAILED:
            continue
        gradients, loss = found
        if case not in settings.get("input_gradient_cases", settings["gradient_cases"]):
            gradients.pop("input", None)
        arrays |= tagged(f"gradient.{case}", {**gradients, "loss": loss})
    return {}, arrays


def _case(question: Question, case: str) -> tuple[Array, Array]:
    return scaled(question.arrays[f"images.{case}"]), question.arrays[f"labels.{case}"]


_ANSWERS: dict[str, Callable[[Question, Subject, dict[str, str]], Answer]] = {
    "layers": _layers,
    "points": _points,
    "forced": _forced,
    "cases": _cases,
    "gradients": _gradients,
}


def segment(table: Sequence[str], names: Sequence[str], point: str) -> list[str]:
    """Return the layers of `table` behind the point before `point` in `names`, up to `point`.

    Raises:
        ValueError: a name is no layer, or the points are not in the table's order.
    """
    unknown = [name for name in names if name not in table]
    if unknown:
        raise ValueError(f"`{unknown[0]}` is no layer; there are {', '.join(table)}")
    places = [table.index(name) for name in names]
    if places != sorted(set(places)):
        raise ValueError(f"points must follow the layers' order; received {', '.join(names)}")
    index = names.index(point)
    start = places[index - 1] + 1 if index else 0
    return list(table[start : places[index] + 1])
