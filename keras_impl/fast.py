"""All that the fast path does differently; `--plain` goes without it."""

from collections.abc import Sequence
from typing import Any

import keras

from pipeline.execution import Execution

STEPS_PER_EXECUTION = 25
"""Training steps in one call of TensorFlow's compiled function."""


def steps_per_execution(execution: Execution, callbacks: Sequence[keras.callbacks.Callback]) -> int:
    """Return how many steps Keras takes between two calls of the callbacks.

    Only TensorFlow's gain by more than one: on JAX they are a loop in Python, on torch refused.
    """
    if execution.plain or keras.backend.backend() != "tensorflow":
        return 1
    limits = (getattr(callback, "max_steps_per_execution", 1) for callback in callbacks)
    return min((STEPS_PER_EXECUTION, *limits))


def leave_maps_in_place() -> None:
    """Let Keras hand feature maps to torch as they lie in memory.

    Keras keeps (N, H, W, C), torch takes (N, C, H, W). Keras 3.15.1 copies each map into that
    order, and before a convolution copies it back: in torch, the map seen with its axes permuted
    *is* channels_last, the layout that convolutions and pools compute in. A copy changes no value.
    """
    import torch
    from keras.src.backend.torch import nn

    copied = nn._transpose_spatial_inputs

    def permuted(inputs: Any) -> Any:
        return torch.permute(inputs, (0, 3, 1, 2)) if inputs.ndim == 4 else copied(inputs)

    nn._transpose_spatial_inputs = permuted
