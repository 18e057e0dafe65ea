"""Replaying the reported disagreements, and what the ladder says of each."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ladder.rungs import EXPLAINED, FAILED, RungResult, Verdict
from parity_tests.catalogue import RUNG_NAMES
from parity_tests.climbs import Climber, Route
from parity_tests.planting import other_engine, rungs_around
from parity_tests.replays import Replay
from parity_tests.strided import StridedClimber


@dataclass(frozen=True)
class Replayed:
    """One reported disagreement and the verdict on its reduction."""

    replay: Replay
    verdict: Verdict

    @property
    def parts_at(self) -> RungResult | None:
        """The first rung, the contract aside, on which the numbers part."""
        rungs = [rung for rung in self.verdict.rungs if rung.name != "contract"]
        return next((rung for rung in rungs if rung.status in (FAILED, EXPLAINED)), None)

    @property
    def cause(self) -> str:
        """The cause that this rung names first; empty where it names none."""
        return self.parts_at.diagnoses[0].cause if self.parts_at and self.parts_at.diagnoses else ""

    def mistakes(self) -> Iterator[str]:
        """Yield what is not as the replay says; nothing where all is."""
        if self.parts_at is None:
            yield "the numbers do not part"
            return
        if self.parts_at.name != self.replay.rung:
            yield f"rung is {self.parts_at.name}, expected {self.replay.rung}"
        if self.cause != self.replay.cause:
            yield f"cause is {self.cause or 'none'}, expected {self.replay.cause}"


def replay_all(
    tutorial: Climber, strided: StridedClimber, replays: Sequence[Replay], is_whole: bool = True
) -> Iterator[Replayed]:
    """Yield what came of each disagreement, planted on one side of the pair it is reduced to.

    With the tutorial's pair, the ladder is climbed up to where the numbers part or, where not
    whole, there alone.

    Raises:
        EngineError: an engine died, left no trace or took too long.
    """
    for replay in replays:
        other = other_engine(replay.engine)
        if replay.pair == "strided":
            verdict = strided.climb(other, replay.engine, replay.variant, replay.mutant)
        else:
            below = RUNG_NAMES[: RUNG_NAMES.index(replay.rung) + 1]
            rungs = below if is_whole else rungs_around(replay.rung)
            route = Route(replay.variant or "base", rungs=rungs)
            verdict = tutorial.climb(other, replay.engine, route, replay.mutant)
        yield Replayed(replay, verdict)


def replayed_to_dict(replayed: Replayed) -> dict[str, Any]:
    """Return a replay and what came of it as plain values."""
    rung = replayed.parts_at
    return {
        **dataclasses.asdict(replayed.replay),
        "found_rung": rung.name if rung else "",
        "found_cause": replayed.cause,
        "sentence": rung.diagnoses[0].sentence if rung and rung.diagnoses else "",
        "not_as_expected": list(replayed.mistakes()),
    }
