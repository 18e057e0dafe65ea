"""Adam in NumPy, in float64, written down from the formula in Keras's documentation."""

import numpy as np

from pipeline.recipe import preset

RECIPE = preset("base")
LEARNING_RATE, EPSILON = RECIPE.learning_rate, RECIPE.epsilon
BETA_1, BETA_2 = RECIPE.beta_1, RECIPE.beta_2


def keras_adam(weights, gradients, beta_1=BETA_1, beta_2=BETA_2):
    """Return `weights` after a step with each of `gradients`, epsilon outside the correction."""
    weights, momentum, velocity = weights.astype(np.float64), 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        momentum = beta_1 * momentum + (1 - beta_1) * gradient
        velocity = beta_2 * velocity + (1 - beta_2) * gradient**2
        alpha = LEARNING_RATE * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        weights = weights - alpha * momentum / (np.sqrt(velocity) + EPSILON)
    return weights


def draw_gradients(num_steps, seed=0):
    """Return gradients (num_steps, 60) of every size from 1e-9 to 10, some of them zero."""
    draw = np.random.default_rng(seed)
    scale = np.logspace(-9, 1, 60) * (np.arange(60) % 7 > 0)
    return draw.normal(size=(num_steps, 60)) * scale


def relative_gap(received, expected):
    """Return the largest distance as a share of the expected value's size; 0 for 0 and 0."""
    distance = np.abs(received - expected)
    size = np.where(expected == 0, 1, np.abs(expected))
    return float((distance / size).max())
