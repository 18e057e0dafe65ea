"""Climbs of the ladder by this pipeline's engines."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ladder.engines import EngineError
from ladder.exchange import Question, Trace
from ladder.rungs import NETWORK, Verdict, climb, explain, with_cause
from parity_tests.catalogue import LIGHTNING
from parity_tests.engine_room import EngineRoom
from parity_tests.pair_checks import why
from parity_tests.questions import (
    CAPTURED_NUM_TRAIN,
    Material,
    ladder_question,
    ladder_recipe,
    on_device,
    only,
    points_question,
    real_material,
    tie_free_material,
)
from parity_tests.terms import terms_of
from pipeline.datasets import Dataset
from portproof import CheckError

REFERENCE = "lightning"
KINKS = "ties in pools, or activations of exactly zero"
"""Where a function has no gradient, and engines choose one each."""
Kept = TypeVar("Kept", Question, Trace)
KEPT_BYTES = 512 * 1024**2
"""Arrays that a climber keeps; a question and a pair's answers, float64, all rungs, are 270 MB."""


@dataclass(frozen=True)
class Route:
    """What two engines are compared on."""

    variant: str = "base"
    precision: str = "64"
    plain: bool = False
    """Take each framework's ordinary path, not the fast one."""
    captured: bool = False
    """Let Lightning train as on a GPU, where steps come from a CUDA graph; here all but that."""
    seed: int = 0
    rungs: tuple[str, ...] = ()
    """Names of the rungs that are climbed; empty for all."""

    @property
    def dtype(self) -> str:
        """`float64` or `float32`."""
        return f"float{self.precision}"

    @property
    def title(self) -> str:
        """Return the route in words."""
        seed = f" · seed {self.seed}" if self.seed else ""
        path = "plain" if self.plain else "captured" if self.captured else "fast"
        return f"{self.variant} · {path} path{seed}"


@dataclass
class Climber:
    """Climbs with engines that are kept running; what was asked lately is not asked again."""

    room: EngineRoom
    real: Material
    tie_free: Material
    many: Material
    """As many images as the captured path's calls take."""
    device: str = "cpu"
    """What the engines compute on, `cpu` or `gpu`."""
    _kept: dict[Hashable, Any] = field(default_factory=dict)
    """Questions and answers; the one that was wanted last comes last."""
    _making: dict[Hashable, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def climb(self, left: str, right: str, route: Route, mutant: str = "") -> Verdict:
        """Compare `right`, with a mutant planted if one is named, with the reference `left`.

        Where they part first in gradients, the same climb on images without kinks must pass, and
        explains it then. Of what fails in the network, its loss or its optimizer, and has no cause
        here, portproof is asked for one.

        Raises:
            EngineError: an engine died, left no trace or took too long.
        """
        material = self.many if route.captured else self.real
        verdict = self._climb(left, right, route, material, mutant)
        first = verdict.first_failure
        if first and first.name == "gradients" and not first.diagnoses and not route.captured:
            without = self._climb(left, right, route, self.tie_free, mutant)
            verdict = explain(verdict, without, KINKS)
            first = verdict.first_failure
        if first and first.name in NETWORK and not first.diagnoses and LIGHTNING in (left, right):
            try:
                found = why(right if mutant or right != LIGHTNING else left, mutant, route.variant)
                verdict = with_cause(verdict, first.name, found)
            except CheckError as error:
                verdict = with_cause(verdict, first.name, None, f"portproof: {error}")
        return verdict

    def question(self, route: Route, material: Material) -> Question:
        """Return the ladder's question; its layers' inputs are the reference engine's."""

        def make() -> Question:
            recipe = ladder_recipe(route.variant, route.precision, route.seed)
            asked = points_question(recipe, material, route.plain)
            points = self.room.ask(REFERENCE, on_device(asked, self.device))
            question = ladder_question(recipe, material, route.plain, points.arrays, route.captured)
            return on_device(question, self.device)

        return self._kept_or_made((route, str(material.data_dir)), make)

    def answer(self, engine: str, question: Question, mutant: str = "") -> Trace:
        """Return an engine's answer; only those without a mutant are kept."""
        if mutant:
            return self.room.ask(engine, question, mutant)
        key = (engine, question.identity)
        return self._kept_or_made(key, lambda: self.room.ask(engine, question))

    def _kept_or_made(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """Return the cached answer, made if missing; evict the oldest beyond the memory limit."""
        with self._lock:
            lock = self._making.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                found = self._kept.pop(key, None)
            if found is None:
                found = make()
            with self._lock:
                self._kept[key] = found
                sizes = {key: num_bytes(kept) for key, kept in self._kept.items()}
                for oldest in list(self._kept)[:-1]:
                    if sum(sizes.values()) <= KEPT_BYTES:
                        break
                    del self._kept[oldest], sizes[oldest]
            return found

    def _climb(
        self, left: str, right: str, route: Route, material: Material, mutant: str
    ) -> Verdict:
        question = self.question(replace(route, rungs=()), material)
        if route.rungs:
            question = only(question, route.rungs)
        answers = self.room.at_once(
            lambda: self.answer(left, question), lambda: self.answer(right, question, mutant)
        )
        title = f"{route.title} · {mutant}" if mutant else route.title
        return climb(question, *answers, terms_of(route.dtype, (left, right)), title)


def num_bytes(kept: Question | Trace) -> int:
    """Return the size of the arrays in bytes."""
    return sum(array.nbytes for array in kept.arrays.values())


@dataclass(frozen=True)
class Attempt:
    """One climb that is wanted."""

    left: str
    right: str
    route: Route
    mutant: str = ""

    @property
    def name(self) -> str:
        """Return a title that is unique among attempts: engines, dtype, route, mutant."""
        route = self.route
        rungs = f" · {', '.join(route.rungs)}" if route.rungs else ""
        mutant = f" · {self.mutant}" if self.mutant else ""
        return f"{self.left} → {self.right} · {route.dtype} · {route.title}{rungs}{mutant}"


def climb_all(climber: Climber, attempts: Iterable[Attempt]) -> Iterator[Verdict | EngineError]:
    """Yield what comes of each attempt in turn; two engines answer at a time.

    An engine that died, left no trace or took too long costs the attempts that it has a part in.
    """

    def carry_out(attempt: Attempt) -> Verdict | EngineError:
        try:
            return climber.climb(attempt.left, attempt.right, attempt.route, attempt.mutant)
        except EngineError as error:
            return error

    with climber.room.askers() as pool:
        yield from pool.map(carry_out, attempts)


def new_climber(room: EngineRoom, dataset: Dataset, folder: Path, device: str = "cpu") -> Climber:
    """Return a climber on the first images of a data set; its material is written to `folder`."""
    real = real_material(dataset, folder / "real")
    many = real_material(dataset, folder / "many", CAPTURED_NUM_TRAIN)
    return Climber(room, real, tie_free_material(folder / "tie-free"), many, device)
