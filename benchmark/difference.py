"""How a benchmark differs from an older one: what it ran on, and what came out."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ladder.reading import read_json
from pipeline.errors import UsageError

MAX_BYTES = 16 * 1024 * 1024


def read_older(path: Path) -> dict[str, Any]:
    """Return an older `benchmark.json`.

    Raises:
        UsageError: it cannot be read, or compared with.
    """
    try:
        found = read_json(path, MAX_BYTES)
        list(differences(found, found))  # so that nothing is wrong with it after the measuring
        return dict(found)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"cannot compare with {path}: {error}") from error


def differences(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was different about the run, then how each ratio that both hold came out.

    Ratios, not seconds: each is of contenders that ran side by side, on one machine at one time.
    """
    for part in ("conditions", "environment"):
        yield from _changed(older[part], newer[part])
    before = {row["arm"]: row for row in older["arms"]}
    for row in newer["arms"]:
        ratios = before.get(row["arm"], {}).get("faster_than", {})
        for name, now in row["faster_than"].items():
            if (then := ratios.get(name)) is not None:
                yield f"{row['arm']} against {name}: {_moved(then, now)}"


def _changed(older: Mapping[str, Any], newer: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in {**older, **newer}:
        then, now = older.get(key), newer.get(key)
        if isinstance(then, dict) and isinstance(now, dict):
            yield from _changed(then, now, f"{prefix}{key}.")
        elif then != now:
            yield f"{prefix}{key}: {then} then, {now} now"


def _moved(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    words = f"{then['median']:.2f}× then, {now['median']:.2f}× now"
    if then["low"] is None or now["low"] is None:
        return words
    if then["low"] <= now["high"] and now["low"] <= then["high"]:
        return f"{words}; the intervals overlap"
    return f"{words}; the intervals do not overlap"
