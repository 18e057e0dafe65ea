"""The recipe: every number that decides what is computed, stated once for both implementations."""

import dataclasses
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ladder.files import write_text
from pipeline.errors import UsageError
from pipeline.flags import check, flag

VARIANTS = ("base", "dropout")
PRECISIONS = ("32", "64", "bf16")
DROPOUT_RATES = {"base": (0.0, 0.0, 0.0, 0.0), "dropout": (0.25, 0.25, 0.4, 0.3)}
MAX_IMAGE_SIZE = 1024
MAX_WIDTH = 65_536
SEEDS = (0, 2**32 - 1)
MAX_FLOAT32 = (2 - 2**-23) * 2.0**127
FLOAT32_DIGITS = 9
"""So many decimal digits tell any two float32 apart."""


def nearest_float32(value: float) -> float:
    """Return the float32 nearest to `value`, as a double.

    TensorFlow stores LeakyReLU's slope, and Keras there casts Adam's betas, as float32 even in a
    float64 model. A number that float32 can hold is the same number on both sides.
    """
    return struct.unpack("=f", struct.pack("=f", value))[0]  # native "f" would overflow to inf


def shortest(value: Any) -> Any:
    """Return 0.001 for 0.0010000000474974513: the fewest digits that stand for the same float32.

    What is no float32 stays as it is.
    """
    if isinstance(value, float) and math.isfinite(value) and abs(value) <= MAX_FLOAT32:
        for digits in range(1, FLOAT32_DIGITS + 1):
            short = float(f"{value:.{digits}g}")
            if abs(short) <= MAX_FLOAT32 and nearest_float32(short) == value:
                return short
    return value


@dataclass(frozen=True)
class Recipe:
    """What is trained and how; two runs with equal recipes compute the same thing.

    Raises:
        UsageError: a field is out of its range, named with the value received.
    """

    variant: str = flag("base", "--variant", "network", choices=VARIANTS)
    """`base`, or `dropout`: the same network with the dropout layers."""
    image_size: int = flag(28, limits=(1, MAX_IMAGE_SIZE))
    """Height and width that images are resized to, in pixels."""
    num_classes: int = flag(10, limits=(1, MAX_WIDTH))
    validation_fraction: float = flag(0.2, limits=(0, 1))
    """Share of the 60,000 training images that validates."""
    split_seed: int = flag(13, limits=SEEDS)
    """`random_state` of scikit-learn's `train_test_split`."""
    conv_filters: tuple[int, ...] = flag((32, 64, 128), limits=(1, MAX_WIDTH))
    """Output channels of the convolution in each block."""
    kernel_size: int = flag(3, limits=(1, MAX_WIDTH))
    # Above 2, Keras's "same" pads both sides of a pool and torch's ceil_mode only the end.
    pool_size: int = flag(2, limits=(1, 2))
    hidden_units: int = flag(128, limits=(1, MAX_WIDTH))
    negative_slope: float = flag(nearest_float32(0.1), limits=(0, 1))
    """LeakyReLU's slope below zero."""
    dropout_rates: tuple[float, ...] = DROPOUT_RATES["base"]
    """Share of values dropped after each block's pool and, last, before the logits."""
    init: str = flag("shared", "--init", "first weights", metavar="shared|own|FILE")
    """`shared` (NumPy, the same in both), `own` (the framework's), or a weights file."""
    learning_rate: float = flag(
        nearest_float32(1e-3), "--learning-rate", "Adam's", metavar="X", limits=(0, math.inf)
    )
    beta_1: float = flag(nearest_float32(0.9), limits=(0, 1))
    beta_2: float = flag(nearest_float32(0.999), limits=(0, 1))
    epsilon: float = flag(nearest_float32(1e-7), limits=(0, math.inf))
    """Adam's ε, outside the bias correction as in Keras's formula."""
    batch_size: int = flag(64, "--batch-size", "images a step", limits=(1, math.inf))
    num_epochs: int = flag(20, "--epochs", "epochs to train, in all", limits=(1, math.inf))
    seed: int = flag(0, "--seed", "first weights, order, dropout", limits=SEEDS)
    precision: str = flag("32", "--precision", "of the computation", choices=PRECISIONS)
    """`32` (float32), `64` (float64) or `bf16` (mixed: float32 weights, bfloat16 products)."""

    def __post_init__(self) -> None:
        """Check each field and the fields against each other."""
        for name in ("conv_filters", "dropout_rates"):
            if not isinstance(getattr(self, name), tuple):
                raise UsageError(
                    f"`{name}` must be a list; received {name}={getattr(self, name)!r}"
                )
        check(self)
        if not isinstance(self.init, str) or not self.init:
            raise UsageError(
                f"`init` must be shared, own or a weights file; received init={self.init!r}"
            )
        if not self.conv_filters:
            raise UsageError("`conv_filters` must name at least one block; received ()")
        if len(self.dropout_rates) != len(self.conv_filters) + 1:
            raise UsageError(
                "`dropout_rates` must hold one rate a block and one before the logits, "
                f"{len(self.conv_filters) + 1} in all; received {self.dropout_rates!r}"
            )
        for rate in self.dropout_rates:
            if not isinstance(rate, float) or not 0 <= rate < 1:
                raise UsageError(
                    f"`dropout_rates` must lie in [0, 1); received {self.dropout_rates!r}"
                )
        if any(self.dropout_rates) == (self.variant == "base"):
            raise UsageError(
                "`dropout_rates` must be zero in the base variant and not all zero in "
                f"others; received variant={self.variant!r}, "
                f"dropout_rates={self.dropout_rates!r}"
            )


def preset(variant: str, **changes: Any) -> Recipe:
    """Return the tutorial's recipe for `variant`, with `changes` to its fields.

    Floats are rounded to the nearest float32 (see `nearest_float32`).

    Raises:
        UsageError: unknown variant or field, or a value out of range.
    """
    return recipe_from_dict(overridden({}, {"variant": variant, **changes}))


def overridden(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `fields` with `changes`; another variant brings its own dropout rates."""
    variant = changes.get("variant", fields.get("variant", "base"))
    rates_fit = "dropout_rates" in fields and fields.get("variant", variant) == variant
    if rates_fit or variant not in VARIANTS:
        return {**fields, **changes}
    return {**fields, "dropout_rates": DROPOUT_RATES[variant], **changes}


def recipe_from_dict(fields: dict[str, Any]) -> Recipe:
    """Build a recipe from plain values, as read from YAML or JSON.

    Raises:
        UsageError: an unknown field, a wrong type or a value out of range.
    """
    known = {field.name: field.type for field in dataclasses.fields(Recipe)}
    unknown = sorted(map(str, set(fields) - set(known)))
    if unknown:
        raise UsageError(f"a recipe has no field `{unknown[0]}`; it has {', '.join(known)}")
    return Recipe(**{name: _as_field(name, value) for name, value in fields.items()})


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values for JSON and YAML."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(recipe).items()
    }


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write `recipe` to `path` as YAML, field by field in the recipe's own order.

    Floats have the fewest digits from which reading makes the same float32 again.
    """
    fields = {
        name: [shortest(item) for item in value] if isinstance(value, list) else shortest(value)
        for name, value in recipe_to_dict(recipe).items()
    }
    write_text(path, yaml.safe_dump(fields, sort_keys=False))


def _as_field(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_as_field(name, item) for item in value)
    is_float_field = isinstance(getattr(Recipe, name, ()), float) or name == "dropout_rates"
    if is_float_field and isinstance(value, int | float) and not isinstance(value, bool):
        return _rounded(name, value)
    if is_float_field and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a word
        try:
            return _rounded(name, float(value))
        except ValueError as error:
            raise UsageError(f"`{name}` must be a number; received {name}={value!r}") from error
    if name == "precision" and isinstance(value, int):
        return str(value)
    return value


def _rounded(name: str, value: float) -> float:
    try:
        if name == "validation_fraction":  # a share of a count, never fed to a framework
            return float(value)
        return nearest_float32(float(value))
    except OverflowError as error:
        raise UsageError(f"`{name}` must fit in float32; received {name}={value!r}") from error
