"""Causes in the framework's own first weights."""

from collections.abc import Sequence

import numpy as np

from ladder.arrays import Array
from ladder.causes.fits import size_of
from ladder.causes.registry import Diagnosis, Evidence, UnexaminableError, detects
from ladder.statistics import Draws, compare_draws, draws_of, fitting_distributions, kernel_of


def _both(evidence: Evidence) -> tuple[Draws, Draws]:
    left, right = (draws_of(trace.arrays) for trace in (evidence.left, evidence.right))
    if not left or not right:
        raise UnexaminableError("no first weights of the frameworks' own")
    return left, right


@detects("init-distribution", on=("initialisation",))
def other_distribution(evidence: Evidence) -> list[Diagnosis]:
    """Recognise first weights of another distribution, and name the one that fits."""
    left, right = _both(evidence)
    differing = {finding.where for finding in compare_draws(left, right)}
    found = []
    for name in left:
        if name not in differing or name not in right or name.endswith(".bias"):
            continue
        names = [fitting_distributions(side[name], kernel_of(name, side)) for side in (left, right)]
        if names[1] == names[0] and names[0]:
            continue
        largest, own = (max(size_of(draw) for draw in side[name]) for side in (right, left))
        if not (np.isfinite(largest) and 0 < own < np.inf):
            continue
        fitting = names[1][0] if names[1] else "no distribution known"
        # Value by value, an orthogonal kernel is like one of a normal distribution.
        is_orthogonal = all(map(_is_orthogonal, right[name]))
        words = f"{name}: {'orthogonal' if is_orthogonal else fitting} fits"
        words += f", the reference's is {names[0][0]}" if names[0] else ""
        words += f"; largest |w| {largest:.4g}, {largest / own:.3g} times the reference's"
        found.append(Diagnosis("init-distribution", name, words))
    return found


def _is_orthogonal(draw: Array) -> bool:
    """Return whether a kernel's columns (or rows, if fewer) are orthogonal and equally long."""
    matrix = np.asarray(draw, np.float64).reshape(-1, draw.shape[-1])
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    products = matrix.T @ matrix
    size = float(np.trace(products)) / len(products)
    gap = np.abs(products - size * np.eye(len(products))).max()
    return len(products) > 1 and size > 0 and bool(gap <= 1e-5 * size)


@detects("bias-not-zero", on=("initialisation",))
def bias_not_zero(evidence: Evidence) -> Diagnosis | None:
    """Recognise biases that are drawn where the reference's are zero."""
    left, right = _both(evidence)
    drawn = [
        name
        for name in left
        if name in right and name.endswith(".bias") and not any(d.any() for d in left[name])
        and any(d.any() for d in right[name])
    ]  # fmt: skip
    if not drawn:
        return None
    largest = max(size_of(draw) for draw in right[drawn[0]])
    words = f"{_join(drawn)}: not zero at first, up to {largest:.3g} in {drawn[0]}"
    fitting = fitting_distributions(right[drawn[0]], kernel_of(drawn[0], right))
    words += f"; {fitting[0]} fits" if fitting else ""
    return Diagnosis("bias-not-zero", _join(drawn, most=8), words)


def _join(names: Sequence[str], most: int = 4) -> str:
    """Return names as one text, the rest counted."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
