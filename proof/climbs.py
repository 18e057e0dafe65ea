"""Climbs of the ladder by this pipeline's engines."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.datasets import Dataset
from portproof.engines import EngineError
from portproof.exchange import Question, Trace
from portproof.ladder import Verdict, climb, explain
from proof.engine_room import EngineRoom
from proof.questions import (
    Material,
    ladder_question,
    ladder_recipe,
    only,
    points_question,
    real_material,
    tie_free_material,
)
from proof.terms import terms_of

REFERENCE = "lightning"
TIES = "max-pool-ties"
AT_ZERO = "gradient-at-zero"
KEPT_BYTES = 512 * 1024**2
"""Arrays of answers that a climber keeps; those of a pair of float64 on all rungs are 290 MB."""


@dataclass(frozen=True)
class Route:
    """What two engines are compared on."""

    variant: str = "base"
    precision: str = "64"
    plain: bool = False
    """Take each framework's ordinary path, not the fast one."""
    seed: int = 0
    rungs: tuple[str, ...] = ()
    """Names of the rungs that are climbed; empty for all."""

    @property
    def lane(self) -> str:
        """`float64` or `float32`."""
        return f"float{self.precision}"

    @property
    def title(self) -> str:
        """Return the route in words."""
        seed = f" · seed {self.seed}" if self.seed else ""
        return f"{self.variant} · {'plain' if self.plain else 'fast'} path{seed}"


@dataclass
class Climber:
    """Climbs with engines that are kept running; what was answered lately is not asked again."""

    room: EngineRoom
    real: Material
    tie_free: Material
    _questions: dict[tuple[Route, str], Question] = field(default_factory=dict)
    _answers: dict[tuple[str, str], Trace] = field(default_factory=dict)
    """The one that was wanted last comes last."""
    _answering: dict[tuple[str, str], threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def climb(self, left: str, right: str, route: Route, fault: str = "") -> Verdict:
        """Compare `right`, with a fault planted if one is named, with the reference `left`.

        Where max pools with ties part them, or activations of exactly zero, the same climb on
        images that have neither must pass.

        Raises:
            EngineError: an engine died, left no trace or took too long.
        """
        verdict = self._climb(left, right, route, self.real, fault)
        causes = {found.cause for rung in verdict.rungs for found in rung.diagnoses}
        for cause in (AT_ZERO, TIES):
            if cause in causes:
                without = self._climb(left, right, route, self.tie_free, fault)
                verdict = explain(verdict, without, cause)
        return verdict

    def question(self, route: Route, material: Material) -> Question:
        """Return the ladder's question; its layers' inputs are the reference engine's."""
        key = (route, str(material.data_dir))
        with self._lock:
            if key not in self._questions:
                recipe = ladder_recipe(route.variant, route.precision, route.seed)
                points = self.room.ask(REFERENCE, points_question(recipe, material, route.plain))
                question = ladder_question(recipe, material, route.plain, points.arrays)
                self._questions[key] = question
            return self._questions[key]

    def answer(self, engine: str, question: Question, fault: str = "") -> Trace:
        """Return an engine's answer; only those without a fault are kept."""
        if fault:
            return self.room.ask(engine, question, fault)
        key = (engine, question.identity)
        with self._lock:
            lock = self._answering.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                found = self._answers.pop(key, None)
            found = found or self.room.ask(engine, question)
            self._keep(key, found)
            return found

    def _keep(self, key: tuple[str, str], answer: Trace) -> None:
        """Keep an answer, and of the others as many as there is room for."""
        with self._lock:
            self._answers[key] = answer
            sizes = {key: num_bytes(kept) for key, kept in self._answers.items()}
            for oldest in list(self._answers)[:-1]:
                if sum(sizes.values()) <= KEPT_BYTES:
                    break
                del self._answers[oldest], sizes[oldest]

    def _climb(
        self, left: str, right: str, route: Route, material: Material, fault: str
    ) -> Verdict:
        question = self.question(replace(route, rungs=()), material)
        if route.rungs:
            question = only(question, route.rungs)
        answers = self.room.at_once(
            lambda: self.answer(left, question), lambda: self.answer(right, question, fault)
        )
        title = f"{route.title} · {fault}" if fault else route.title
        return climb(question, *answers, terms_of(route.lane, (left, right)), title)


def num_bytes(answer: Trace) -> int:
    """Return what an answer's arrays take."""
    return sum(array.nbytes for array in answer.arrays.values())


@dataclass(frozen=True)
class Attempt:
    """One climb that is wanted."""

    left: str
    right: str
    route: Route
    fault: str = ""

    @property
    def name(self) -> str:
        """Return what the attempt is told apart by."""
        route = self.route
        rungs = f" · {', '.join(route.rungs)}" if route.rungs else ""
        fault = f" · {self.fault}" if self.fault else ""
        return f"{self.left} → {self.right} · {route.lane} · {route.title}{rungs}{fault}"


def climb_all(climber: Climber, attempts: Iterable[Attempt]) -> Iterator[Verdict | EngineError]:
    """Yield what comes of each attempt in turn; two engines answer at a time.

    An engine that died, left no trace or took too long costs the attempts that it has a part in.
    """

    def carry_out(attempt: Attempt) -> Verdict | EngineError:
        try:
            return climber.climb(attempt.left, attempt.right, attempt.route, attempt.fault)
        except EngineError as error:
            return error

    with climber.room.askers() as pool:
        yield from pool.map(carry_out, attempts)


def new_climber(room: EngineRoom, dataset: Dataset, folder: Path) -> Climber:
    """Return a climber on the first images of a data set; its material is written to `folder`."""
    real = real_material(dataset, folder / "real")
    return Climber(room, real, tie_free_material(folder / "tie-free"))
