"""Layers in NumPy, forward and backward, in float64: what a hypothesis is computed with.

Maps are NHWC, convolution kernels (H, W, in, out), dense kernels (in, out). A layer is a row of
the layer table; keys that a row may have beyond it are named at each function.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ladder.causes.registry import UnexaminableError
from ladder.exchange import Array, Arrays

Row = Mapping[str, Any]
Backward = Callable[[Array], tuple[Array, dict[str, Array]]]
"""From the output's gradient to the input's and the parameters'."""
Pads = tuple[tuple[int, int], tuple[int, int]]
TIE_RULES = ("first", "last", "shared", "every")


@dataclass(frozen=True)
class Mode:
    """How a network is run."""

    is_training: bool = False
    masks: Arrays = field(default_factory=dict)
    """What each dropout layer multiplies by in training, 0 or 1/(1 − rate)."""
    ties: str = "first"
    """Which of a pool's equal largest values takes the gradient."""
    is_zero_positive: bool = False
    """Whether an activation's gradient at exactly zero is that above zero, as in JAX."""


@dataclass(frozen=True)
class Run:
    """What a network computed."""

    outputs: dict[str, Array]
    """By layer, in order."""
    inputs: dict[str, Array]
    last: Array
    backwards: list[tuple[str, Backward]]

    def gradients(self, output_gradient: Array, float32_behind: str = "") -> dict[str, Array]:
        """Return each parameter's gradient, and the input's as `input`.

        What comes to the output of the layer `float32_behind` is rounded to float32.
        """
        found: dict[str, Array] = {}
        for name, backward in reversed(self.backwards):
            if name == float32_behind:
                output_gradient = output_gradient.astype(np.float32).astype(np.float64)
            output_gradient, own = backward(output_gradient)
            found |= {f"{name}.{parameter}": value for parameter, value in own.items()}
        return {**found, "input": output_gradient}


EVALUATION = Mode()


def run(rows: Sequence[Row], weights: Arrays, images: Array, mode: Mode = EVALUATION) -> Run:
    """Run `images` (N, …) through the layers.

    Raises:
        UnexaminableError: a layer of an unknown kind, or what it needs is missing.
    """
    value = np.asarray(images, np.float64)
    outputs, inputs, backwards = {}, {}, []
    for row in rows:
        name = row["name"]
        own = {
            key.rpartition(".")[2]: np.asarray(array, np.float64)
            for key, array in weights.items()
            if key.rpartition(".")[0] == name
        }
        inputs[name] = value
        value, backward = _layer(row)(row, own, value, mode)
        backwards.append((name, backward))
        activation = row.get("activation", "linear")
        if activation != "linear":
            value, backward = _layer({"kind": activation})(row, {}, value, mode)
            backwards.append((name, backward))
        outputs[name] = value
    return Run(outputs, inputs, value, backwards)


def _layer(row: Row) -> Callable[..., tuple[Array, Backward]]:
    try:
        return _LAYERS[row["kind"]]
    except KeyError as error:
        raise UnexaminableError(f"no formula for a layer of kind {row.get('kind')!r}") from error


def pads_of(row: Row, shape: Sequence[int], window: Sequence[int]) -> Pads:
    """Return the (before, after) padding of height and width.

    `padding` is "same" (as TensorFlow does it: the odd pixel comes last), "same-first" (it comes
    first), "valid", a number or two, or such numbers after the word "explicit".
    """
    padding = row.get("padding", "valid")
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding in ("same", "same-first"):
        totals = [
            max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
            for size, stride, extent in zip(shape, _strides(row), window, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        if padding == "same-first":
            halves = [(after, before) for before, after in halves]
        return halves[0], halves[1]
    numbers = [int(word) for word in re.findall(r"\d+", str(padding))]
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2:
        raise UnexaminableError(f"no formula for the padding {padding!r}")
    return (numbers[0], numbers[0]), (numbers[1], numbers[1])


def _pair(value: Any) -> tuple[int, int]:
    listed = [value, value] if isinstance(value, int) else list(value)
    return int(listed[0]), int(listed[1])


def _strides(row: Row) -> tuple[int, int]:
    return _pair(row.get("strides") or row.get("pool_size") or 1)


def _windows(padded: Array, window: tuple[int, int], row: Row) -> Array:
    """Return the windows (N, H', W', C, h, w) that a layer's kernel lies on."""
    (dilated_h, dilated_w) = _pair(row.get("dilation") or 1)
    extent = ((window[0] - 1) * dilated_h + 1, (window[1] - 1) * dilated_w + 1)
    if min(padded.shape[1] - extent[0], padded.shape[2] - extent[1]) < 0:
        raise UnexaminableError("the window is larger than the map")
    stride_h, stride_w = _strides(row)
    views = sliding_window_view(padded, extent, axis=(1, 2))
    return views[:, ::stride_h, ::stride_w, :, ::dilated_h, ::dilated_w]


def _pad(maps: Array, pads: Pads, filler: float = 0.0) -> Array:
    return np.pad(maps, ((0, 0), *pads, (0, 0)), constant_values=filler)


def _spread(
    pieces: Callable[[int, int], Array], shape: Sequence[int], pads: Pads, row: Row,
    window: tuple[int, int], grid: tuple[int, int],
) -> Array:  # fmt: skip
    """Add what each window position sends back to the map of `shape` that it came from."""
    batch, height, width, channels = shape
    (top, bottom), (before, after) = pads
    padded = np.zeros((batch, height + top + bottom, width + before + after, channels))
    (stride_h, stride_w), (dilated_h, dilated_w) = _strides(row), _pair(row.get("dilation") or 1)
    for i in range(window[0]):
        for j in range(window[1]):
            rows = slice(i * dilated_h, i * dilated_h + (grid[0] - 1) * stride_h + 1, stride_h)
            columns = slice(j * dilated_w, j * dilated_w + (grid[1] - 1) * stride_w + 1, stride_w)
            padded[:, rows, columns] += pieces(i, j)
    return padded[:, top : top + height, before : before + width]


def _convolution(row: Row, own: Arrays, maps: Array, mode: Mode) -> tuple[Array, Backward]:
    """Correlate, as every framework does; keys `padding`, `strides`, `dilation`."""
    if row.get("groups", 1) != 1:
        raise UnexaminableError("no formula for grouped convolutions")
    kernel = own["kernel"]
    window = (kernel.shape[0], kernel.shape[1])
    dilation = _pair(row.get("dilation") or 1)
    extent = [(size - 1) * step + 1 for size, step in zip(window, dilation, strict=True)]
    pads = pads_of(row, maps.shape[1:3], extent)
    views = _windows(_pad(maps, pads), window, row)
    output = np.tensordot(views, kernel, axes=([3, 4, 5], [2, 0, 1])) + own.get("bias", 0.0)

    def backward(gradient: Array) -> tuple[Array, dict[str, Array]]:
        kernel_gradient = np.tensordot(views, gradient, axes=([0, 1, 2], [0, 1, 2]))
        found = {"kernel": kernel_gradient.transpose(1, 2, 0, 3)}
        if "bias" in own:
            found["bias"] = gradient.sum((0, 1, 2))
        grid = (gradient.shape[1], gradient.shape[2])
        sent = _spread(lambda i, j: gradient @ kernel[i, j].T, maps.shape, pads, row, window, grid)
        return sent, found

    return output, backward


def pool_shares(views: Array, rule: str) -> Array:
    """Return the share of the gradient for each place of windows (…, places) under a tie rule."""
    equal = views == views.max(-1, keepdims=True)
    if rule == "every":
        return equal.astype(np.float64)
    if rule == "shared":
        return equal / equal.sum(-1, keepdims=True)
    chosen = equal.argmax(-1)
    if rule == "last":
        chosen = equal.shape[-1] - 1 - equal[..., ::-1].argmax(-1)
    return (np.arange(equal.shape[-1]) == chosen[..., None]).astype(np.float64)


def pool_views(row: Row, maps: Array) -> tuple[Array, Pads]:
    """Return a max pool's windows (N, H', W', C, places), padded with −∞, and the padding."""
    window = _pair(row["pool_size"])
    pads = pads_of(row, maps.shape[1:3], window)
    views = _windows(_pad(maps, pads, -np.inf), window, row)
    return views.reshape(*views.shape[:4], -1), pads


def _max_pool(row: Row, own: Arrays, maps: Array, mode: Mode) -> tuple[Array, Backward]:
    views, pads = pool_views(row, maps)
    return views.max(-1), _pool_backward(row, maps, pads, lambda: pool_shares(views, mode.ties))


def _average_pool(row: Row, own: Arrays, maps: Array, mode: Mode) -> tuple[Array, Backward]:
    """Average; key `counts_padding`, as torch and not Keras."""
    window = _pair(row["pool_size"])
    pads = pads_of(row, maps.shape[1:3], window)
    views = _windows(_pad(maps, pads, 0.0), window, row)
    views = views.reshape(*views.shape[:4], -1)
    is_inside = _windows(_pad(np.ones_like(maps), pads, 0.0), window, row).reshape(views.shape)
    is_counted = np.ones_like(is_inside) if row.get("counts_padding") else is_inside
    shares = 1.0 / is_counted.sum(-1, keepdims=True) * is_inside
    return (views * shares).sum(-1), _pool_backward(row, maps, pads, lambda: shares)


def _pool_backward(row: Row, maps: Array, pads: Pads, shares_of: Callable[[], Array]) -> Backward:
    window = _pair(row["pool_size"])

    def backward(gradient: Array) -> tuple[Array, dict[str, Array]]:
        shares = shares_of()
        grid = (gradient.shape[1], gradient.shape[2])

        def piece(i: int, j: int) -> Array:
            return gradient * shares[..., i * window[1] + j]

        return _spread(piece, maps.shape, pads, row, window, grid), {}

    return backward


def _leaky_relu(row: Row, own: Arrays, values: Array, mode: Mode) -> tuple[Array, Backward]:
    """Scale what is not above zero; its gradient too, zero included, as torch and TensorFlow."""
    is_positive = values >= 0 if mode.is_zero_positive else values > 0
    slope = np.where(is_positive, 1.0, float(row["negative_slope"]))
    return values * slope, lambda gradient: (gradient * slope, {})


def _relu(row: Row, own: Arrays, values: Array, mode: Mode) -> tuple[Array, Backward]:
    return _leaky_relu({"negative_slope": 0.0}, own, values, mode)


def _softmax(row: Row, own: Arrays, values: Array, mode: Mode) -> tuple[Array, Backward]:
    shares = softmax(values)

    def backward(gradient: Array) -> tuple[Array, dict[str, Array]]:
        return softmax_backward(shares, gradient), {}

    return shares, backward


def _log_softmax(row: Row, own: Arrays, values: Array, mode: Mode) -> tuple[Array, Backward]:
    logs = log_softmax(values)
    return logs, lambda g: (g - np.exp(logs) * g.sum(-1, keepdims=True), {})


def _dropout(row: Row, own: Arrays, values: Array, mode: Mode) -> tuple[Array, Backward]:
    if not mode.is_training or not row.get("rate", 0.0):
        return values, lambda gradient: (gradient, {})
    # The generator draws a smaller batch's masks first, so they are the first rows.
    mask = mode.masks.get(row["name"], values[:0])[: len(values)]
    if mask.shape != values.shape:
        raise UnexaminableError(f"the mask of {row['name']} is not known")
    return values * mask, lambda gradient: (gradient * mask, {})


def _flatten(row: Row, own: Arrays, maps: Array, mode: Mode) -> tuple[Array, Backward]:
    """Read a map by its axes in `order`, (0, 1, 2) for H, W, C."""
    order = tuple(axis + 1 for axis in row.get("order", range(maps.ndim - 1)))
    moved = maps.transpose(0, *order)

    def backward(gradient: Array) -> tuple[Array, dict[str, Array]]:
        return gradient.reshape(moved.shape).transpose(np.argsort((0, *order))), {}

    return moved.reshape(len(maps), -1), backward


def _dense(row: Row, own: Arrays, values: Array, mode: Mode) -> tuple[Array, Backward]:
    kernel = own["kernel"]

    def backward(gradient: Array) -> tuple[Array, dict[str, Array]]:
        found = {"kernel": values.T @ gradient}
        if "bias" in own:
            found["bias"] = gradient.sum(0)
        return gradient @ kernel.T, found

    return values @ kernel + own.get("bias", 0.0), backward


_LAYERS: dict[str, Callable[..., tuple[Array, Backward]]] = {
    "convolution": _convolution,
    "dense": _dense,
    "leaky_relu": _leaky_relu,
    "relu": _relu,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "dropout": _dropout,
    "flatten": _flatten,
}


def log_softmax(logits: Array) -> Array:
    """Return the log of each row's softmax."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax(logits: Array) -> Array:
    """Return each row's softmax."""
    return np.exp(log_softmax(logits))


def softmax_backward(shares: Array, gradient: Array) -> Array:
    """Return the gradient before a softmax that gave `shares`, from the one after it."""
    return shares * (gradient - (gradient * shares).sum(-1, keepdims=True))


@dataclass(frozen=True)
class Adam:
    """Adam's update, in each of the forms that are in use."""

    learning_rate: float
    beta_1: float
    beta_2: float
    epsilon: float
    is_inside: bool = False
    """ε inside the bias correction, as in torch; Keras has it outside."""
    corrects_bias: bool = True
    decay: float = 0.0
    """Decoupled: the share, times the learning rate, that a weight loses in a step."""

    def direction(self, m: Array, v: Array, step: int) -> Array:
        """Return the factor of the learning rate in `step` (from 1), from the slots after it."""
        first, second = 1 - self.beta_1**step, 1 - self.beta_2**step
        if not self.corrects_bias:
            first = second = 1.0
        m, v = np.asarray(m, np.float64), np.asarray(v, np.float64)
        if self.is_inside:
            return m / first / (np.sqrt(v) / math.sqrt(second) + self.epsilon)
        return math.sqrt(second) / first * m / (np.sqrt(v) + self.epsilon)

    def after(self, weight: Array, m: Array, v: Array, step: int) -> Array:
        """Return the weight after a step, from the one before and the slots after it."""
        kept = np.asarray(weight, np.float64) * (1 - self.learning_rate * self.decay)
        return kept - self.learning_rate * self.direction(m, v, step)
