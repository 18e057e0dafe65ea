"""The network's canonical parameters: names, shapes, and the shared first weights."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ladder.arrays import check_shapes, read_arrays, write_arrays
from pipeline.batches import FIRST_WEIGHTS, generator
from pipeline.errors import UsageError
from pipeline.recipe import Recipe

Array = np.ndarray[Any, Any]
MAX_WEIGHTS_BYTES = 1024**3


def feature_map_shape(recipe: Recipe) -> tuple[int, int, int]:
    """Return (H, W, C) of what is flattened; 'same' pooling rounds sizes up."""
    size = recipe.image_size
    for _ in recipe.conv_filters:
        size = math.ceil(size / recipe.pool_size)
    return size, size, recipe.conv_filters[-1]


def parameter_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Return the canonical shape of each parameter, in the network's order.

    Convolutions are (H, W, in, out), dense kernels (in, out) with rows in H, W, C order.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 1
    for block, filters in enumerate(recipe.conv_filters, start=1):
        shapes[f"conv{block}.kernel"] = (recipe.kernel_size, recipe.kernel_size, channels, filters)
        shapes[f"conv{block}.bias"] = (filters,)
        channels = filters
    shapes["hidden.kernel"] = (math.prod(feature_map_shape(recipe)), recipe.hidden_units)
    shapes["hidden.bias"] = (recipe.hidden_units,)
    shapes["logits.kernel"] = (recipe.hidden_units, recipe.num_classes)
    shapes["logits.bias"] = (recipe.num_classes,)
    return shapes


def shared_first_weights(recipe: Recipe) -> dict[str, Array]:
    """Draw Glorot uniform kernels and zero biases, float32, from NumPy and the recipe's seed.

    The limit is sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010). float32 also where the
    run is float64, so that both start from the same numbers.
    """
    draw = generator(recipe.seed, FIRST_WEIGHTS)
    weights = {}
    for name, shape in parameter_shapes(recipe).items():
        if name.endswith(".bias"):
            weights[name] = np.zeros(shape, np.float32)
        else:
            limit = glorot_limit(shape)
            weights[name] = draw.uniform(-limit, limit, shape).astype(np.float32)
    return weights


def glorot_limit(shape: tuple[int, ...]) -> float:
    """Return the bound of Glorot's uniform distribution for a canonical kernel's shape."""
    receptive_field = math.prod(shape[:-2])
    return math.sqrt(6 / (receptive_field * (shape[-2] + shape[-1])))


def first_weights(recipe: Recipe) -> dict[str, Array] | None:
    """Return the canonical weights that training starts from; None for the framework's own.

    Raises:
        UsageError: `init` names a file that cannot be read or holds other parameters.
    """
    if recipe.init == "own":
        return None
    if recipe.init == "shared":
        return shared_first_weights(recipe)
    try:
        return read_weights(Path(recipe.init), recipe)
    except ValueError as error:
        raise UsageError(f"`init` must be shared, own or a weights file; {error}") from error


def read_weights(path: Path, recipe: Recipe) -> dict[str, Array]:
    """Read canonical weights and check them against the recipe's network.

    Raises:
        ValueError: unreadable, missing, extra or misshapen entries, not floats, or not finite.
    """
    weights, _ = read_arrays(path, MAX_WEIGHTS_BYTES)
    check_weights(weights, recipe, str(path))
    return weights


def write_weights(path: Path, weights: dict[str, Array]) -> None:
    """Write canonical weights as safetensors."""
    write_arrays(path, weights)


def check_weights(weights: dict[str, Array], recipe: Recipe, what: str) -> None:
    """Check names, shapes and values of canonical weights.

    Raises:
        ValueError: missing, extra or misshapen entries, not floats, or not finite.
    """
    check_shapes(weights, parameter_shapes(recipe), what)
    for name, array in weights.items():
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(f"{what}: {name} must be float32 or float64; received {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"{what}: {name} holds values that are not finite")
