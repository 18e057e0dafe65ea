"""What Keras on TensorFlow rounds to float32, or cannot compute, in a model of float64."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src import ops
from keras.src.layers.preprocessing import normalization
from keras.src.optimizers.schedules import learning_rate_schedule
from keras.src.regularizers import regularizers

_ROUNDING: tuple[Any, ...] = (normalization, learning_rate_schedule, regularizers)
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


def use_exact_constants() -> None:
    """Let constants be float64, and pools of volumes, which TensorFlow lacks there, be of two."""
    if isinstance(regularizers.ops, _Exact):
        return
    for module in _ROUNDING:
        module.ops = _Exact()
    nn = keras.src.backend.nn
    nn.max_pool, nn.average_pool = (_in_two(pool) for pool in (nn.max_pool, nn.average_pool))


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
