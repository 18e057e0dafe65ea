"""How far two arrays are apart, and what a gap of that size can be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CALL = 1e-12
"""A call or a stretch fed the same numbers: rounding of sums. Measured: up to 4e-14."""
END_TO_END = 1e-10
"""Outputs through a whole model, once each call agrees: rounding grows. Measured: up to 8e-15."""
LOCAL_GRADIENT = 1e-11
"""Gradients of one call, or of what follows it. Measured: up to 5e-14."""
WHOLE_GRADIENT = 1e-9
"""Gradients through a whole model in training mode. Measured: up to 3e-12."""
FLOAT32_LOW, FLOAT32_HIGH = 1e-10, 1e-6
"""What a constant that was rounded to float32 does to float64 numbers."""
NOISE = 1e-3
"""A gradient smaller than this share of its call's largest is measured against
that: by theory it is zero, as a shift's before a norm in training, and holds rounding alone."""

ENOUGH = 10**6
"""Numbers by which is told how large most of an array are."""
HUGE = 1e6
"""Numbers that are larger than most by this factor are compared apart from these."""


@dataclass(frozen=True)
class Gap:
    """The largest difference of two arrays, in units of the reference's largest number."""

    size: float
    """Not finite where shapes differ or a number is no number."""
    text: str = ""
    """What is to be said in place of the size."""

    def within(self, limit: float) -> bool:
        """Return whether it is at most `limit`; NaN is not."""
        return self.size <= limit

    def __str__(self) -> str:
        """Return the size in two digits, or what is wrong."""
        return self.text or f"{self.size:.1e}"


def gap(reference: np.ndarray, suspect: np.ndarray, largest: float = 0.0) -> Gap:
    """Return how far `suspect` is from `reference`.

    Args:
        reference: an array.
        suspect: an array of the same shape. Booleans and integers are taken as numbers.
        largest: of numbers of this kind; the unit for those that are `NOISE` of it at most.
    """
    if reference.shape != suspect.shape:
        return Gap(math.inf, f"shapes {_shape(reference)} | {_shape(suspect)}")
    if not reference.size:
        return Gap(math.inf, "nothing to compare")
    if np.iscomplexobj(reference) or np.iscomplexobj(suspect):
        reference, suspect = (np.stack([np.real(a), np.imag(a)]) for a in (reference, suspect))
    reference, suspect = (a.astype(np.float64, copy=False) for a in (reference, suspect))
    if not (np.isfinite(reference).all() and np.isfinite(suspect).all()):
        return Gap(math.inf, "NaN or infinity")
    sizes = np.abs(reference)
    own = float(sizes.max())
    some = sizes.reshape(-1)[:: 1 + sizes.size // ENOUGH]
    some = some if some.any() else sizes
    huge = sizes > HUGE * np.median(some[some > 0]) if own else sizes > 0
    del sizes
    if huge.any() and not huge.all():  # a mask of -1e30 among logits would hide them
        parts = [gap(reference[part], suspect[part], largest) for part in (huge, ~huge)]
        return max(parts, key=lambda g: g.size)
    differences = np.asarray(reference - suspect)
    apart = float(np.abs(differences, out=differences).max())
    unit = own if own > NOISE * largest else largest
    if apart == 0:
        return Gap(0.0)
    return Gap(apart / unit if unit else math.inf)


def _shape(a: np.ndarray) -> str:
    return "(" + ", ".join(map(str, a.shape)) + ")"


def turned(reference: Sequence[np.ndarray], suspect: Sequence[np.ndarray]) -> list[int]:
    """Return at which place of `suspect` each array of `reference` stands.

    Returns:
        Nothing where each stands at its own, or one at none.
    """
    places = list(range(len(reference)))
    if len(suspect) != len(reference) or len(reference) < 2:
        return []
    found = [
        next((m for m in [k, *places] if gap(a, suspect[m]).within(CALL)), -1)
        for k, a in enumerate(reference)
    ]
    return found if found != places and sorted(found) == places else []


def fitted(array: np.ndarray, shape: tuple[int, ...] | list[int]) -> np.ndarray:
    """Return an array with its axes of size 1, or of places, as `shape` has them.

    A 1×1 convolution of one point, (N, 1, 1, C), is a dense layer of (N, C), and one of a map,
    (N, H, W, C), a dense layer of (N, H·W, C); frames may stand as samples, (N·T, H, W, C). What
    is none of these comes back unchanged.
    """
    wanted = tuple(shape)
    if array.shape == wanted or array.size != math.prod(wanted):
        return array
    is_same = [n for n in array.shape if n != 1] == [n for n in wanted if n != 1]
    ends = (array.shape[:1], array.shape[-1:]), (wanted[:1], wanted[-1:])
    behind = min(array.ndim, len(wanted)) - 1
    is_joined = behind > 1 and ends[0] == ends[1]
    is_folded = behind > 0 and array.shape[-behind:] == wanted[-behind:]
    is_other = array.ndim != len(wanted) and (is_joined or is_folded)
    return array.reshape(wanted) if is_same or is_other else array
