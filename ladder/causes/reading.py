"""Reading evidence: layer rows, weights, cases, steps, whatever the traces hold of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ladder.causes.fits import agree
from ladder.causes.registry import Evidence, UnexaminableError
from ladder.exchange import Array, Arrays, Question, Trace

MAX_IMAGES = 64
"""Images of a case that a hypothesis is computed on."""


def layer_rows(trace: Trace) -> list[dict[str, Any]]:
    """Return the layer table, each row with what the contract says of the layer beside it."""
    rows = trace.facts.get("layers")
    contract = trace.facts.get("contract", {}).get("layers", {})
    if not rows:
        raise UnexaminableError("no layer table")
    return [{**contract.get(row["name"], {}), **row} for row in rows]


def reference_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the reference's layers, or the suspect's where only these are known."""
    trace = evidence.left if evidence.left.facts.get("layers") else evidence.right
    return layer_rows(trace)


def under(prefix: str, arrays: Arrays) -> dict[str, Array]:
    """Return the arrays whose names begin with `prefix` and a dot, without it."""
    return {
        name.removeprefix(f"{prefix}."): array
        for name, array in arrays.items()
        if name.startswith(f"{prefix}.")
    }


def scaled(images: Array) -> Array:
    """Return images as a network is fed them: uint8 is divided by 255."""
    return images / 255.0 if images.dtype == np.uint8 else images


@dataclass(frozen=True)
class Segment:
    """A run of layers with what it was fed and what both sides gave."""

    name: str
    rows: list[dict[str, Any]]
    table: list[dict[str, Any]]
    """The whole network's."""
    weights: Arrays
    fed: Array
    left: Array
    right: Array


def segments(evidence: Evidence) -> list[Segment]:
    """Return each differing segment: forced where that was asked, else from the input on."""
    found = _forced(evidence)
    return found or _from_the_input(evidence)


def _forced(evidence: Evidence) -> list[Segment]:
    question = evidence.question
    table = reference_rows(evidence)
    weights = under("weights", question.arrays)
    found, start = [], 0
    for point in question.settings.get("points", []):
        end = next((i for i, row in enumerate(table) if row["name"] == point), -1) + 1
        rows, start = table[start:end], max(end, start)
        sides = [trace.arrays.get(f"forced.{point}") for trace in (evidence.left, evidence.right)]
        fed = question.arrays.get(f"input.{point}")
        if rows and fed is not None and sides[0] is not None and sides[1] is not None:
            found.append(Segment(point, rows, table, weights, scaled(fed), sides[0], sides[1]))
    return [segment for segment in found if not _equal(segment.left, segment.right)]


def _from_the_input(evidence: Evidence) -> list[Segment]:
    """Return the first point that differs and, where none was asked, each case's logits."""
    table = reference_rows(evidence)
    weights = under("weights", evidence.question.arrays)
    left, right = evidence.left.arrays, evidence.right.arrays
    asked = [("images", f"point.{row['name']}", i + 1) for i, row in enumerate(table)]
    asked += [(f"images.{case}", f"logits.{case}", len(table)) for case in cases(evidence.question)]
    for fed_name, key, end in asked:
        fed = evidence.question.arrays.get(fed_name)
        if fed is None or key not in left or key not in right or _equal(left[key], right[key]):
            continue
        few = slice(min(len(fed), MAX_IMAGES))
        return [
            Segment(
                table[end - 1]["name"], table[:end], table, weights,
                scaled(fed[few]), left[key][few], right[key][few],
            )
        ]  # fmt: skip
    return []


def _equal(left: Array, right: Array) -> bool:
    """Return whether both sides gave the same to rounding."""
    return left.dtype == right.dtype and agree(left, right)


def cases(question: Question) -> list[str]:
    """Return the names of the cases whose images and labels a question holds."""
    names = [name.removeprefix("images.") for name in question.arrays if name.startswith("images.")]
    return [name for name in names if f"labels.{name}" in question.arrays]


@dataclass(frozen=True)
class Steps:
    """The state after each step, on one side."""

    arrays: Arrays
    first: Arrays
    """Weights before step 1; may be empty."""

    @property
    def numbers(self) -> list[int]:
        """Steps that the trace holds without a gap, from 1."""
        known = {int(name.split(".")[1]) for name in self.arrays if name.startswith("step.")}
        return [step for step in sorted(known) if set(range(1, step + 1)) <= known]

    def weights(self, step: int) -> dict[str, Array]:
        """Return the weights after `step`; 0 is before the first."""
        return under(f"step.{step}.weight", self.arrays) if step else dict(self.first)

    def slot(self, letter: str, step: int) -> dict[str, Array]:
        """Return Adam's `m` or `v` after `step`; zeros before the first."""
        if step == 0:
            return {name: np.zeros_like(array) for name, array in self.slot(letter, 1).items()}
        return under(f"step.{step}.adam.{letter}", self.arrays)

    def gradients(self, step: int, beta_1: float) -> dict[str, Array]:
        """Return the gradients of `step`, from m before and after it."""
        before, after = self.slot("m", step - 1), self.slot("m", step)
        return {name: (after[name] - beta_1 * before[name]) / (1 - beta_1) for name in after}

    def loss(self, step: int) -> float | None:
        """Return the loss of `step`."""
        array = self.arrays.get(f"step.{step}.loss")
        return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


def optimizer_settings(evidence: Evidence) -> dict[str, Any]:
    """Return the reference's optimizer settings: its contract's, or those that the question names.

    A question names them in `settings.optimizer` or among the fields of `settings.recipe`.
    """
    places = (
        evidence.left.facts.get("contract", {}).get("optimizer"),
        evidence.question.settings.get("optimizer"),
        evidence.question.settings.get("recipe"),
    )
    for place in places:
        if isinstance(place, Mapping) and "beta_1" in place and "beta_2" in place:
            return dict(place)
    raise UnexaminableError("the reference's optimizer settings are not known")


def batch_size(evidence: Evidence) -> int | None:
    """Return the size of a full batch, as far as it is known."""
    settings = evidence.question.settings
    recipe = settings.get("recipe")
    for place in (settings, recipe if isinstance(recipe, Mapping) else {}):
        if isinstance(place.get("batch_size"), int):
            return int(place["batch_size"])
    rows = evidence.left.facts.get("batches") or []
    sizes = [row["size"] for row in rows if row["stage"] == "train"]
    return max(sizes) if sizes else None


def join(names: Sequence[str], most: int = 4) -> str:
    """Return names as one text, the rest counted."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
