"""Reading evidence: whatever the traces hold of it."""

from collections.abc import Mapping, Sequence

from ladder.arrays import Array, Arrays
from ladder.causes.registry import Evidence


def under(prefix: str, arrays: Arrays) -> dict[str, Array]:
    """Return the arrays whose names begin with `prefix` and a dot, without it."""
    return {
        name.removeprefix(f"{prefix}."): array
        for name, array in arrays.items()
        if name.startswith(f"{prefix}.")
    }


def batch_size(evidence: Evidence) -> int | None:
    """Return the size of a full batch, as far as it is known."""
    settings = evidence.question.settings
    recipe = settings.get("recipe")
    for place in (settings, recipe if isinstance(recipe, Mapping) else {}):
        if isinstance(place.get("batch_size"), int):
            return int(place["batch_size"])
    rows = evidence.left.facts.get("batches") or []
    sizes = [row["size"] for row in rows if row["stage"] == "train"]
    return max(sizes) if sizes else None


def join(names: Sequence[str], most: int = 4) -> str:
    """Return names as one text, the rest counted."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
