"""What tests/both has to know of Keras on TensorFlow."""

# ruff: noqa: F401 (what is imported is part of it)

import zipfile

import keras
import numpy as np
from keras.callbacks import Callback
from keras.utils import set_random_seed as set_seed

from keras_impl import settings, weights
from keras_impl.fast import STEPS_PER_EXECUTION as STEPS_AT_ONCE
from keras_impl.fast import steps_per_execution as steps_at_once
from keras_impl.model import build_model, layers_of
from keras_impl.train import predict_logits, train
from keras_impl.watch import AtSeams, Follow, InjectMasks, NoteMasks
from keras_impl.weights import load_weights

ENGINE = "keras-tensorflow"
FRAMEWORKS = {"keras", "tensorflow"}
"""What a training loads."""
FIRST_LAYERS = [
    ("conv1", "Conv2D", (28, 28, 32), 320),
    ("act1", "LeakyReLU", (28, 28, 32), 0),
    ("pool1", "MaxPooling2D", (14, 14, 32), 0),
]
"""Of a run: name, class, its output's shape and parameters."""
WATCHED = "32"
"""The precision at which it is watched, and the gaps there: of masks in calls of several steps, and
of a training whose own masks are noted."""
SAME, ROUNDING = 0.0, 1e-5
FILE_LIMITS = (1_000_000, 2_000_000, 4_300_000)
"""Bytes; the weights are 1.4 MB, the training state 4.28 MB and the .keras file 4.33 MB."""
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


export_trained = export_weights


def built_in(recipe, dtype):
    """Return the network with weights of that dtype."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        return build_model(recipe)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def logits(model, images):
    return np.asarray(model(images))


def steps_in_a_call(masks):
    """Return for how many steps `InjectMasks` has drawn at once."""
    (steps,) = {drawn.shape[0] for _, drawn, _ in masks.masks}
    return steps


def as_numpy(values):
    return keras.ops.convert_to_numpy(values)


def follow(follower, recipe, steps_per_epoch):
    return Follow(follower, recipe, steps_per_epoch)
