"""The defaults of Keras that docs/keras-lightning-map.md tells of."""

import inspect

import keras
import numpy as np
import pytest

from tests.programs import run_python

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
    (keras.callbacks.EarlyStopping, "mode", "auto"),
    (keras.callbacks.EarlyStopping, "monitor", "val_loss"),
    (keras.callbacks.EarlyStopping, "restore_best_weights", False),
    (keras.callbacks.ModelCheckpoint, "monitor", "val_loss"),
    (keras.callbacks.ModelCheckpoint, "save_best_only", False),
]


@pytest.mark.parametrize(("function", "argument", "value"), DEFAULTS)
def test_a_default_is_what_the_map_says(function, argument, value):
    assert inspect.signature(function).parameters[argument].default == value


def test_called_outside_fit_a_model_does_not_drop():
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dropout(0.5)])
    ones = np.ones((1, 1000), "float32")
    assert np.array_equal(model(ones), ones)
    assert not np.array_equal(model(ones, training=True), ones)


def test_batch_normalisation_keeps_99_parts_of_100():
    layer = keras.layers.BatchNormalization()
    layer(np.array([[1.0], [3.0]], "float32"), training=True)
    mean, variance = (np.asarray(layer.moving_mean), np.asarray(layer.moving_variance))
    assert np.allclose(mean, 0.01 * 2.0)
    assert np.allclose(variance, 0.99 + 0.01 * 1.0)  # of the batch, over N
    assert layer.epsilon == 1e-3


def test_a_schedule_counts_steps():
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0))
    weight = keras.Variable(np.zeros(1, "float32"))
    rates = []
    for _ in range(3):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([keras.ops.zeros(1)], [weight])
    assert np.allclose(rates, [1.0, 0.9, 0.8])


@pytest.mark.parametrize(
    ("argument", "expected"), [("clipnorm", (1.0, 1.0)), ("global_clipnorm", (0.6, 0.8))]
)
def test_clipnorm_is_of_each_variable_by_itself(argument, expected):
    optimizer = keras.optimizers.SGD(1.0, **{argument: 1.0})
    weights = [keras.Variable(np.zeros(1, "float32")) for _ in range(2)]
    optimizer.apply([keras.ops.convert_to_tensor([value]) for value in (3.0, 4.0)], weights)
    assert np.allclose([-float(weight[0]) for weight in weights], expected)


@pytest.mark.slow
def test_tensor_float_32_is_on_in_tensorflow():
    code = "import tensorflow as tf; "
    code += "print(tf.config.experimental.tensor_float_32_execution_enabled())"
    # No test has set it in a process of its own.
    assert run_python("-c", code, check=True).stdout == "True\n"
