"""Keras's own Adam against the formula in NumPy that KerasAdam is held to as well."""

import keras
import numpy as np
import pytest

from tests.reference import (
    BETA_1,
    BETA_2,
    EPSILON,
    LEARNING_RATE,
    draw_gradients,
    keras_adam,
    relative_gap,
)

# Float64's rounding over ten steps; measured 2e-15.
ROUNDING = 1e-13


@pytest.fixture(autouse=True)
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def take(gradients, **changes):
    """Take a step with each of `gradients` from zero and return the weights."""
    weights = keras.Variable(np.zeros(60), dtype="float64")
    optimizer = keras.optimizers.Adam(
        **{"learning_rate": LEARNING_RATE, "beta_1": BETA_1, "beta_2": BETA_2, "epsilon": EPSILON,
           **changes}
    )  # fmt: skip
    optimizer.build([weights])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float64")])
    return np.asarray(weights)


@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_kerass_adam_is_its_formula(num_steps):
    gradients = draw_gradients(num_steps)
    assert relative_gap(take(gradients), keras_adam(np.zeros(60), gradients)) < ROUNDING


@pytest.mark.parametrize("betas", [{"beta_1": 0.9}, {"beta_2": 0.999}])
def test_betas_that_float32_cannot_hold_are_not_what_keras_computes_with(betas):
    """It casts them to float32, but not 1 − beta: hence the rounding in the recipe."""
    gradients = draw_gradients(1)
    expected = keras_adam(np.zeros(60), gradients, **betas)
    assert relative_gap(take(gradients, **betas), expected) > 1e-8


def test_epsilon_inside_the_correction_would_be_seen():
    received = take(np.ones((1, 60)), epsilon=EPSILON * np.sqrt(1 - BETA_2))
    expected = keras_adam(np.zeros(60), np.ones((1, 60)))
    assert relative_gap(received, expected) == pytest.approx(3.06e-6, rel=0.01)
