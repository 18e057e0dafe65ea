"""Planting the catalogue's mutants, and what the ladder made of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ladder.engines import EngineError
from ladder.rungs import EXPLAINED, FAILED, RungResult, Verdict
from parity_tests.catalogue import LIGHTNING, RUNG_NAMES, TENSORFLOW, UNKNOWN, Mutant
from parity_tests.climbs import Climber, Route


@dataclass(frozen=True)
class Outcome:
    """One mutant and the verdict on it."""

    mutant: Mutant
    verdict: Verdict | None
    """None where the engine gave no answer."""
    error: str = ""

    @property
    def caught_on(self) -> RungResult | None:
        """The first rung that did not pass, explained or not."""
        rungs = self.verdict.rungs if self.verdict else ()
        return next((rung for rung in rungs if rung.status in (FAILED, EXPLAINED)), None)

    @property
    def cause(self) -> str:
        """The cause that the first rung not passed names first; empty where it names none."""
        rung = self.caught_on
        return rung.diagnoses[0].cause if rung and rung.diagnoses else ""

    @property
    def where(self) -> str:
        """The path of that rung's first finding."""
        rung = self.caught_on
        return rung.report.findings[0].where if rung else ""

    def mistakes(self) -> Iterator[str]:
        """Yield what is not as the catalogue says; nothing where all is."""
        mutant, rung = self.mutant, self.caught_on
        if self.verdict is None:
            yield f"no verdict: {self.error}"
            return
        if mutant.is_harmless:
            if rung:
                yield f"false alarm at rung {rung.name}: {self.where}"
            return
        if rung is None:
            yield "not caught"
            return
        status = EXPLAINED if mutant.is_explained else FAILED
        wanted = {
            "rung": (mutant.rung, rung.name),
            "status": (status, rung.status),
        }
        for name, (expected, found) in wanted.items():
            if expected != found:
                yield f"{name} is {found or 'none'}, expected {expected or 'none'}"
        wanted_cause = "" if mutant.cause == UNKNOWN else mutant.cause
        if wanted_cause not in self.cause or (not wanted_cause and self.cause):
            yield f"cause is {self.cause or 'none'}, expected {wanted_cause or 'none'}"
        if not self.where.startswith(mutant.where):
            yield f"found first at {self.where}, expected {mutant.where}"


def rungs_to(rung: str) -> tuple[str, ...]:
    """Return a rung with all below it; those above would only show what comes of it."""
    return RUNG_NAMES[: RUNG_NAMES.index(rung) + 1]


def route_of(mutant: Mutant) -> Route:
    """Return the climb that a mutant is planted in: up to its rung, or to the top if harmless."""
    return Route(mutant.variant, rungs=rungs_to(mutant.rung) if mutant.rung else ())


def other_engine(engine: str) -> str:
    """Return the engine that one with a mutant is compared with."""
    return TENSORFLOW if engine == LIGHTNING else LIGHTNING


def plant(climber: Climber, mutant: Mutant) -> Outcome:
    """Climb with one mutant planted, against the other framework without it."""
    try:
        verdict = climber.climb(
            other_engine(mutant.engine), mutant.engine, route_of(mutant), mutant.name
        )
    except (EngineError, ValueError) as error:
        return Outcome(mutant, None, str(error))
    return Outcome(mutant, verdict)


def plant_all(climber: Climber, mutants: Sequence[Mutant]) -> Iterator[Outcome]:
    """Yield what came of each mutant, in turn; two engines answer at a time."""
    with climber.room.askers() as pool:
        yield from pool.map(lambda mutant: plant(climber, mutant), mutants)


def alternating(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Return the mutants with the engines' taking turns, so that two of them can be busy."""
    groups = [
        [mutant for mutant in mutants if (mutant.engine == LIGHTNING) == is_lightning]
        for is_lightning in (True, False)
    ]
    ordered: list[Mutant] = []
    while any(groups):
        longer = max(groups, key=len)
        ordered.append(longer.pop(0))
    return ordered


def outcome_to_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as plain values."""
    mutant, rung = outcome.mutant, outcome.caught_on
    return {
        "fault": mutant.name,
        "engine": mutant.engine,
        "variant": mutant.variant,
        "mistake": mutant.mistake,
        "difference": mutant.difference,
        "is_harmless": mutant.is_harmless,
        "rung": rung.name if rung else "",
        "status": rung.status if rung else "passed",
        "where": outcome.where,
        "cause": outcome.cause,
        "sentence": rung.diagnoses[0].sentence if rung and rung.diagnoses else "",
        "not_as_expected": list(outcome.mistakes()),
    }
