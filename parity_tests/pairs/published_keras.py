"""Models of keras.applications, of random weights: `published_keras.py:ResNet50` is one.

A program for `portproof check`; names and sizes are those of `parity_tests/published.py`.
"""

from collections.abc import Callable
from functools import partial

import keras

from parity_tests.published import PAIRS


def _build(name: str, size: int) -> keras.Model:
    """Return a model of ten classes without softmax."""
    return getattr(keras.applications, name)(
        weights=None, classes=10, classifier_activation=None, input_shape=(size, size, 3)
    )


def __getattr__(name: str) -> Callable[[], keras.Model]:
    sizes = {pair.name: pair.size for pair in PAIRS}
    if name not in sizes:
        raise AttributeError(name)
    return partial(_build, name, sizes[name])
