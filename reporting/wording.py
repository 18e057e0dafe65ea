"""Names, colours and numbers as the page shows them."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from reporting.evidence import SomeRun
from reporting.repeated import Spread

Fields = dict[str, Any]

COLOURS = {"keras-tensorflow": 0, "lightning": 1, "keras-jax": 2, "keras-torch": 3}
OTHER_COLOUR = 4
NONE = "–"


def colour_of(engine: str) -> int:
    """Return an engine's colour."""
    return COLOURS.get(engine, OTHER_COLOUR)


def pairs(runs: Sequence[SomeRun]) -> list[tuple[SomeRun, SomeRun]]:
    """Return, for each variant, the first Keras run and Lightning run with the same recipe."""
    found: dict[str, tuple[SomeRun, SomeRun]] = {}
    for one, two in product(runs, runs):
        alike = one.variant == two.variant and one.record.recipe == two.record.recipe
        if alike and one.engine.startswith("keras") and two.engine == "lightning":
            found.setdefault(one.variant, (one, two))
    return list(found.values())


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return number(None if value is None else 100 * value, "{:.2f} %")


def number(value: float | None, form: str = "{:.4f}") -> str:
    """Return a metric; a dash where there is none, or it is not finite."""
    return NONE if value is None or not math.isfinite(value) else form.format(value)


def signed(value: float | None) -> str:
    """Return a difference, with its sign."""
    return minus(number(value, "{:+.4f}"))


def minus(text: str) -> str:
    """Return a number's text with a minus sign for the hyphen."""
    return text.replace("-", "−")


def gib(num_bytes: float | None) -> str:
    """Return a size of memory."""
    return NONE if num_bytes is None else f"{num_bytes / 2**30:.2f} GiB"


def spread(found: Spread | None) -> str:
    """Return a median with its quartiles."""
    if found is None:
        return NONE
    return minus(f"{found.median:.2f} ({found.lower:.2f} to {found.upper:.2f})")


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
