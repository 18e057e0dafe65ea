"""The tutorial's split of the training images."""

import math
from typing import Any

import numpy as np

Indices = np.ndarray[Any, np.dtype[np.int64]]


def train_validation_split(num_images: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Return the positions of the training and of the validation images, each in split order.

    They are those of scikit-learn's `train_test_split(…, test_size=fraction, random_state=seed)`:
    the first of one permutation are for validation. Its import alone takes most of a second.
    Neither framework's own split does this: Keras's `validation_split` takes the last part
    unshuffled, torch's `random_split` shuffles with torch's generator.
    """
    order = np.random.RandomState(seed).permutation(num_images)
    num_validation = math.ceil(fraction * num_images)
    return order[num_validation:], order[:num_validation]
