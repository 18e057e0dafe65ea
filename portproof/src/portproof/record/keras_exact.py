"""What Keras on TensorFlow or JAX rounds to float32, or cannot compute, in a model of float64."""

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src import ops
from keras.src.layers.preprocessing import normalization
from keras.src.optimizers import nadam
from keras.src.optimizers.schedules import learning_rate_schedule
from keras.src.regularizers import regularizers

_ROUNDING: tuple[Any, ...] = (normalization, learning_rate_schedule, nadam, regularizers)
"""Modules that make tensors of a user's own constants."""


class _Exact:
    """Keras's operations, with Python's numbers taken in float64."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ops, name)

    @staticmethod
    def convert_to_tensor(x: Any, dtype: Any = None) -> Any:
        is_real = not ops.is_tensor(x) and np.asarray(x).dtype.kind == "f"
        return ops.convert_to_tensor(x, "float64" if is_real and dtype is None else dtype)

    @staticmethod
    def cast(x: Any, dtype: Any) -> Any:
        return ops.convert_to_tensor(x, dtype) if isinstance(x, float) else ops.cast(x, dtype)


_MAKING = (
    "arange", "array", "cast", "convert_to_tensor", "eye", "full", "linspace", "one_hot", "ones",
    "tril", "zeros",
)  # fmt: skip
"""Operations of Keras that take a dtype from a user."""
_TENSORFLOWS = (
    "cast", "constant", "convert_to_tensor", "eye", "fill", "linspace", "one_hot", "ones", "range",
    "saturate_cast", "zeros",
)  # fmt: skip


def use_wide_casts() -> None:
    """Let a user's own code that asks for float32 have float64."""
    spaces = [(keras.ops, _MAKING)]
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        spaces.append((tensorflow, _TENSORFLOWS))
    for space, names in spaces:
        for name in names:
            function = getattr(space, name)
            if function.__module__ != __name__:
                setattr(space, name, _lifted(function))


def _lifted(function: Any) -> Any:
    """Return an operation that gives float64 where float32 is asked for, but by the frameworks."""

    def lifted(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
        if caller in ("keras", "tensorflow"):
            return function(*args, **kwargs)
        wide = [_wide(a) for a in args]
        return function(*wide, **{name: _wide(value) for name, value in kwargs.items()})

    return lifted


def _wide(value: Any) -> Any:
    is_single = isinstance(value, str) and value == "float32"
    is_single = is_single or value is np.float32
    is_single = is_single or (type(value).__name__ == "DType" and value.name == "float32")
    return "float64" if is_single else value


def use_exact_constants() -> None:
    """Let constants be float64, and pools of volumes, which TensorFlow lacks there, be of two."""
    if isinstance(regularizers.ops, _Exact):
        return
    for module in _ROUNDING:
        module.ops = _Exact()
    nn = keras.src.backend.nn
    nn.max_pool, nn.average_pool = (_in_two(pool) for pool in (nn.max_pool, nn.average_pool))
    math, in_top_k = keras.src.backend.math, keras.src.backend.math.in_top_k
    math.in_top_k = lambda targets, x, k: in_top_k(targets, ops.cast(x, "float32"), k)


def use_exact_attention() -> None:
    """Let attention on JAX, whose own has its scores in float32, be float64."""
    fused = keras.src.backend.nn.dot_product_attention
    if fused.__module__ == __name__:
        return

    def attention(
        query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, scale: Any = None,
        is_causal: bool = False, **options: Any,
    ) -> Any:  # fmt: skip
        if query.shape[-2:] != key.shape[-2:] or any(v is not None for v in options.values()):
            return fused(query, key, value, bias, mask, scale, is_causal, **options)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        scores = ops.einsum("btnh,bsnh->bnts", query, key) * scale
        scores = scores if bias is None else scores + bias
        if is_causal:
            order = ops.tril(ops.ones(scores.shape[-2:], "bool"))
            mask = order if mask is None else ops.logical_and(mask, order)
        if mask is not None:  # as JAX's own: a row without any place is their mean
            scores = ops.where(mask, scores, -0.7 * float(np.finfo(np.float64).max))
        return ops.einsum("bnts,bsnh->btnh", ops.softmax(scores), value)

    keras.src.backend.nn.dot_product_attention = attention


def _in_two(pool: Callable[..., Any]) -> Callable[..., Any]:
    """Return a pool that goes over height and width first, then over depth, in float64."""

    def pooled(
        inputs: Any,
        pool_size: Any,
        strides: Any = None,
        padding: str = "valid",
        *rest: Any,
        **kwargs: Any,
    ) -> Any:
        x = ops.convert_to_tensor(inputs)
        if (
            x.dtype != "float64"
            or len(x.shape) != 5
            or "channels_first" in (*rest, *kwargs.values())
        ):
            return pool(inputs, pool_size, strides, padding, *rest, **kwargs)
        size, step = (
            [v] * 3 if isinstance(v, int) else list(v) for v in (pool_size, strides or pool_size)
        )
        _, depth, height, width, channels = x.shape
        x = pool(ops.reshape(x, (-1, height, width, channels)), size[1:], step[1:], padding)
        height, width = x.shape[1:3]
        x = ops.reshape(x, (-1, depth, height * width, channels))
        x = pool(x, [size[0], 1], [step[0], 1], padding)
        return ops.reshape(x, (-1, x.shape[1], height, width, channels))

    return pooled
