"""Planting the catalogue's faults, and what the ladder made of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ladder.engines import EngineError
from ladder.rungs import EXPLAINED, FAILED, RungResult, Verdict
from parity_tests.catalogue import LIGHTNING, TENSORFLOW, UNKNOWN, Fault
from parity_tests.climbs import Climber, Route


@dataclass(frozen=True)
class Outcome:
    """One planted fault and the verdict on it."""

    fault: Fault
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
        fault, rung = self.fault, self.caught_on
        if self.verdict is None:
            yield f"no verdict: {self.error}"
            return
        if fault.is_harmless:
            if rung:
                yield f"false alarm at rung {rung.name}: {self.where}"
            return
        if rung is None:
            yield "not caught"
            return
        status = EXPLAINED if fault.is_explained else FAILED
        wanted = {
            "rung": (fault.rung, rung.name),
            "status": (status, rung.status),
            "cause": ("" if fault.cause == UNKNOWN else fault.cause, self.cause),
        }
        for name, (expected, found) in wanted.items():
            if expected != found:
                yield f"{name} is {found or 'none'}, expected {expected or 'none'}"
        if not self.where.startswith(fault.where):
            yield f"found first at {self.where}, expected {fault.where}"


def rungs_around(rung: str) -> tuple[str, ...]:
    """Return a rung with what it takes to look for a mistake there alone.

    That is the contract, which must pass where the mistake is no setting, and what diagnoses read:
    the architecture and, of whole trainings, the batches and the first steps.
    """
    read = ("data", "optimizer") if rung in ("training", "evaluation") else ()
    return ("contract", "architecture", *read, rung)


def route_of(fault: Fault, is_whole: bool = True) -> Route:
    """Return the climb that a fault is planted in: of the whole ladder, or of its rung alone."""
    return Route(
        fault.variant, rungs=() if is_whole or fault.is_harmless else rungs_around(fault.rung)
    )


def other_engine(engine: str) -> str:
    """Return the engine that one with a fault is compared with."""
    return TENSORFLOW if engine == LIGHTNING else LIGHTNING


def plant(climber: Climber, fault: Fault, is_whole: bool = True) -> Outcome:
    """Climb with one fault planted, against the other framework without it."""
    try:
        verdict = climber.climb(
            other_engine(fault.engine), fault.engine, route_of(fault, is_whole), fault.name
        )
    except (EngineError, ValueError) as error:
        return Outcome(fault, None, str(error))
    return Outcome(fault, verdict)


def plant_all(
    climber: Climber, faults: Sequence[Fault], is_whole: bool = True
) -> Iterator[Outcome]:
    """Yield what came of each fault, in turn; two engines answer at a time."""
    with climber.room.askers() as pool:
        yield from pool.map(lambda fault: plant(climber, fault, is_whole), faults)


def alternating(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults with the engines' taking turns, so that two of them can be busy."""
    groups = [
        [fault for fault in faults if (fault.engine == LIGHTNING) == is_lightning]
        for is_lightning in (True, False)
    ]
    ordered: list[Fault] = []
    while any(groups):
        longer = max(groups, key=len)
        ordered.append(longer.pop(0))
    return ordered


def outcome_to_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as plain values."""
    fault, rung = outcome.fault, outcome.caught_on
    return {
        "fault": fault.name,
        "engine": fault.engine,
        "variant": fault.variant,
        "mistake": fault.mistake,
        "difference": fault.difference,
        "is_harmless": fault.is_harmless,
        "rung": rung.name if rung else "",
        "status": rung.status if rung else "passed",
        "where": outcome.where,
        "cause": outcome.cause,
        "sentence": rung.diagnoses[0].sentence if rung and rung.diagnoses else "",
        "not_as_expected": list(outcome.mistakes()),
    }
