"""KerasAdam against Keras's formula in NumPy."""

import copy

import numpy as np
import pytest
import torch

from lightning_impl.optimizer import KerasAdam
from tests.reference import (
    BETA_1,
    BETA_2,
    EPSILON,
    LEARNING_RATE,
    draw_gradients,
    keras_adam,
    relative_gap,
)

# Float64's rounding over ten steps, of numbers down to where momentum almost cancels out;
# measured 6e-15. Torch's own Adam is 3e-6 away at gradients of 1.
ROUNDING = 1e-13
KERNELS = [{}, {"fused": True}, {"foreach": True}, {"foreach": False}]


def keras_like(weights, **options):
    betas = (BETA_1, BETA_2)
    return KerasAdam(weights, learning_rate=LEARNING_RATE, betas=betas, epsilon=EPSILON, **options)


def take(optimizer, gradients):
    """Take a step with each of `gradients` and return the weights."""
    (weight,) = optimizer.param_groups[0]["params"]
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.detach().numpy().copy()


def zeros():
    return [torch.zeros(60, dtype=torch.float64, requires_grad=True)]


@pytest.mark.parametrize("options", KERNELS)
@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_every_kernel_takes_kerass_steps(options, num_steps):
    gradients = draw_gradients(num_steps)
    received = take(keras_like(zeros(), **options), gradients)
    assert relative_gap(received, keras_adam(np.zeros(60), gradients)) < ROUNDING


@pytest.mark.parametrize("options", KERNELS)
def test_torchs_adam_takes_others(options):
    theirs = torch.optim.Adam(zeros(), LEARNING_RATE, (BETA_1, BETA_2), EPSILON, **options)
    received = take(theirs, np.ones((1, 60)))
    expected = keras_adam(np.zeros(60), np.ones((1, 60)))
    assert relative_gap(received, expected) == pytest.approx(3.06e-6, rel=0.01)


@pytest.mark.parametrize("options", KERNELS)
def test_a_saved_state_goes_on_with_the_same_bits(options):
    gradients = draw_gradients(10)
    whole = take(keras_like(zeros(), **options), gradients)
    first_weights = zeros()
    first = keras_like(first_weights, **options)
    take(first, gradients[:4])
    state = copy.deepcopy(first.state_dict())
    for forgotten in (False, True):
        second = keras_like([first_weights[0].detach().clone().requires_grad_()], **options)
        if forgotten:
            state["param_groups"][0]["num_steps"] = 0
        second.load_state_dict(copy.deepcopy(state))
        assert np.array_equal(take(second, gradients[4:]), whole) != forgotten


def test_a_group_added_later_counts_its_own_steps():
    gradients = draw_gradients(5)
    optimizer = keras_like(zeros())
    take(optimizer, gradients[:2])
    later = zeros()
    optimizer.add_param_group({"params": later})
    for gradient in gradients:
        later[0].grad = torch.tensor(gradient)
        optimizer.step()
    assert relative_gap(later[0].detach().numpy(), keras_adam(np.zeros(60), gradients)) < ROUNDING


def test_a_closure_is_called_once_and_its_loss_returned():
    weights = zeros()
    weights[0].grad = torch.ones(60, dtype=torch.float64)
    assert keras_like(weights).step(lambda: 0.25) == 0.25
