"""Torch's layers as they are called: which, in what order, with what settings and axes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ladder.exchange import Array
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


def moved(layer: Layer, modules: Mapping[nn.Module, nn.Module]) -> Layer:
    """Return a layer with its modules replaced by their copies."""
    return Layer(
        layer.name,
        modules[layer.module],
        layer.input_shape,
        layer.output_shape,
        layer.flat_input,
        layer.flat_output,
    )


def layer_row(layer: Layer) -> Facts:
    """Return a layer's row of the table; an unknown kind is named by its class."""
    module = layer.module
    shape = layer.output_shape
    if shape is not None and len(shape) == 3:
        shape = (*shape[1:], shape[0])
    row: Facts = {
        "name": layer.name,
        "kind": kind_of(module),
        "output_shape": None if shape is None else list(shape),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }
    size = layer.input_shape[1:] if layer.input_shape else ()
    match module:
        case nn.Conv2d():
            row |= {
                "filters": module.out_channels,
                "kernel_size": list(module.kernel_size),
                "strides": list(module.stride),
                "dilation": list(module.dilation),
                "groups": module.groups,
                "padding": _convolution_padding(module, layer.input_shape),
                "use_bias": module.bias is not None,
                "activation": "linear",
            }
        case nn.MaxPool2d() | nn.AvgPool2d():
            row |= {
                "pool_size": _pair(module.kernel_size),
                "strides": _pair(module.stride),
                "padding": _pool_padding(module, size),
            }
        case nn.LeakyReLU():
            row |= {"negative_slope": float(module.negative_slope)}
        case nn.Dropout():
            row |= {"rate": float(module.p)}
        case nn.Linear():
            row |= {
                "units": module.out_features,
                "use_bias": module.bias is not None,
                "activation": "linear",
            }
    return row


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


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def kind_of(module: nn.Module) -> str:
    """Return a layer's kind; a subclass is what its parent is, and an unknown one its class."""
    known = [_KINDS[parent] for parent in type(module).__mro__ if parent in _KINDS]
    return known[0] if known else snake_case(type(module).__name__)


def _convolution_padding(layer: nn.Conv2d, shape: tuple[int, ...] | None) -> str:
    """Say what Keras would call a convolution's padding, from what the layer computes.

    Keras's "same" puts the larger half at the right and bottom; torch pads both sides alike, which
    is another convolution where the sum is odd, as with a stride of 2 on an even size.
    """
    if shape is None:
        return f"explicit {layer.padding}"
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(1, *shape, generator=draw, dtype=layer.weight.dtype)
    axes = zip(shape[1:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    (top, bottom), (left, right) = (same_padding(*axis) for axis in axes)
    candidates = {"same": (left, right, top, bottom), "valid": (0, 0, 0, 0)}
    with torch.no_grad():
        own = layer(values)
        for name, padding in candidates.items():
            padded = functional.pad(values, padding)
            if min(padded.shape[2:]) < max(layer.kernel_size):
                continue
            found = functional.conv2d(
                padded, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
            )
            if found.shape == own.shape and torch.allclose(found, own, rtol=1e-4, atol=1e-5):
                return name
    return f"explicit {layer.padding}"


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return how many values Keras's "same" pads before and behind an axis of `size` values."""
    reach = dilation * (kernel - 1) + 1
    missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return missing // 2, missing - missing // 2


def _pool_padding(layer: nn.MaxPool2d | nn.AvgPool2d, sizes: Sequence[int]) -> str:
    """Say what Keras would call a pool's padding.

    torch pads both sides alike, and with ceil_mode as much behind as the last window needs; an
    average that counts the padding is no pool that Keras has.
    """
    kernel, stride, padding = map(_pair, (layer.kernel_size, layer.stride, layer.padding))
    dilation = _pair(getattr(layer, "dilation", 1))
    explicit = f"explicit {tuple(padding)}"
    if padding == [0, 0] and not layer.ceil_mode:
        return "valid"
    if not sizes or dilation != [1, 1]:
        return explicit
    if any(padding) and getattr(layer, "count_include_pad", False):
        return explicit
    axes = list(zip(sizes, kernel, stride, padding, strict=True))
    if not layer.ceil_mode:
        same = all(
            same_padding(*axis[:3])[0] == axis[3] and outputs(*axis) == -(-axis[0] // axis[2])
            for axis in axes
        )
        return "same" if same else explicit
    return _rounded_up(axes, explicit)


def outputs(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return how many windows torch places on an axis."""
    return (size + 2 * padding - kernel) // stride + 1


def _rounded_up(axes: Sequence[tuple[int, int, int, int]], explicit: str) -> str:
    """Say what Keras would call the padding of a pool with `ceil_mode`; an axis as in `outputs`."""
    counts = [ceil_outputs(*axis[:3]) for axis in axes]
    if not any(padding for *_, padding in axes):
        is_at_end = all(same_padding(*axis[:3])[0] == 0 for axis in axes)
        if is_at_end and counts == [-(-size // stride) for size, _, stride, _ in axes]:
            return "same"
        if counts == [outputs(*axis) for axis in axes]:
            return "valid"
    return f"{explicit}, rounded up"


def ceil_outputs(size: int, kernel: int, stride: int) -> int:
    """Return how many windows torch places with `ceil_mode`: none begins past the axis's end."""
    count = -(-(size - kernel) // stride) + 1
    return count - 1 if (count - 1) * stride >= size else count


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


def dtype_name(tensor: Tensor) -> str:
    """Return a tensor's dtype without `torch.`."""
    return str(tensor.dtype).removeprefix("torch.")
