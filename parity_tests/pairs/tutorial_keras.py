"""This pipeline's Keras model, as `portproof check` is given it.

A program: `base` and `dropout` return the network and what `fit` is told.
"""

from functools import partial
from typing import Any

import keras
import numpy as np

import keras_impl.model
import keras_impl.settings
import keras_impl.train
import parity_tests.mutants.keras_forward
import parity_tests.mutants.keras_training  # noqa: F401 - each registers its mutants
from parity_tests.catalogue import PLANTERS
from pipeline.drawn import draw_images
from pipeline.execution import Execution
from pipeline.recipe import VARIANTS, preset

SIZES = (16, 16, 6)
"""Images of an epoch's batches."""
GRAIN = 0.01
"""Noise on the images: no pool has ties, and no activation is exactly zero."""
SATURATION = 2_000.0
"""Factor on the images of the last batch: logits of some hundreds, probabilities of 0 and 1."""


def __getattr__(name: str) -> Any:
    """Return the function that builds a variant; `base__loss_sum` plants a mutant first."""
    variant, _, mutant = name.partition("__")
    if variant not in VARIANTS:
        raise AttributeError(name)
    if mutant:
        PLANTERS[mutant.replace("_", "-")]()
    return partial(_built, variant)


def batches() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return batches of images (N, 28, 28, 1) in [0, 1] and one-hot labels (N, 10), float64."""
    random = np.random.default_rng(0)
    images, labels = draw_images(sum(SIZES), random)
    shown = images[..., np.newaxis] / 255 + random.uniform(0, GRAIN, (*images.shape, 1))
    shown[-SIZES[-1] :] *= SATURATION
    ends = np.cumsum(SIZES)[:-1]
    return list(zip(np.split(shown, ends), np.split(np.eye(10)[labels], ends), strict=True))


def _built(variant: str) -> tuple[keras.Model, dict[str, Any]]:
    recipe = preset(variant, precision="64", num_epochs=2)
    keras_impl.settings.configure(recipe, Execution())
    model = keras_impl.model.build_model(recipe)
    keras_impl.train.compile_model(model, recipe)
    return model, {"epochs": recipe.num_epochs}
