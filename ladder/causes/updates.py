"""What an optimizer's steps did to the weights, and what Adam would have done."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ladder.causes.fits import (
    FLOAT64,
    Fit,
    agree,
    distance,
    fit,
    is_near,
    nice,
    precision_of,
    size_of,
)
from ladder.causes.formulas import Adam
from ladder.causes.reading import Steps, optimizer_settings, under
from ladder.causes.registry import Evidence, UnexaminableError
from ladder.exchange import Array, Arrays

RUNGS = ("optimizer", "training")


KNOWN_EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-10, 1e-12)


FLOAT32_SHARE = 1e-6
"""Share by which a learning rate may part that went through float32."""


MAX_STEPS = 3
"""Steps on which a hypothesis is computed."""


STILL = 1e-9
"""Share of the reference's step below which a weight has not moved."""


MAX_COUNT = 100_000
"""Largest step count that is looked for in a stale optimizer."""


@dataclass(frozen=True)
class Updates:
    """The steps of both sides and the reference's formula."""

    left: Steps
    right: Steps
    adams: dict[int, Adam]
    """The reference's, by step: its learning rate may follow a schedule."""
    numbers: list[int]
    spared: frozenset[str]
    """Parameters that the reference's weight decay leaves out."""

    def adam(self, step: int, name: str) -> Adam:
        """Return the reference's Adam for a parameter."""
        adam = self.adams[step]
        return replace(adam, decay=0.0) if name in self.spared else adam

    @cached_property
    def few(self) -> list[int]:
        """The steps that hypotheses are computed on: from the first one on that differs."""
        return [step for step in self.numbers if step >= self.first_difference][:MAX_STEPS]

    @cached_property
    def first_difference(self) -> int:
        """The first step after which weights or slots differ; 1 where none does."""
        return next((step for step in self.numbers if not self._are_equal(step)), 1)

    def _are_equal(self, step: int) -> bool:
        states = (
            (side.weights(step), side.slot("m", step), side.slot("v", step))
            for side in (self.left, self.right)
        )
        return all(
            one.keys() == two.keys() and all(agree(one[name], two[name]) for name in one)
            for one, two in zip(*states, strict=True)
        )


def read_updates(evidence: Evidence) -> Updates:
    """Return both sides' steps and the Adam that explains the reference's.

    Raises:
        UnexaminableError: no steps, or the reference's settings do not explain its own.
    """
    if "updates" not in evidence.readings:
        evidence.readings["updates"] = _read_updates(evidence)
    return evidence.readings["updates"]


def _read_updates(evidence: Evidence) -> Updates:
    settings = optimizer_settings(evidence)
    is_decoupled = "decoupled" in str(settings.get("weight_decay_kind", ""))
    adam = Adam(
        float(settings["learning_rate"]),
        float(settings["beta_1"]),
        float(settings["beta_2"]),
        float(settings["epsilon"]),
        is_inside="inside" in str(settings.get("epsilon_placement", "outside")),
        decay=float(settings.get("weight_decay") or 0.0) if is_decoupled else 0.0,
    )
    left = Steps(evidence.left.arrays, _first_weights(evidence, adam))
    right = Steps(evidence.right.arrays, left.first)
    numbers = [step for step in left.numbers if step in right.numbers]
    if not numbers or not left.slot("m", 1):
        raise UnexaminableError("no steps with slots")
    adams = {step: _scheduled(left, adam, step) for step in numbers}
    updates = Updates(left, right, adams, numbers, _spared(left, adams))
    if not _is_reproduced(updates):
        raise UnexaminableError("the reference's settings do not give its own weights")
    return updates


def _is_reproduced(updates: Updates) -> bool:
    left = updates.left
    for step in updates.few:
        before, after = left.weights(step - 1), left.weights(step)
        m, v = left.slot("m", step), left.slot("v", step)
        for name in m:
            made = updates.adam(step, name).after(before[name], m[name], v[name], step)
            allowed = precision_of(after[name]).state * size_of(after[name])
            if not distance(made, after[name]) <= allowed:
                return False
    return True


def _spared(steps: Steps, adams: dict[int, Adam]) -> frozenset[str]:
    """Return the parameters that move as if nothing decayed them, though the others decay."""
    spared = set()
    for name in steps.slot("m", 1) if adams[1].decay else ():
        rests = []
        for decay in (adams[1].decay, 0.0):
            made = [
                replace(adam, decay=decay).after(
                    steps.weights(step - 1)[name],
                    steps.slot("m", step)[name],
                    steps.slot("v", step)[name],
                    step,
                )
                for step, adam in adams.items()
            ]
            pairs = zip(made, adams, strict=True)
            rests.append(max(distance(value, steps.weights(step)[name]) for value, step in pairs))
        if rests[1] < rests[0]:
            spared.add(name)
    return frozenset(spared)


def _first_weights(evidence: Evidence, adam: Adam) -> dict[str, Array]:
    """Return the weights before step 1: the question's, or those that the reference came from."""
    steps = Steps(evidence.left.arrays, {})
    m, v, after = steps.slot("m", 1), steps.slot("v", 1), steps.weights(1)
    asked = under("weights", evidence.question.arrays)
    given = {name: asked[name] for name in after if name in asked}
    if given.keys() == after.keys():
        rate = rate_of(given, after, m, v, adam, 1)
        # Where weights decay, biases may be left out.
        sure = [name for name in m if not adam.decay or given[name].ndim > 1]
        moved = {n: replace(adam, learning_rate=rate).after(given[n], m[n], v[n], 1) for n in sure}
        # A fit is asked for against standing still: the question's weights may be other ones.
        if fit(((moved[n], given[n], after[n]) for n in sure), is_state=True):
            return given
    kept = 1 - adam.learning_rate * adam.decay
    return {
        name: (after[name] + adam.learning_rate * adam.direction(m[name], v[name], 1)) / kept
        for name in m
    }


def _scheduled(steps: Steps, adam: Adam, step: int) -> Adam:
    """Return `adam` with the learning rate that a step shows, where that is another."""
    before, after = steps.weights(step - 1), steps.weights(step)
    rate = rate_of(before, after, steps.slot("m", step), steps.slot("v", step), adam, step)
    share = 1e-9 if _is_double(after) else 1e-3
    if is_near(rate, adam.learning_rate, share) or not np.isfinite(rate):
        return adam
    return replace(adam, learning_rate=rate)


def _is_double(arrays: Arrays) -> bool:
    return precision_of(*arrays.values()) == FLOAT64


def rate_of(before: Arrays, after: Arrays, m: Arrays, v: Arrays, adam: Adam, step: int) -> float:
    """Return the learning rate that explains a step best, NaN where nothing moves it."""
    moved = square = 0.0
    for name in m:
        # Where weights decay, kernels surely do.
        if name not in before or name not in after or (adam.decay and before[name].ndim < 2):
            continue
        weight = np.asarray(before[name], np.float64)
        direction = adam.direction(m[name], v[name], step) + adam.decay * weight
        moved += float(np.vdot(weight - after[name], direction))
        square += float(np.vdot(direction, direction))
    return moved / square if square > 0 else float("nan")


def fit_updates(updates: Updates, vary: Callable[[Adam, int], Adam]) -> Fit | None:
    """Return the gaps where the reference's Adam, varied, makes the suspect's weights.

    It is given the suspect's own slots, so that what came before does not matter.
    """
    return fit(_predictions(updates, vary), is_state=True)


def _predictions(
    updates: Updates, vary: Callable[[Adam, int], Adam]
) -> Iterator[tuple[Array, Array | None, Array]]:
    right = updates.right
    for step in updates.few:
        before, after = right.weights(step - 1), right.weights(step)
        m, v = right.slot("m", step), right.slot("v", step)
        if not m:
            raise UnexaminableError("the suspect has no slots")
        for name in m:
            state = (before[name], m[name], v[name], step)
            adam = updates.adam(step, name)
            yield vary(adam, step).after(*state), adam.after(*state), after[name]


def with_changes(**changes: object) -> Callable[[Adam, int], Adam]:
    """Return a variation of Adam by these fields, in every step."""
    return lambda adam, step: replace(adam, **changes)  # type: ignore[arg-type]


def placement_word(is_inside: bool) -> str:
    """Return where ε stands, of the bias correction."""
    return "inside" if is_inside else "outside"


def typed(rate: float) -> float:
    """Return the short decimal number that a rate was typed as, or itself."""
    short = nice(rate, 1e-8)
    return rate if short is None else short


def skipped_numbers(updates: Updates) -> list[int]:
    """Return the steps in which the reference moves and nothing of the suspect does."""
    return [
        step
        for step in updates.numbers
        if stands(updates, updates.right, step)
        and _are_slots_kept(updates.right, step)
        and not stands(updates, updates.left, step)
    ]


def stands(updates: Updates, steps: Steps, step: int) -> bool:
    """Return whether no weight of a side moves in a step."""
    after = steps.weights(step)
    if not after or steps.weights(step - 1).keys() != after.keys():
        return False
    return all(is_still(updates, steps, name, step) for name in after)


def is_still(updates: Updates, steps: Steps, name: str, step: int) -> bool:
    """Return whether a weight stands still in a step, to rounding.

    A weight may be known to rounding only: before the first step, and after any that passed, of
    which diagnoses are shown the reference's.
    """
    before, after = (steps.weights(number)[name] for number in (step - 1, step))
    rounding = precision_of(after).state * size_of(after)
    own = [updates.left.weights(number)[name] for number in (step - 1, step)]
    return distance(before, after) <= max(rounding, STILL * distance(*own))


def _are_slots_kept(steps: Steps, step: int) -> bool:
    """Return whether Adam's slots are what they were before a step; where there are none, too."""
    pairs = [
        (steps.slot(letter, step - 1).get(name), after)
        for letter in "mv"
        for name, after in steps.slot(letter, step).items()
    ]
    return all(before is not None and agree(before, after) for before, after in pairs)
