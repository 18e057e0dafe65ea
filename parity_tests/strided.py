"""The second pair on the ladder: layers and an optimizer that the tutorial's network has not.

Strided convolutions, BatchNorm, average pooling, AdamW with a schedule and global-norm clipping.
Nothing here is Fashion-MNIST's or its network's: the ladder is asked about a pair as a user's is.
"""

from dataclasses import dataclass, field

import numpy as np

from ladder.checks import Terms
from ladder.exchange import Array, Question, Trace
from ladder.pair import PAIR_FLOAT64, pair_question, points_question
from ladder.rungs import Verdict, climb
from parity_tests.engine_room import EngineRoom
from parity_tests.terms import WAIVERS

POINTS = ("conv1", "norm1", "act1", "conv2", "norm2", "act2", "pool", "flatten", "logits")
SHAPES = {
    "conv1.kernel": (3, 3, 3, 16),
    "conv2.kernel": (3, 3, 16, 24),
    "logits.kernel": (96, 10),
    "logits.bias": (10,),
}
NORMS = {"norm1": 16, "norm2": 24}
BATCH_SIZE, LAST_BATCH_SIZE = 16, 6
NUM_STEPS, STEPS_PER_EPOCH = 10, 5

OWN_STEP = {
    "optimizer.learning_rate_in_velocity": "Lightning's SGD here has a step of its own, which "
    "its class does not show: rung 8 compares what it computes"
}
"""What the variant `momentum-sgd` waives besides."""


def terms_of(variant: str) -> Terms:
    """Return what may differ in a variant of the pair."""
    waivers = {**WAIVERS, **(OWN_STEP if variant == "momentum-sgd" else {})}
    return Terms("float64", lambda rung, key: PAIR_FLOAT64, waivers)


@dataclass
class StridedClimber:
    """Climbs with the second pair; `room` is one of its programs."""

    room: EngineRoom
    _questions: dict[str, Question] = field(default_factory=dict)
    _answers: dict[tuple[str, str], Trace] = field(default_factory=dict)

    def climb(self, left: str, right: str, variant: str = "", mutant: str = "") -> Verdict:
        """Compare `right`, with a mutant planted if one is named, with the reference `left`.

        Raises:
            EngineError: an engine died, left no trace or took too long.
        """
        question = self._question(variant)
        reference, suspect = self.room.at_once(
            lambda: self._answer(left, question, ""), lambda: self._answer(right, question, mutant)
        )
        title = " · ".join(word for word in ("strided", variant, mutant) if word)
        return climb(question, reference, suspect, terms_of(variant), title)

    def _answer(self, engine: str, question: Question, mutant: str) -> Trace:
        if mutant:
            return self.room.ask(engine, question, mutant)
        key = (engine, question.identity)
        if key not in self._answers:
            self._answers[key] = self.room.ask(engine, question)
        return self._answers[key]

    def _question(self, variant: str) -> Question:
        if variant not in self._questions:
            weights, batches = pair_weights(), pair_batches()
            seen = self.room.ask(
                "lightning", points_question(weights, batches, POINTS, variant=variant)
            )
            self._questions[variant] = pair_question(
                weights, batches, POINTS, seen, steps_per_epoch=STEPS_PER_EPOCH, variant=variant
            )
        return self._questions[variant]


def pair_batches() -> list[tuple[Array, Array]]:
    """Return ten batches of noise; each epoch's last is smaller."""
    random = np.random.default_rng(0)
    sizes = [
        BATCH_SIZE if (step + 1) % STEPS_PER_EPOCH else LAST_BATCH_SIZE for step in range(NUM_STEPS)
    ]
    return [
        (random.uniform(size=(size, 16, 16, 3)), random.integers(10, size=size)) for size in sizes
    ]


def pair_weights() -> dict[str, Array]:
    """Return weights and moving statistics of which none is at its first value."""
    random = np.random.default_rng(2)
    weights = {name: random.normal(0, 0.2, shape) for name, shape in SHAPES.items()}
    for norm, channels in NORMS.items():
        weights[f"{norm}.gamma"] = random.uniform(0.5, 1.5, channels)
        weights[f"{norm}.beta"] = random.normal(0, 0.2, channels)
        weights[f"{norm}.moving_mean"] = random.normal(0, 0.1, channels)
        weights[f"{norm}.moving_variance"] = random.uniform(0.5, 1.5, channels)
    return weights
