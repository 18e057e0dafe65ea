"""The canonical weights, to and from a PyTorch network."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ladder.arrays import check_shapes
from pipeline.network import check_weights, feature_map_shape
from pipeline.recipe import Recipe

Weights = dict[str, np.ndarray[Any, Any]]
SLOTS = {"m": "exp_avg", "v": "exp_avg_sq"}
"""torch's names of Adam's two means, by the letters of the paper."""


def export_weights(model: nn.Sequential, recipe: Recipe) -> Weights:
    """Return the network's weights in canonical form."""
    return {
        key: _to_canonical(layer, name, parameter, recipe)
        for key, layer, name, parameter in _parameters(model)
    }


def load_weights(model: nn.Sequential, weights: Weights, recipe: Recipe) -> None:
    """Set the network's weights from canonical ones, in the network's own dtype.

    Raises:
        ValueError: missing, extra or misshapen entries.
    """
    check_weights(weights, recipe, "canonical weights")
    with torch.no_grad():
        for key, layer, _, parameter in _parameters(model):
            parameter.copy_(_from_canonical(layer, weights[key], recipe))


def export_training_state(
    model: nn.Sequential, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> Weights:
    """Return weights, Adam's slots and its step count, all that training goes on from.

    Slots are named `adam.m.conv1.kernel` and `adam.v.conv1.kernel`, the count `adam.step`.
    """
    state = export_weights(model, recipe)
    steps = 0
    for key, layer, name, parameter in _parameters(model):
        slots = optimizer.state[parameter]
        steps = int(slots["step"])
        for letter, slot in SLOTS.items():
            state[f"adam.{letter}.{key}"] = _to_canonical(layer, name, slots[slot], recipe)
    return {**state, "adam.step": np.asarray(steps)}


def load_training_state(
    model: nn.Sequential, optimizer: torch.optim.Optimizer, state: Weights, recipe: Recipe
) -> None:
    """Set weights and Adam's slots of a run that has taken its first step; not the step count.

    Raises:
        ValueError: missing, extra or misshapen entries.
    """
    now = export_training_state(model, optimizer, recipe)
    check_shapes(state, {name: array.shape for name, array in now.items()}, "training state")
    with torch.no_grad():
        for key, layer, _, parameter in _parameters(model):
            parameter.copy_(_from_canonical(layer, state[key], recipe))
            for letter, slot in SLOTS.items():
                values = _from_canonical(layer, state[f"adam.{letter}.{key}"], recipe)
                optimizer.state[parameter][slot].copy_(values)


def _parameters(model: nn.Sequential) -> Iterator[tuple[str, str, str, nn.Parameter]]:
    """Yield each parameter's canonical name, its layer, torch's own name, and itself."""
    for layer, module in model.named_children():
        for name, parameter in module.named_parameters():
            yield f"{layer}.{'kernel' if name == 'weight' else name}", layer, name, parameter


def _to_canonical(layer: str, name: str, parameter: Tensor, recipe: Recipe) -> np.ndarray[Any, Any]:
    array = parameter.detach().cpu().numpy()
    if name == "bias":
        return array.copy()
    if array.ndim == 4:  # (out, in, H, W) in torch, (H, W, in, out) in Keras
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    if layer == "hidden":  # torch flattens C, H, W; Keras H, W, C
        height, width, channels = feature_map_shape(recipe)
        array = array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        array = array.reshape(len(array), -1)
    return np.ascontiguousarray(array.T)  # (out, in) in torch, (in, out) in Keras


def _from_canonical(layer: str, array: np.ndarray[Any, Any], recipe: Recipe) -> Tensor:
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:
        array = array.T
        if layer == "hidden":
            height, width, channels = feature_map_shape(recipe)
            array = array.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
            array = array.reshape(len(array), -1)
    return torch.from_numpy(np.ascontiguousarray(array))
