"""The defaults of Keras that docs/keras-lightning-map.md tells of."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest

DEFAULTS = [
    (keras.layers.LeakyReLU, "negative_slope", 0.3),
    (keras.layers.Conv2D, "padding", "valid"),
    (keras.layers.Conv2D, "kernel_initializer", "glorot_uniform"),
    (keras.layers.Conv2D, "bias_initializer", "zeros"),
    (keras.layers.Dense, "kernel_initializer", "glorot_uniform"),
    (keras.layers.MaxPooling2D, "padding", "valid"),
    (keras.optimizers.Adam, "learning_rate", 0.001),
    (keras.optimizers.Adam, "beta_1", 0.9),
    (keras.optimizers.Adam, "beta_2", 0.999),
    (keras.optimizers.Adam, "epsilon", 1e-7),
    (keras.losses.CategoricalCrossentropy, "from_logits", False),
    (keras.Model.compile, "jit_compile", "auto"),
    (keras.Model.compile, "steps_per_execution", 1),
    (keras.Model.fit, "batch_size", None),
    (keras.Model.fit, "epochs", 1),
    (keras.Model.fit, "shuffle", True),
    (keras.callbacks.EarlyStopping, "patience", 0),
    (keras.callbacks.EarlyStopping, "monitor", "val_loss"),
    (keras.callbacks.EarlyStopping, "restore_best_weights", False),
    (keras.callbacks.ModelCheckpoint, "monitor", "val_loss"),
    (keras.callbacks.ModelCheckpoint, "save_best_only", False),
]


def default(function, argument):
    return inspect.signature(function).parameters[argument].default


@pytest.mark.parametrize(("function", "argument", "value"), DEFAULTS)
def test_a_default_is_what_the_map_says(function, argument, value):
    assert default(function, argument) == value


def test_another_default_would_be_seen():
    assert default(keras.layers.LeakyReLU, "negative_slope") != 0.01


def test_called_outside_fit_a_model_does_not_drop():
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dropout(0.5)])
    ones = np.ones((1, 1000), "float32")
    assert np.array_equal(model(ones), ones)
    assert not np.array_equal(model(ones, training=True), ones)


def test_tensor_float_32_is_on_in_tensorflow():
    code = "import tensorflow as tf; "
    code += "print(tf.config.experimental.tensor_float_32_execution_enabled())"
    command = [sys.executable, "-c", code]  # no test has set it in a process of its own
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
