"""Keras on torch: what torch is told before a run, and layers in a faster order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import keras

from keras_impl.settings import require_gpu
from pipeline.execution import Execution


def configure(execution: Execution) -> dict[str, Any]:
    """Set torch up for one run and return what it resolved to."""
    import torch
    from keras.src.backend.torch import core

    if execution.num_threads is not None:
        torch.set_num_threads(execution.num_threads)
    has_gpu = torch.cuda.is_available()
    require_gpu(execution, has_gpu=has_gpu)
    on_gpu = has_gpu and execution.device != "cpu"
    # Left to itself, Keras takes an Apple GPU (mps), as Lightning here does not; and that has no
    # float64.
    core.DEFAULT_DEVICE = "cuda" if on_gpu else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = execution.tf32
    torch.backends.cudnn.allow_tf32 = execution.tf32
    torch.use_deterministic_algorithms(execution.deterministic)
    # Else deterministic mode fills each `torch.empty`, for programs that read what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not execution.plain:
        leave_maps_in_place()
    return {
        "device": "gpu" if on_gpu else "cpu",
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "threads": torch.get_num_threads(),
    }


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


@contextmanager
def pools_first(model: keras.Sequential) -> Iterator[None]:
    """Let each max pool that follows a leaky ReLU do its work before it.

    A leaky ReLU rises everywhere, so it commutes with max pooling, and after the pool it has a
    quarter of the work: on torch, where each layer is a call of its own. What comes out of the pool
    is the same bits. A gradient can take another way where two different negative floats are equal
    after scaling, which a pool that comes after sees as a tie. The activation itself returns its
    input meanwhile.
    """
    assert isinstance(model, keras.Sequential)  # whose neighbours are connected
    pairs = [
        (layer, following)
        for layer, following in pairwise(model.layers)
        if isinstance(layer, keras.layers.LeakyReLU)
        and isinstance(following, keras.layers.MaxPooling2D)
    ]
    for activation, pool in pairs:
        assert activation.negative_slope > 0
        pool.call = _after(pool.call, activation.call)
        activation.call = lambda inputs: inputs
    try:
        yield
    finally:
        for pair in pairs:
            for layer in pair:
                del layer.call  # back to the class's


def _after(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda inputs: second(first(inputs))
