"""The canonical weights, to and from a PyTorch network."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.network import check_weights, feature_map_shape
from pipeline.recipe import Recipe

Weights = dict[str, np.ndarray[Any, Any]]


def export_weights(model: nn.Sequential, recipe: Recipe) -> Weights:
    """Return the network's weights in canonical form."""
    return {
        f"{layer}.{'kernel' if name == 'weight' else name}": _to_canonical(
            layer, name, parameter, recipe
        )
        for layer, module in model.named_children()
        for name, parameter in module.named_parameters()
    }


def load_weights(model: nn.Sequential, weights: Weights, recipe: Recipe) -> None:
    """Set the network's weights from canonical ones, in the network's own dtype.

    Raises:
        ValueError: missing, extra or misshapen entries.
    """
    check_weights(weights, recipe, "canonical weights")
    with torch.no_grad():
        for layer, module in model.named_children():
            for name, parameter in module.named_parameters():
                key = f"{layer}.{'kernel' if name == 'weight' else name}"
                parameter.copy_(_from_canonical(layer, weights[key], recipe))


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
