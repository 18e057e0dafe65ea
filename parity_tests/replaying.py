"""Replaying the reported disagreements, and what is said of each."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ladder.rungs import EXPLAINED, FAILED
from parity_tests.climbs import Climber, Route
from parity_tests.pair_checks import check_strided, first_apart
from parity_tests.planting import other_engine, rungs_to
from parity_tests.replays import Replay


@dataclass(frozen=True)
class Replayed:
    """One reported disagreement, where its reduction parts, and the cause named there first."""

    replay: Replay
    rung: str = ""
    """As `Replay.rung`; empty where the numbers do not part."""
    cause: str = ""
    """The ladder's name of it, or `portproof`'s sentence; empty where none is named."""
    sentence: str = ""

    def mistakes(self) -> Iterator[str]:
        """Yield what is not as the replay says; nothing where all is."""
        wanted = self.replay
        if not self.rung:
            yield "the numbers do not part"
            return
        if self.rung != wanted.rung:
            yield f"rung is {self.rung}, expected {wanted.rung}"
        if wanted.cause not in self.cause:
            yield f"cause is {self.cause or 'none'}, expected {wanted.cause}"


def play(tutorial: Climber, replay: Replay) -> Replayed:
    """Plant a disagreement on one side of the pair it is reduced to; return the outcome.

    With the tutorial's pair, the ladder is climbed up to where the numbers part.

    Raises:
        EngineError: an engine died, left no trace or took too long.
        CheckError: a side of the second pair failed.
    """
    if replay.pair == "strided":
        found = first_apart(check_strided(replay.engine, replay.mutant, replay.variant))
        return Replayed(replay, found.what, found.cause or "") if found else Replayed(replay)
    route = Route(replay.variant or "base", rungs=rungs_to(replay.rung))
    verdict = tutorial.climb(other_engine(replay.engine), replay.engine, route, replay.mutant)
    for rung in verdict.rungs:
        if rung.status in (FAILED, EXPLAINED):
            first = rung.diagnoses[0] if rung.diagnoses else None
            words = (first.cause, first.sentence) if first else ("", "")
            return Replayed(replay, rung.name, *words)
    return Replayed(replay)


def replayed_to_dict(replayed: Replayed) -> dict[str, Any]:
    """Return a replay and what came of it as plain values."""
    return {
        **dataclasses.asdict(replayed.replay),
        "found_rung": replayed.rung,
        "found_cause": replayed.cause,
        "sentence": replayed.sentence,
        "not_as_expected": list(replayed.mistakes()),
    }


def replayed_from_dict(replay: Replay, row: Mapping[str, Any]) -> Replayed:
    """Return the outcome that a row of `replayed_to_dict` holds."""
    return Replayed(replay, *(str(row[name]) for name in ("found_rung", "found_cause", "sentence")))
