"""What tests/both has to know of Keras on TensorFlow."""

# ruff: noqa: F401 (what is imported is part of it)

import zipfile

from keras.callbacks import Callback
from keras.utils import set_random_seed as set_seed

from keras_impl import settings, weights
from keras_impl.fast import steps_per_execution as steps_at_once
from keras_impl.model import build_model
from keras_impl.watch import Follow
from keras_impl.weights import load_weights

ENGINE = "keras-tensorflow"
FRAMEWORKS = {"keras", "tensorflow"}
"""What a training loads."""
FIRST_LAYER = ("Conv2D", (28, 28, 32))
"""Of a run's first layer: its class and its output's shape."""
FIRST_KINDS = ("Conv2D", "LeakyReLU", "MaxPooling2D")
NOISE = "oneDNN"
"""A word that the framework prints by itself, which belongs in a run's log."""
NO_GPU = "the tensorflow backend sees no GPU here; use --device"


def is_checkpoint(path):
    """Return whether a `.keras` file is a zip file of which every part has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def export_weights(model, recipe):
    return weights.export_weights(model)


def follow(follower, recipe, steps_per_epoch):
    return Follow(follower, recipe, steps_per_epoch)
