"""The network, its weights and its fast order, in PyTorch."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_impl.fast import make_fast
from lightning_impl.model import Classifier, build_model, layers_of
from lightning_impl.weights import export_weights
from pipeline.recipe import preset
from tests.both.model import (  # noqa: F401
    test_any_other_callback_sees_each_step,
    test_images_become_logits,
    test_only_the_fast_path_keeps_freed_memory,
    test_other_weights_are_refused_and_none_is_set,
    test_own_first_weights_are_glorots_and_follow_the_seed,
    test_the_layers_of_a_run_are_those_that_are_built,
    test_weights_survive_the_way_in_and_out,
    test_who_follows_a_run_sees_each_step_that_is_due,
)


def images(count=5, size=28, dtype=torch.float32):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("fast", [True, False])
def test_each_parameter_is_in_the_module_once(fast):
    module = Classifier(preset("dropout"), fast=fast)
    assert sum(parameter.numel() for parameter in module.parameters()) == 356_234
    assert all(name.startswith("network.") for name in module.state_dict())


def test_exported_weights_are_copies():
    network = build_model(preset("base"))
    before = export_weights(network, preset("base"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    after = export_weights(network, preset("base"))
    assert not any(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fast_order_gives_the_same_bits(dtype):
    network = build_model(preset("base")).to(dtype)
    plain = network(images(64, dtype=dtype))
    ordered = make_fast(network)
    fast = nn.Sequential(*ordered)(images(64, dtype=dtype))
    assert [type(layer) for layer in ordered[:3]] == [nn.Conv2d, nn.MaxPool2d, nn.LeakyReLU]
    assert {id(layer) for layer in ordered} == {id(layer) for layer in network}
    # channels_last may take another convolution kernel, whose sums are rounded in another order.
    torch.testing.assert_close(fast, plain, rtol=0, atol=torch.finfo(dtype).eps * 16)
    assert torch.equal(fast, network(images(64, dtype=dtype)))


def test_a_slope_that_falls_does_not_commute_with_the_pool():
    with pytest.raises(AssertionError):
        make_fast(nn.Sequential(nn.LeakyReLU(-0.5), nn.MaxPool2d(2)))


def test_the_layers_are_read_without_a_mask_being_drawn():
    networks = [Classifier(preset("dropout"), fast=fast).network for fast in (True, False)]
    state = torch.get_rng_state()
    for network in networks:
        layers_of(network, 28)
    assert torch.equal(torch.get_rng_state(), state)
