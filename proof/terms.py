"""What may differ between the two halves, and by how much."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from portproof.compare import Tolerance
from portproof.ladder import Terms

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
    reason="float64 rounding, grown through 20 Adam steps",
    measured="see the largest gaps that `scripts/prove.py` prints",
)
ACCURACY_FLOAT32 = Tolerance(
    "ACCURACY_FLOAT32",
    absolute=1e-7,
    reason="torchmetrics divides counts of hits in float32, also in a float64 model",
    measured="2.8e-8, half a unit in the last place of a float32 near 0.5",
)

WAIVERS = {
    "data_format": "each framework's own layout inside; all that is compared is NHWC",
    "initialisers": "torch has no initialiser objects: rung 4 compares what is drawn",
}

FLOAT32_ULP = 2.0**-23
"""The spacing of float32 at 1, the least gap that a measurement stands for."""
HEADROOM = 8.0
"""How far beyond the measured gaps of an engine with itself a float32 gap between two may go."""
MEASURED = Path(__file__).parent / "float32-gaps.json"


def float64_tolerance(rung: str, key: str) -> Tolerance:
    """Return what float64 rounding allows at a rung."""
    if rung == "evaluation":
        return ACCURACY_FLOAT32 if key.endswith("accuracy") else TRAINING_FLOAT64
    return TRAINING_FLOAT64 if rung in {"optimizer", "training"} else ROUNDING_FLOAT64


def terms_of(lane: str) -> Terms:
    """Return what may differ in a lane, `float64` or `float32`."""
    tolerance = float64_tolerance if lane == "float64" else float32_tolerance
    return Terms(lane, tolerance, WAIVERS)


def float32_tolerance(rung: str, key: str) -> Tolerance:
    """Return what float32 rounding allows: the measured gap of engines with themselves, and room.

    Raises:
        ValueError: nothing was measured for this rung and key.
    """
    measured = measured_gaps()
    try:
        gap = measured["gaps"][rung][key]
    except KeyError as error:
        raise ValueError(f"{MEASURED.name} has no gap of {rung} {key}") from error
    return Tolerance(
        "MEASURED_FLOAT32",
        absolute=0.0,
        relative=HEADROOM * max(gap, FLOAT32_ULP),
        reason=f"{HEADROOM:g} times the gap of an engine with itself, its weights moved by one ulp",
        measured=f"{gap:.3g} of the largest value; {measured['origin']['command']}",
    )


@cache
def measured_gaps() -> dict[str, Any]:
    """Return the gaps by rung and key, with their origin; see `proof.gaps`."""
    return json.loads(MEASURED.read_text())
