"""Torch's layers as they are called: which, in what order, with what axes."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from ladder.arrays import Array
from ladder.subject import Facts, snake_case


@dataclass(frozen=True)
class Layer:
    """A module without children that a forward pass runs, under its canonical name."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...] | None
    """Without the batch axis, torch's own order; None where it was never reached."""
    output_shape: tuple[int, ...] | None
    flat_input: tuple[int, int, int] | None
    """(C, H, W) of the map whose flattened values come in; None for anything else."""
    flat_output: tuple[int, int, int] | None


def trace_layers(module: L.LightningModule, called: nn.Module, sample: Tensor) -> list[Layer]:
    """Run one input through `called`, in `module`, and return the layers that ran, in order.

    Where the pass breaks off, the rest of `module.network` follows without shapes.
    """
    network: Any = module.network
    names = {leaf: path for path, leaf in network.named_modules() if not list(leaf.children())}
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    handles = [
        leaf.register_forward_hook(
            lambda leaf, inputs, output: seen.setdefault(leaf, (inputs[0], output)) and None
        )
        for leaf in names
    ]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), suppress(Exception):  # a broken network is asked about all the same
            called(sample)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    unseen = [leaf for leaf in names if leaf not in seen]
    return _described({leaf: names[leaf] for leaf in [*seen, *unseen]}, seen)


def _described(
    titles: Mapping[nn.Module, str], seen: Mapping[nn.Module, tuple[Tensor, Tensor]]
) -> list[Layer]:
    """Return the layers with their shapes, and where a vector is a flattened map."""
    layers: list[Layer] = []
    for module, name in titles.items():
        if module not in seen:
            layers.append(Layer(name, module, None, None, None, None))
            continue
        came, went = (tuple(tensor.shape[1:]) for tensor in seen[module])
        flat_input = _flat_of(layers[-1], came) if layers else None
        flat_output = None
        if len(came) == 3 and went == (int(np.prod(came)),):
            flat_output = came
        elif came == went and not isinstance(module, nn.Linear):
            flat_output = flat_input
        layers.append(Layer(name, module, came, went, flat_input, flat_output))
    return layers


def _flat_of(before: Layer, came: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return (C, H, W) of the map that `came` is when flattened, in a layer or in `forward`."""
    shape = before.output_shape
    if before.flat_output is not None and came == shape:
        return before.flat_output
    if shape is not None and len(shape) == 3 and came == (int(np.prod(shape)),):
        return shape
    return None


def layer_row(layer: Layer) -> Facts:
    """Return a layer's row of the table; an unknown kind is named by its class."""
    module = layer.module
    shape = layer.output_shape
    if shape is not None and len(shape) == 3:
        shape = (*shape[1:], shape[0])
    return {
        "name": layer.name,
        "kind": kind_of(module),
        "output_shape": None if shape is None else list(shape),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }


_KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.LeakyReLU: "leaky_relu",
    nn.ReLU: "relu",
    nn.Softmax: "softmax",
    nn.MaxPool2d: "max_pool",
    nn.AvgPool2d: "average_pool",
    nn.Dropout: "dropout",
    nn.Flatten: "flatten",
    nn.Linear: "dense",
}


def kind_of(module: nn.Module) -> str:
    """Return a layer's kind; a subclass is what its parent is, and an unknown one its class."""
    known = [_KINDS[parent] for parent in type(module).__mro__ if parent in _KINDS]
    return known[0] if known else snake_case(type(module).__name__)


def canonical_name(name: str) -> str:
    """Return the canonical name of a module's parameter."""
    return {"weight": "kernel"}.get(name, name)


def weight_out(layer: Layer, tensor: Tensor) -> Array:
    """Return a tensor of a layer's shape in canonical layout."""
    array = tensor.detach().cpu().numpy()
    if array.ndim == 4:  # (out, in, H, W) in torch, (H, W, in, out) in Keras
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    if layer.flat_input is not None and array.shape[-1] == np.prod(layer.flat_input):
        array = array.reshape(*array.shape[:-1], *layer.flat_input)  # torch flattens C, H, W
        array = np.moveaxis(array, -3, -1).reshape(*array.shape[:-3], -1)
    return np.ascontiguousarray(array.T)  # (out, in) in torch, (in, out) in Keras


def out_of(values: Tensor, flat: tuple[int, int, int] | None) -> Array:
    """Return a module's values in canonical layout."""
    if values.ndim == 4:
        values = values.permute(0, 2, 3, 1)
    elif flat is not None:
        values = values.reshape(-1, *flat).permute(0, 2, 3, 1).reshape(len(values), -1)
    return np.ascontiguousarray(values.detach().cpu().numpy())
