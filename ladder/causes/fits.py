"""When a hypothesis fits: its values are the suspect's to rounding, and the reference's are not."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ladder.arrays import Array


@dataclass(frozen=True)
class Precision:
    """How near a hypothesis must come in one floating-point format."""

    computed: float
    """Share of the largest value by which a layer's sums may be off."""
    fall: float
    """Share of the gap to the reference that may remain."""


FLOAT64 = Precision(computed=1e-11, fall=1e-3)
FLOAT32 = Precision(computed=2e-5, fall=5e-2)
NICE_DIGITS = 4  # a setting that someone typed has few digits
NICE_SHARE = 1e-6  # and is met to float32 at least


@dataclass(frozen=True)
class Fit:
    """The gap before and after a hypothesis."""

    before: float
    after: float

    def __str__(self) -> str:
        if not np.isfinite(self.before):
            return f"the gap falls to {self.after:.1e}"
        return f"the gap falls from {self.before:.1e} to {self.after:.1e}"


Triple = tuple[Array, Array | None, Array]
"""Hypothesis, reference, suspect."""


def precision_of(*arrays: Array) -> Precision:
    """Return the precision of the coarsest of `arrays`."""
    is_double = all(array.dtype in (np.float64, np.int64) for array in arrays)
    return FLOAT64 if is_double else FLOAT32


def fit(triples: Iterable[Triple]) -> Fit | None:
    """Return the gaps where every hypothesis gives the suspect's values, else None.

    A reference of another shape, or None, is infinitely far.
    """
    listed = list(triples)
    if not listed:
        return None
    precision = precision_of(*(suspect for _, _, suspect in listed))
    before = after = 0.0
    for hypothesis, reference, suspect in listed:
        rest = distance(hypothesis, suspect)
        allowed = precision.computed * size_of(suspect)
        if not rest <= allowed or not np.isfinite(rest):
            return None
        after = max(after, rest)
        before = max(before, np.inf if reference is None else distance(reference, suspect))
    is_better = before > 0 and after <= precision.fall * before
    return Fit(before, after) if is_better else None


def distance(left: Array, right: Array) -> float:
    """Return the largest |left − right|; infinite where shapes differ or NaN stands."""
    if left.shape != right.shape:
        return np.inf
    if left.size == 0:
        return 0.0
    gap = np.abs(np.asarray(left, np.float64) - np.asarray(right, np.float64)).max()
    return float(gap) if np.isfinite(gap) else np.inf


def size_of(array: Array) -> float:
    """Return the largest |value|, 0 for an empty array."""
    return float(np.abs(array).max()) if array.size else 0.0


def agree(left: Array, right: Array) -> bool:
    """Return whether two arrays are equal to rounding."""
    allowed = precision_of(left, right).computed * max(size_of(left), size_of(right))
    return distance(left, right) <= allowed


def nice(value: float) -> float | None:
    """Return the number of few digits that `value` is, to float32 rounding, or None."""
    if not np.isfinite(value):
        return None
    rounded = float(f"{value:.{NICE_DIGITS - 1}e}")
    return rounded if abs(rounded - value) <= NICE_SHARE * abs(value) else None


def is_near(left: float, right: float, share: float) -> bool:
    """Return whether two numbers are within `share` of the larger."""
    return bool(abs(left - right) <= share * max(abs(left), abs(right)))


def number(value: float) -> str:
    """Return a number as text, in the few digits that it has."""
    typed = nice(value)
    return f"{value if typed is None else typed:.6g}"
