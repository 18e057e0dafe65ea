"""Measuring what float32 allows: how far an engine parts from itself by one ulp."""

import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ladder.arrays import Array
from ladder.compare import gap, largest
from ladder.exchange import Question, Trace
from ladder.files import write_json
from parity_tests.climbs import Climber, Route, new_climber
from parity_tests.engine_room import EngineRoom
from parity_tests.terms import MEASURED, pooled
from pipeline.datasets import find_dataset, load_dataset
from pipeline.engines import ENGINES
from pipeline.origin import origin_of
from pipeline.recipe import VARIANTS

SMALLEST = float(np.finfo(np.float32).tiny)

WAYS = ("up", "down", "either")
PREFIXES = {
    "layers": ("point.", "forced."),
    "logits": ("logits.", "loss."),
    "gradients": ("gradient.",),
    "optimizer": ("step.",),
    "dropout": ("drop.", "drop_eval."),
    "training": ("trained.", "trained_logits"),
}


def moved_by_one_ulp(question: Question, way: str) -> Question:
    """Return the question with each number but zero of its weights and inputs moved by one ulp.

    `way` is `up`, `down` or `either`. A bias that is the least number above zero would let a flat
    background be above zero too, where LeakyReLU has another slope: no rounding, but another
    computation.
    """
    random = np.random.default_rng(0)

    def moved(array: Array) -> Array:
        infinity = np.asarray(np.inf, array.dtype)
        ways = {"up": infinity, "down": -infinity}
        towards = ways.get(way, np.where(random.random(array.shape) < 0.5, infinity, -infinity))
        return np.where(array == 0, array, np.nextafter(array, towards)).astype(array.dtype)

    arrays = {
        name: moved(array) if np.issubdtype(array.dtype, np.floating) else array
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
    """Return the largest gap of each engine with itself by rung and key, and where it comes from.

    A gap is a share of the largest |value| of its array.
    """
    gaps: dict[str, dict[str, dict[str, float]]] = {name: defaultdict(dict) for name in engines}
    for route in routes:
        for material in (climber.real, climber.tie_free):
            question = climber.question(route, material)
            for engine in engines:
                say(f"{engine} · {route.title} · {material.data_dir.name}")
                one = climber.room.ask(engine, question)
                for way in WAYS:
                    other = climber.room.ask(engine, moved_by_one_ulp(question, way))
                    for rung, key, share in _shares(one, other):
                        found = gaps[engine][rung]
                        found[key] = max(found.get(key, 0.0), float(f"{share:.3g}"))
    origin = origin_of(command, routes=[route.title for route in routes])
    return {"origin": origin, "gaps": gaps}


def _shares(one: Trace, other: Trace) -> list[tuple[str, str, float]]:
    found = []
    for key, array in one.arrays.items():
        rung = next((r for r, starts in PREFIXES.items() if key.startswith(starts)), None)
        if rung is not None:
            found.append((rung, pooled(key), _share(array, other.arrays[key])))
    histories = [side.facts["history"] for side in (one, other)]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        left, right = (np.array([row[name] for row in history]) for history in histories)
        found.append(("evaluation", f"history.{name}", _share(left, right)))
    return found


def _share(left: Array, right: Array) -> float:
    return gap(left, right) / max(largest(left), SMALLEST)


def main() -> None:
    """Measure every engine that is installed, both variants, and write `float32-gaps.json`."""
    dataset = load_dataset(find_dataset(None))
    engines = [name for name, engine in ENGINES.items() if engine.why_not() is None]
    routes = [Route(variant, "32") for variant in VARIANTS]
    with tempfile.TemporaryDirectory() as folder, EngineRoom() as room:
        climber = new_climber(room, dataset, Path(folder))
        command = "python -m parity_tests.gaps"
        write_json(MEASURED, measure_gaps(climber, engines, routes, print, command))


if __name__ == "__main__":
    main()
