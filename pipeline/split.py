"""The tutorial's split of the training images."""

from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

Indices = np.ndarray[Any, np.dtype[np.int64]]


def train_validation_split(num_images: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Return the positions of the training and of the validation images, each in split order.

    Splitting positions splits images and labels alike: scikit-learn draws one permutation.
    Neither framework's own split does this: Keras's `validation_split` takes the last part
    unshuffled, torch's `random_split` shuffles with torch's generator.
    """
    train, validation = train_test_split(
        np.arange(num_images), test_size=fraction, random_state=seed
    )
    return train, validation
