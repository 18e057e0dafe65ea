"""Measuring what float32 allows: how far an engine parts from itself by one ulp."""

import dataclasses
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.environment import cpu_name
from portproof.compare import gap, largest
from portproof.exchange import Array, Question, Trace
from proof.climbs import Climber, Route

SMALLEST = float(np.finfo(np.float32).tiny)

PREFIXES = {
    "layers": ("point.", "forced."),
    "logits": ("logits.", "loss."),
    "gradients": ("gradient.",),
    "optimizer": ("step.",),
    "dropout": ("drop.", "drop_eval."),
    "training": ("trained.", "trained_logits"),
}


def moved_by_one_ulp(question: Question) -> Question:
    """Return the question with each number but zero of its weights and inputs moved by one ulp.

    A zero that became the least number above it would change the slope of a LeakyReLU.
    """
    arrays = {
        name: np.where(array == 0, array, np.nextafter(array, np.asarray(np.inf, array.dtype)))
        if np.issubdtype(array.dtype, np.floating)
        else array
        for name, array in question.arrays.items()
    }
    return dataclasses.replace(question, arrays=arrays)


def measure_gaps(
    climber: Climber,
    engines: Sequence[str],
    routes: Sequence[Route],
    say: Callable[[str], None],
    command: str,
) -> dict[str, Any]:
    """Return the largest gap of engines with themselves by rung and key, and its origin.

    A gap is a share of the largest |value| of its array.
    """
    gaps: dict[str, dict[str, float]] = defaultdict(dict)
    for route in routes:
        question = climber.question(route, climber.real)
        moved = moved_by_one_ulp(question)
        for engine in engines:
            say(f"{engine} · {route.title} against itself, moved by one ulp")
            one, other = climber.room.ask(engine, question), climber.room.ask(engine, moved)
            for rung, key, share in _shares(one, other):
                gaps[rung][key] = max(gaps[rung].get(key, 0.0), share)
    origin = {
        "command": command,
        "engines": list(engines),
        "routes": [route.title for route in routes],
        "machine": {"cpu": cpu_name(), "python": platform.python_version()},
    }
    return {"origin": origin, "gaps": {rung: dict(sorted(g.items())) for rung, g in gaps.items()}}


def _shares(one: Trace, other: Trace) -> list[tuple[str, str, float]]:
    found = []
    for key, array in one.arrays.items():
        rung = next((r for r, starts in PREFIXES.items() if key.startswith(starts)), None)
        if rung is not None:
            found.append((rung, key, _share(array, other.arrays[key])))
    histories = [side.facts["history"] for side in (one, other)]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        left, right = (np.array([row[name] for row in history]) for history in histories)
        found.append(("evaluation", f"history.{name}", _share(left, right)))
    return found


def _share(left: Array, right: Array) -> float:
    return gap(left, right) / max(largest(left), SMALLEST)
