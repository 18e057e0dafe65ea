"""Dropout masks from NumPy, one source for both implementations where parity is to be proved.

Two frameworks never draw the same masks from the same seed. Training draws each framework's own;
a proof replaces them by these.
"""

import math
from typing import Any

import numpy as np

from pipeline.batches import MASKS, generator

Array = np.ndarray[Any, Any]


def keep_mask(
    seed: int, epoch: int, step: int, layer: int, shape: tuple[int, ...], rate: float
) -> Array:
    """Return which values a dropout layer keeps in one training step, bool of `shape`.

    `shape` is (B, H, W, C) or (B, F) in H, W, C order; `layer` counts dropout layers, `epoch` and
    `step` count from 0. A value is kept with probability 1 − `rate`.
    """
    draw = generator(seed, MASKS, epoch, step, layer)
    return draw.random(shape, np.float32) >= rate


def mask_factors(shape: tuple[int, ...]) -> Array:
    """Return factors, int32 (*shape, 2), whose sums over what is kept tell masks apart.

    Two sums, each within int32: two masks of some hundred values agree in both by chance in one
    of 1e10 pairs or fewer.
    """
    most = 2**31 // max(math.prod(shape), 2) - 1
    return np.random.default_rng(0).integers(most, size=(*shape, 2), dtype=np.int32)
