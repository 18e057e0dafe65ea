"""Replaying the reported disagreements, and what is said of each."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ladder.rungs import EXPLAINED, FAILED
from parity_tests.catalogue import RUNG_NAMES
from parity_tests.climbs import Climber, Route
from parity_tests.planting import other_engine, rungs_around
from parity_tests.replays import Replay
from parity_tests.strided import check_strided, first_apart


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
        is_named = self.cause == wanted.cause
        if not is_named and not (wanted.pair == "strided" and wanted.cause in self.cause):
            yield f"cause is {self.cause or 'none'}, expected {wanted.cause}"


def play(tutorial: Climber, replay: Replay, is_whole: bool = True) -> Replayed:
    """Plant a disagreement on one side of the pair it is reduced to; return the outcome.

    With the tutorial's pair, the ladder is climbed up to where the numbers part or, where not
    whole, there alone.

    Raises:
        EngineError: an engine died, left no trace or took too long.
        CheckError: a side of the second pair failed.
    """
    if replay.pair == "strided":
        found = first_apart(check_strided(replay.engine, replay.mutant, replay.variant))
        return Replayed(replay, found.what, found.cause or "") if found else Replayed(replay)
    below = RUNG_NAMES[: RUNG_NAMES.index(replay.rung) + 1]
    rungs = below if is_whole else rungs_around(replay.rung)
    route = Route(replay.variant or "base", rungs=rungs)
    verdict = tutorial.climb(other_engine(replay.engine), replay.engine, route, replay.mutant)
    for rung in verdict.rungs:
        if rung.name != "contract" and rung.status in (FAILED, EXPLAINED):
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
