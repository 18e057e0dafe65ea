"""Names, colours and numbers as the page shows them."""

import math
from collections.abc import Sequence
from typing import Any

from reporting.evidence import Evidence, TrainedRun
from reporting.repeated import Spread

Fields = dict[str, Any]

COLOURS = {"keras-tensorflow": 0, "lightning": 1, "keras-jax": 2, "keras-torch": 3}
OTHER_COLOUR = 4
NONE = "–"


def colour_of(engine: str) -> int:
    """Return an engine's colour."""
    return COLOURS.get(engine, OTHER_COLOUR)


def complete(evidence: Evidence) -> list[TrainedRun]:
    """Return the runs that have a result."""
    return [run for run in evidence.runs if run.evaluation is not None]


def pairs(runs: Sequence[TrainedRun]) -> list[tuple[TrainedRun, TrainedRun]]:
    """Return, for each variant, the first Keras run and Lightning run with the same recipe."""
    found = []
    for variant in dict.fromkeys(run.variant for run in runs):
        own = [run for run in runs if run.variant == variant]
        keras = [run for run in own if run.engine.startswith("keras")]
        lightning = [run for run in own if run.engine == "lightning"]
        alike = [
            (one, two)
            for one in keras
            for two in lightning
            if one.record.recipe == two.record.recipe
        ]
        found += alike[:1]
    return found


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.2f} %"


def number(value: float | None) -> str:
    """Return a metric."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.4f}"


def signed(value: float | None) -> str:
    """Return a difference, with its sign."""
    return NONE if value is None or not math.isfinite(value) else minus(f"{value:+.4f}")


def minus(text: str) -> str:
    """Return a number's text with a minus sign for the hyphen."""
    return text.replace("-", "−")


def json_number(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return round(value, 5) if math.isfinite(value) else None


def gib(num_bytes: float | None) -> str:
    """Return a size of memory."""
    return NONE if num_bytes is None else f"{num_bytes / 2**30:.2f} GiB"


def spread(found: Spread | None) -> str:
    """Return a median with its quartiles."""
    if found is None:
        return NONE
    return minus(f"{found.median:.2f} ({found.lower:.2f} to {found.upper:.2f})")


def shape(sizes: Sequence[int]) -> str:
    """Return a shape."""
    return " × ".join(str(size) for size in sizes)


def versions(packages: Any) -> str:
    """Return the versions of what a file calls its packages."""
    if not isinstance(packages, dict):
        return NONE
    return ", ".join(f"{name} {version}" for name, version in packages.items() if version)


def plain_items(fields: Fields) -> list[tuple[str, str]]:
    """Return what a file says of a machine or of conditions, as names and texts."""
    items = []
    for name, value in fields.items():
        if name == "memory_bytes" and isinstance(value, int | float):
            items.append(("memory", gib(value)))
        elif isinstance(value, dict):
            items.append((name, ", ".join(f"{key} {item}" for key, item in value.items())))
        elif isinstance(value, list):
            items.append((name, ", ".join(str(item) for item in value)))
        elif value is not None and value != "":
            items.append((name.replace("_", " "), str(value)))
    return items
