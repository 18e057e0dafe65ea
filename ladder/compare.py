"""Comparing two answers: key sets and lengths before values, and NaN never passes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ladder.arrays import Array, Arrays


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may lie apart, and why."""

    name: str
    absolute: float
    """Largest |left − right| that passes."""
    reason: str
    measured: str
    """What was measured, so that the headroom can be seen."""
    relative: float = 0.0
    """What is allowed on top, as a share of the largest finite |value| of the left array."""

    def allowed(self, scale: float) -> float:
        """Return the largest distance that passes in an array whose largest |value| is `scale`."""
        return self.absolute + self.relative * scale


EXACT = Tolerance("exact", 0.0, "the same bits are expected", "0")


@dataclass(frozen=True)
class Difference:
    """One place where two answers part."""

    where: str
    left: Any
    right: Any
    note: str = ""
    gap: float = math.inf
    """|left − right| for numbers."""
    ulps: float = math.inf
    """The gap in units in the last place of the larger of the two."""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.where}: {self.left!r} against {self.right!r}{note}"


def compare_facts(left: Any, right: Any, where: str = "") -> list[Difference]:
    """Compare plain values, as from JSON, and return each place where they differ.

    Raises:
        ValueError: both are empty, so that nothing would be compared.
    """
    if left in ({}, [], None) and right in ({}, [], None):
        raise ValueError(f"nothing to compare{where and f' at {where}'}")
    return _compare(left, right, where)


def compare_arrays(left: Arrays, right: Arrays, tolerance: Tolerance = EXACT) -> list[Difference]:
    """Compare named arrays and return, for each that differs, the worst place.

    Raises:
        ValueError: there is nothing to compare.
    """
    if not left and not right:
        raise ValueError("no arrays to compare")
    names = sorted(set(left) | set(right))
    found = [_compare_array(name, left.get(name), right.get(name), tolerance) for name in names]
    return [difference for difference in found if difference is not None]


def gap(left: Array, right: Array) -> float:
    """Return the largest |left − right|, infinite where either side is not finite.

    Raises:
        ValueError: the shapes differ.
    """
    if left.shape != right.shape:
        raise ValueError(f"cannot compare shapes {left.shape} and {right.shape}")
    return float(_distance(left, right).max())


def _distance(left: Array, right: Array) -> Array:
    """Return |left − right| in float64, infinite where either side is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):  # ∞ − ∞
        distance = np.abs(left.astype(np.float64) - right.astype(np.float64))
    return np.where(np.isfinite(distance), distance, np.inf)


def _compare(left: Any, right: Any, where: str) -> list[Difference]:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        found = [
            Difference(_join(where, key), left.get(key, "missing"), right.get(key, "missing"))
            for key in sorted(set(left) ^ set(right))
        ]
        for key in [key for key in left if key in right]:
            found += _compare(left[key], right[key], _join(where, key))
        return found
    if isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            return [Difference(where, len(left), len(right), "lengths")]
        places = [_join(where, _label(index, item)) for index, item in enumerate(left)]
        pairs = zip(left, right, places, strict=True)
        return [found for a, b, place in pairs for found in _compare(a, b, place)]
    is_same = type(left) is type(right) and left == right  # NaN is unequal to itself
    return [] if is_same else [Difference(where, left, right)]


def _compare_array(
    name: str, left: Array | None, right: Array | None, tolerance: Tolerance
) -> Difference | None:
    if left is None or right is None:
        there = ["missing" if side is None else "there" for side in (left, right)]
        return Difference(name, there[0], there[1])
    if left.shape != right.shape:
        return Difference(name, list(left.shape), list(right.shape), "shapes")
    if left.size == 0:
        raise ValueError(f"{name} is empty: nothing to compare")
    if left.dtype != right.dtype:
        return Difference(name, str(left.dtype), str(right.dtype), "dtypes")
    worst = worst_place(name, left, right)
    allowed = tolerance.allowed(largest(left))
    if worst.gap <= allowed and math.isfinite(worst.gap):
        return None
    note = f"gap {worst.gap:.3g}, {tolerance.name} allows {allowed:.3g}"
    is_counted = math.isfinite(worst.ulps) and np.issubdtype(left.dtype, np.floating)
    return replace(worst, note=f"{note}; {worst.ulps:.3g} ulp" if is_counted else note)


def worst_place(name: str, left: Array, right: Array) -> Difference:
    """Return where two arrays of one shape, not empty, lie furthest apart."""
    distance = _distance(left, right)
    worst = np.unravel_index(np.argmax(distance), distance.shape)
    place = f"[{', '.join(map(str, worst))}]" if worst else ""
    values = float(left[worst]), float(right[worst])
    gap = float(distance[worst])
    ulps = in_ulps(gap, values, left.dtype)
    return Difference(f"{name}{place}", values[0], values[1], gap=gap, ulps=ulps)


def in_ulps(gap: float, values: tuple[float, float], dtype: Any) -> float:
    """Return `gap` in units in the last place of the larger of two values of `dtype`."""
    if not np.issubdtype(dtype, np.floating) or not math.isfinite(gap):
        return gap
    unit = float(np.spacing(np.asarray(max(map(abs, values)), dtype)))
    return gap / unit


def largest(array: Array) -> float:
    """Return the largest finite |value| of an array, 0 where there is none."""
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _label(index: int, item: Any) -> str:
    named = isinstance(item, Mapping) and isinstance(item.get("name"), str)
    return item["name"] if named else str(index)
