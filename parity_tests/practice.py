"""What usual practice would have seen: the checks that people make of a port, really run.

In float32, on real images: parameter counts, shapes, logits after the weights were carried over,
gradients in evaluation mode, and the test accuracy after an epoch.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ladder.arrays import Array
from ladder.compare import gap
from ladder.engines import EngineError
from ladder.exchange import Question, Trace
from ladder.files import write_json
from parity_tests.catalogue import LIGHTNING, TENSORFLOW, Mutant
from parity_tests.engine_room import PROGRAMS, EngineRoom
from parity_tests.questions import carried_weights
from pipeline.datasets import Dataset
from pipeline.origin import versions_in_use
from pipeline.recipe import Recipe, preset, recipe_to_dict
from pipeline.session import read_kept
from reporting.comparison import EXPECTED_TEST_ACCURACY

NUM_IMAGES = 64
"""Images that logits and gradients are compared on: one batch."""
CASE = "practice"

Say = Callable[[str], None]
Checks = dict[str, bool | None]
"""By check: True passes, so that a mutant goes unseen; None could not be made."""


def practice_recipe(variant: str) -> Recipe:
    """Return the tutorial's recipe for one epoch in float32."""
    return preset(variant, precision="32", num_epochs=1)


def network_question(recipe: Recipe, images: Array, classes: Array) -> Question:
    """Ask for the layer table, parameters, and logits and gradients of one batch.

    `images` are uint8 (B, H, W, 1), `classes` int64 (B,).
    """
    settings: dict[str, Any] = {
        "recipe": recipe_to_dict(recipe),
        "seeds": [0],
        "cases": [CASE],
        "gradient_cases": [CASE],
        "gradient_mode": "evaluation",
    }
    arrays = {f"weights.{name}": array for name, array in carried_weights(recipe).items()}
    arrays |= {f"images.{CASE}": images, f"labels.{CASE}": classes}
    return Question(("layers", "own_weights", "cases", "gradients"), settings, arrays)


def training_question(recipe: Recipe, data_dir: Path) -> Question:
    """Ask for production training on the data set in `data_dir`."""
    settings = {"recipe": recipe_to_dict(recipe), "data_dir": str(data_dir)}
    return Question(("training",), settings)


def judge(reference: Trace, mutated: Trace) -> Checks:
    """Make the checks of a built network on the answers to a `network_question`."""
    return {name: check(reference, mutated) for name, check in NETWORK_CHECKS.items()}


def has_expected_accuracy(mutated: Trace, classes: Array, variant: str) -> bool | None:
    """Say whether the test accuracy after one epoch is what the tutorial's network reaches."""
    logits = mutated.arrays.get("trained_logits")
    if logits is None or logits.shape[:1] != classes.shape or logits.ndim != 2:
        return None
    if not np.isfinite(logits).all():
        return False
    low, high = EXPECTED_TEST_ACCURACY[variant, 1]
    return bool(low <= (logits.argmax(axis=1) == classes).mean() <= high)


def _same_counts(reference: Trace, mutated: Trace) -> bool | None:
    counts = [side.facts.get("parameters") for side in (reference, mutated)]
    return None if None in counts else counts[0] == counts[1]


def _same_shapes(reference: Trace, mutated: Trace) -> bool | None:
    """Compare layers' output shapes, by name, and parameters' shapes."""
    if not all(side.facts.get("layers") and _own(side) for side in (reference, mutated)):
        return None
    layers, parameters = (
        [
            {row["name"]: row["output_shape"] for row in side.facts["layers"]}
            for side in (reference, mutated)
        ],
        [
            {name: array.shape for name, array in _own(side).items()}
            for side in (reference, mutated)
        ],
    )
    return bool(layers[0] == layers[1] and parameters[0] == parameters[1])


def _own(side: Trace) -> dict[str, Array]:
    return {name: side.arrays[name] for name in side.arrays if name.startswith("own.")}


def _logits_within(limit: float) -> Callable[[Trace, Trace], bool | None]:
    return lambda reference, mutated: _within(reference, mutated, [f"logits.{CASE}"], limit)


def _gradients_within(limit: float) -> Callable[[Trace, Trace], bool | None]:
    def check(reference: Trace, mutated: Trace) -> bool | None:
        start, others = f"gradient.{CASE}.", {f"gradient.{CASE}.{key}" for key in ("input", "loss")}
        names = [name for name in reference.arrays if name.startswith(start)]
        return _within(reference, mutated, [name for name in names if name not in others], limit)

    return check


def _within(reference: Trace, mutated: Trace, names: list[str], limit: float) -> bool | None:
    """Say whether every array is there, finite and near; None where any is not to be had."""
    pairs = [(reference.arrays.get(name), mutated.arrays.get(name)) for name in names]
    if not pairs or any(one is None or other is None for one, other in pairs):
        return None
    return all(
        one.shape == other.shape and one.size > 0 and gap(one, other) <= limit
        for one, other in pairs
        if one is not None and other is not None
    )


NETWORK_CHECKS: dict[str, Callable[[Trace, Trace], bool | None]] = {
    "parameters": _same_counts,
    "shapes": _same_shapes,
    "logits 1e-3": _logits_within(1e-3),
    "logits 1e-5": _logits_within(1e-5),
    "gradients 1e-5": _gradients_within(1e-5),
}
ACCURACY = "accuracy"
CHECKS = (*NETWORK_CHECKS, ACCURACY)
"""All checks, in the order of a table's columns."""


@dataclass
class Practice:
    """Makes the checks of mutants with engines that are kept running."""

    room: EngineRoom
    dataset: Dataset
    _references: dict[tuple[str, str], Trace] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def checks(self, mutant: Mutant) -> Checks:
        """Make the checks of one mutant; what an engine cannot answer is None.

        An epoch is trained only where no check of the built network has seen anything; elsewhere
        the accuracy is left out.
        """
        recipe = practice_recipe(mutant.variant)
        network = self._answer(mutant.engine, self._network(recipe), mutant.name)
        found: Checks = dict.fromkeys(NETWORK_CHECKS)
        if network is not None:
            found |= judge(self._reference(mutant), network)
        if False in found.values():
            return found
        question = training_question(recipe, self.dataset.folder)
        training = self._answer(mutant.engine, question, mutant.name)
        classes = self.dataset.test_labels.astype(np.int64)
        found[ACCURACY] = (
            None if training is None else has_expected_accuracy(training, classes, mutant.variant)
        )
        return found

    def _reference(self, mutant: Mutant) -> Trace:
        """Return the other implementation's answer without a mutant."""
        engine = TENSORFLOW if mutant.engine == LIGHTNING else LIGHTNING
        key = (engine, mutant.variant)
        with self._lock:
            if key not in self._references:
                question = self._network(practice_recipe(mutant.variant))
                self._references[key] = self.room.ask(engine, question)
            return self._references[key]

    def _network(self, recipe: Recipe) -> Question:
        images = np.ascontiguousarray(self.dataset.test_images[:NUM_IMAGES, ..., np.newaxis])
        classes = self.dataset.test_labels[:NUM_IMAGES].astype(np.int64)
        return network_question(recipe, images, classes)

    def _answer(self, engine: str, question: Question, mutant: str) -> Trace | None:
        try:
            return self.room.ask(engine, question, mutant)
        except EngineError:
            return None


def checks_of(practice: Practice, mutants: Sequence[Mutant], path: Path, say: Say) -> None:
    """Make every check of each mutant and keep them in `path`, going on with what is there.

    What an older program of the mutants or another set-up left is made anew.
    """
    origin = {"programs": _programs(), "packages": versions_in_use()}
    kept = read_kept(path) if path.exists() else {}
    rows = kept["checks"] if kept.get("origin") == origin else {}
    missing = [mutant for mutant in mutants if place_of(mutant) not in rows]
    say(f"usual practice: {len(rows)} mutants kept, {len(missing)} to check")
    with practice.room.askers() as pool:
        for mutant, checks in zip(missing, pool.map(practice.checks, missing), strict=True):
            rows[place_of(mutant)] = checks
            write_json(path, {"origin": origin, "checks": rows})
            seen = [name for name, passes in checks.items() if not passes]
            say(f"{place_of(mutant)}: {', '.join(seen) or 'passes all'}")


def place_of(mutant: Mutant) -> str:
    """Return a mutant's folder."""
    return f"{mutant.engine}/{mutant.name}"


def _programs() -> str:
    """Return a digest of the programs that plant the mutants."""
    digest = hashlib.sha256()
    for program in sorted(PROGRAMS.glob("*.py")):
        digest.update(program.read_bytes())
    return digest.hexdigest()
