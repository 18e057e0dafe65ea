"""Evidence, diagnosis, and the causes by rung."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ladder.exchange import Question, Trace


@dataclass(frozen=True)
class Evidence:
    """What is known where a rung fails."""

    rung: str
    question: Question
    left: Trace
    """The reference."""
    right: Trace
    """The suspect."""


@dataclass(frozen=True)
class Diagnosis:
    """A cause that explains the suspect's values."""

    cause: str
    where: str
    """The layer's or parameter's path, or the stage of the data."""
    sentence: str
    """What the cause, which is a name, did; empty where the cause is a sentence."""


class Rank(IntEnum):
    """How much a diagnosis leaves open; the least open comes first."""

    FORMULA = 0
    """A formula without a free number gives the suspect's values."""
    FITTED = 1
    """A formula with one fitted number."""
    PATTERN = 2
    """A property that the cause always has and rounding never."""
    REMAINDER = 3
    """The most general explanation, for when nothing above it fits."""


class UnexaminableError(ValueError):
    """The traces do not hold what a cause is recognised by."""


Found = Diagnosis | Iterable[Diagnosis] | None
Detector = Callable[[Evidence], Found]

KNOWN_CAUSES: set[str] = set()
"""Every id that a diagnosis can have."""
# What strange traces raise, where a detector expects the form that the documents describe.
UNEXAMINABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_BY_RUNG: dict[str, list[tuple[Rank, frozenset[str], Detector]]] = defaultdict(list)
"""What recognises causes on a rung, with their ids."""


def detects(
    *causes: str, on: Iterable[str], rank: Rank = Rank.FORMULA
) -> Callable[[Detector], Detector]:
    """Register a function that recognises `causes` on the rungs `on`."""

    def register(detector: Detector) -> Detector:
        KNOWN_CAUSES.update(causes)
        for rung in on:
            _BY_RUNG[rung].append((rank, frozenset(causes), detector))
        return detector

    return register


def diagnose(evidence: Evidence, among: Set[str] | None = None) -> list[Diagnosis]:
    """Return the causes that explain the difference, the most specific first; [] without any.

    With `among`, only these causes are looked for. Never raises for what a trace lacks: a cause
    that cannot be examined is not named.
    """
    found: dict[tuple[str, str], tuple[Rank, Diagnosis]] = {}
    for rank, causes, detector in _BY_RUNG.get(evidence.rung, []):
        if among is not None and not among & causes:
            continue
        for diagnosis in _examine(detector, evidence):
            if among is not None and diagnosis.cause not in among:
                continue
            key = (diagnosis.cause, diagnosis.where)
            if key not in found or rank < found[key][0]:
                found[key] = (rank, diagnosis)
    ranked = sorted(found.values(), key=lambda item: item[0])
    # What is known from a formula makes the most general explanation empty.
    best = ranked[0][0] if ranked else Rank.REMAINDER
    return [
        diagnosis for rank, diagnosis in ranked if rank < Rank.REMAINDER or best == Rank.REMAINDER
    ]


def _examine(detector: Detector, evidence: Evidence) -> Iterator[Diagnosis]:
    try:
        with np.errstate(all="ignore"):  # a hypothesis may divide by what is zero, and not fit
            found = detector(evidence)
            listed = [found] if isinstance(found, Diagnosis) else list(found or ())
    except UNEXAMINABLE:
        return
    yield from listed
