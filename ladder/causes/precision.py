"""Values that went through a lower precision, or were clipped."""

import numpy as np
from scipy.special import softmax

from ladder.arrays import Array
from ladder.causes.fits import is_near, size_of
from ladder.causes.registry import Diagnosis, Evidence, Rank, detects

OWN_ARRAYS = {
    "layers": ("forced.", "point."),
    "logits": ("logits.", "loss."),
    "gradients": ("gradient.",),
    "optimizer": ("step.",),
    "training": ("seam.", "trained"),
}
"""Prefixes of what a rung compares: arrays of another rung explain nothing on it."""
LIMITS = (1e-7, 1e-8, 1e-12, 1e-15)
"""Where probabilities are clipped by those who take their logarithm."""


@detects("float32-inside-float64", on=OWN_ARRAYS, rank=Rank.PATTERN)
def float32_values(evidence: Evidence) -> Diagnosis | None:
    """Recognise values that went through float32 where the reference's did not.

    Or did so before a layer's bias was added in float64.
    """
    left, right = evidence.left.arrays, evidence.right.arrays
    for name in right:
        is_own = name.startswith(OWN_ARRAYS[evidence.rung])
        if not is_own or name not in left:
            continue
        one, two = left[name], right[name]
        if one.dtype != np.float64 or one.shape != two.shape or is_float32_at_heart(one):
            continue
        gap = float(np.abs(one - two).max())
        bias = evidence.question.arrays.get(f"weights.{name.removeprefix('forced.')}.bias", 0.0)
        is_float32 = two.dtype == np.float32 or any(
            is_float32_at_heart(two - offset) for offset in (0.0, bias)
        )
        if is_float32 and 0 < gap <= 1e-4 * size_of(one):
            sentence = f"{name} holds float32 values in a float64 run; gap {gap:.1e}"
            return Diagnosis("float32-inside-float64", name, sentence)
    return None


def is_float32_at_heart(values: Array) -> bool:
    """Return whether float64 values are float32 ones to far below float32's own rounding."""
    if values.dtype != np.float64 or values.size == 0 or not np.isfinite(values).all():
        return False
    rest = np.abs(values - values.astype(np.float32)).max()
    return bool(rest <= 1e-15 * size_of(values)) and bool(values.any())


@detects("clipped-probabilities", on=("logits",))
def clipped_probabilities(evidence: Evidence) -> Diagnosis | None:
    """Recognise a loss whose probabilities were clipped before their logarithm was taken."""
    left, right, asked = evidence.left.arrays, evidence.right.arrays, evidence.question.arrays
    for name in (name for name in right if name.startswith("loss.")):
        case = name.removeprefix("loss.")
        if is_near(float(left[name]), float(right[name]), 1e-9):
            continue
        logits, classes = right[f"logits.{case}"], asked[f"labels.{case}"]
        shares = softmax(np.asarray(logits, np.float64), axis=1)[np.arange(len(classes)), classes]
        for limit in LIMITS:
            loss = -np.log(shares.clip(limit, 1 - limit)).mean()
            if is_near(float(loss), float(right[name]), 1e-9):
                words = f"{name}: probabilities are clipped to {limit:g} before their logarithm"
                return Diagnosis("clipped-probabilities", name, words)
    return None
