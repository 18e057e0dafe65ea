"""What may differ between the two implementations, and by how much."""

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from ladder.checks import Terms
from ladder.compare import Tolerance

ROUNDING_FLOAT64 = Tolerance(
    "ROUNDING_FLOAT64",
    absolute=1e-14,
    relative=1e-13,
    reason="float64 sums of up to 2,048 products taken in different orders",
    measured="see the largest gaps that `scripts/prove.py` prints",
)
TRAINING_FLOAT64 = Tolerance(
    "TRAINING_FLOAT64",
    absolute=1e-13,
    relative=1e-12,
    reason="float64 rounding, grown through 104 Adam steps",
    measured="see the largest gaps that `scripts/prove.py` prints",
)
ACCURACY_FLOAT32 = Tolerance(
    "ACCURACY_FLOAT32",
    absolute=1e-7,
    reason="torchmetrics divides counts of hits in float32, also in a float64 model",
    measured="2.8e-8, half a unit in the last place of a float32 near 0.5",
)
LOGITS_FLOAT32 = Tolerance(
    "LOGITS_FLOAT32",
    absolute=1e-5,
    reason="float32 sums of up to 2,048 products taken in different orders; logits are of order 1",
    measured="0",
)
EPOCH_BASE_FLOAT32 = Tolerance(
    "EPOCH_BASE_FLOAT32",
    absolute=0.02,
    reason="the same weights, batches and formulas; 750 float32 steps let rounding grow",
    measured="0.0097 at most, in validation loss (seed 0, Keras-TensorFlow and Lightning)",
)
EPOCH_DROPOUT = Tolerance(
    "EPOCH_DROPOUT",
    absolute=0.06,
    reason="each framework draws its own dropout masks, so the runs agree in distribution only",
    measured="0.024 at most, in validation loss (seed 0, Keras-TensorFlow and Lightning)",
)

FLOAT32_ULP = 2.0**-23
"""The spacing of float32 at 1, the least gap that a measurement stands for."""
HEADROOM = 8.0
"""How far beyond the measured gaps of an engine with itself a float32 gap between two may go."""
MOST_FLOAT32 = 0.5
"""Share of the largest value that a float32 gap may never exceed: zeros for values are seen."""
MEASURED = Path(__file__).parent / "float32-gaps.json"


def float64_tolerance(rung: str, key: str) -> Tolerance:
    """Return the tolerance of float64 rounding at a rung."""
    if rung == "evaluation":
        return ACCURACY_FLOAT32 if key.endswith("accuracy") else TRAINING_FLOAT64
    return TRAINING_FLOAT64 if rung in {"optimizer", "training"} else ROUNDING_FLOAT64


def terms_of(dtype: str, engines: Sequence[str]) -> Terms:
    """Return the tolerances between two engines in a precision, `float64` or `float32`."""
    tolerance = float64_tolerance if dtype == "float64" else partial(float32_tolerance, engines)
    return Terms(dtype, tolerance)


def float32_tolerance(engines: Sequence[str], rung: str, key: str) -> Tolerance:
    """Return the tolerance of float32: the larger of both engines' gaps with themselves, and room.

    Raises:
        ValueError: nothing was measured for this rung and key.
    """
    measured = measured_gaps()
    place = pooled(key)
    gaps = [measured["gaps"].get(engine, {}).get(rung, {}).get(place) for engine in engines]
    if None in gaps or not gaps:
        raise ValueError(f"{MEASURED.name} has no gap of {' and '.join(engines)} at {rung} {key}")
    gap = max(gaps)
    return Tolerance(
        "MEASURED_FLOAT32",
        absolute=0.0,
        relative=min(HEADROOM * max(gap, FLOAT32_ULP), MOST_FLOAT32),
        reason=f"{HEADROOM:g} times the gap of an engine with itself, its weights moved by one "
        f"ulp, and at most {MOST_FLOAT32:g}",
        measured=f"{gap:.3g} of the largest value; {measured['origin']['command']}",
    )


def pooled(key: str) -> str:
    """Return a key without its case or step: `gradient.full.conv1.bias` as `gradient.conv1.bias`.

    Rounding decides which of two nearly equal values a max pool passes on, and then a gradient
    goes another way. In which batch that happens is chance, so the largest gap of all counts.
    """
    kind, *rest = key.split(".")
    if kind == "seam":  # weights, like those after the last step
        return ".".join(["trained", *rest[1:]])
    if kind in ("gradient", "step"):
        return ".".join([kind, *rest[1:]])
    return kind if kind in ("logits", "loss", "drop") else key


@cache
def measured_gaps() -> dict[str, Any]:
    """Return the gaps by engine, rung and key, with their origin; see `parity_tests.gaps`."""
    return json.loads(MEASURED.read_text())
