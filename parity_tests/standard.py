"""The standard proof: every engine against Lightning, both variants, paths and precisions."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ladder.engines import EngineError
from ladder.files import write_json, write_text
from ladder.rungs import Verdict
from ladder.verdict import (
    conclusion,
    verdict_from_kept,
    verdict_lines,
    verdict_to_dict,
    verdict_to_kept,
)
from parity_tests.catalogue import LIGHTNING, Mutant
from parity_tests.climbs import REFERENCE, Attempt, Climber, Route, climb_all
from parity_tests.ladder_report import markdown
from parity_tests.pages import mutants_page, replays_page
from parity_tests.planting import Outcome, alternating, outcome_to_dict, plant_all
from parity_tests.practice import Practice, checks_of
from parity_tests.replaying import Replayed, play, replayed_from_dict, replayed_to_dict
from parity_tests.replays import Replay
from pipeline.datasets import Dataset
from pipeline.engines import ENGINES, KERAS_TENSORFLOW
from pipeline.errors import RunError
from pipeline.origin import origin_of
from pipeline.session import Session, read_kept
from portproof import CheckError

LADDER_JSON, LADDER_PAGE = "ladder.json", "ladder.md"
MUTANTS_JSON, MUTANTS_PAGE = "faults.json", "faults.md"
PRACTICE_JSON = "practice.json"
REPLAYS_JSON, REPLAYS_PAGE = "replays.json", "replays.md"


CAPTURED = Route(captured=True, rungs=("data", "optimizer", "training", "evaluation"))
"""What the captured path does otherwise: it trains."""


def standard_attempts(
    engines: Sequence[str], variants: Sequence[str], dtypes: Sequence[str], num_seeds: int
) -> Iterator[Attempt]:
    """Yield the climbs of the standard proof, those that share an answer one after the other.

    The plain path is climbed by the default pair, in float64; so is the captured one, where it
    parts from the fast one.
    """
    for seed in range(num_seeds):
        for dtype in dtypes:
            precision = dtype.removeprefix("float")
            for variant in variants:
                route = Route(variant, precision, seed=seed)
                yield from (Attempt(REFERENCE, engine, route) for engine in engines)
    if KERAS_TENSORFLOW.name in engines and "float64" in dtypes:
        for variant in variants:
            yield Attempt(REFERENCE, KERAS_TENSORFLOW.name, Route(variant, plain=True))
        if "base" in variants:
            yield Attempt(REFERENCE, KERAS_TENSORFLOW.name, CAPTURED)


def short_attempts(engines: Sequence[str]) -> Iterator[Attempt]:
    """Yield one climb of each engine, and of the default pair one of each variant and precision."""
    for engine in engines:
        yield Attempt(REFERENCE, engine, Route())
    if KERAS_TENSORFLOW.name in engines:
        for route in (Route("dropout"), Route("dropout", plain=True), Route("base", "32")):
            yield Attempt(REFERENCE, KERAS_TENSORFLOW.name, route)


def short_mutants(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Return a quick mutant of each rung, of the implementations in turn where both have one."""
    quick = [mutant for mutant in mutants if mutant.quick and not mutant.is_harmless]
    chosen: list[Mutant] = []
    for rung in dict.fromkeys(mutant.rung for mutant in quick):
        here = [mutant for mutant in quick if mutant.rung == rung]
        num_lightning = sum(mutant.engine == LIGHTNING for mutant in chosen)
        is_turn = 2 * num_lightning <= len(chosen)
        chosen.append(min(here, key=lambda mutant: (mutant.engine == LIGHTNING) != is_turn))
    return chosen


def runnable(names: Sequence[str] | None, say: Callable[[str], None]) -> list[str]:
    """Return the engines to compare with Lightning; those that can't run here are named.

    Raises:
        ValueError: one that was asked for, or Lightning, cannot run here.
    """
    wanted = [name for name in ENGINES if name != REFERENCE] if names is None else list(names)
    reasons = {name: ENGINES[name].why_not() for name in [REFERENCE, *wanted]}
    for name, reason in reasons.items():
        if reason and (names is not None or name == REFERENCE):
            raise ValueError(f"{name} cannot run here: {reason}")
        if reason:
            say(f"{name} cannot run here: {reason}; left out")
    return [name for name in wanted if not reasons[name]]


def prove_ladder(
    climber: Climber,
    dataset: Dataset,
    output_dir: Path,
    attempts: Sequence[Attempt],
    say: Callable[[str], None],
    command: str,
    session: Session,
) -> tuple[list[Verdict], dict[str, str]]:
    """Climb, say how each climb ended, and write `ladder.json` and `ladder.md`.

    Climbs that `session` has kept are not climbed again. An engine that dies costs its own: beside
    the verdicts stand, by attempt, the reasons why there is none. Without any, nothing is written.
    """
    verdicts, lost = [], {}
    missing = [attempt for attempt in attempts if not session.kept(attempt.name)]
    climbing = climb_all(climber, missing)
    for attempt in attempts:
        kept = session.kept(attempt.name)
        verdict = _verdict_of(kept) if kept else next(climbing)
        if isinstance(verdict, EngineError):
            lost[attempt.name] = str(verdict)
            say(f"{attempt.name}: no verdict: {verdict}")
            continue
        if not kept:
            session.keep(attempt.name, verdict_to_kept(verdict))
        verdicts.append(verdict)
        place = f"{verdict.right} · {verdict.dtype} · {verdict.title}"
        say(f"{place}: {conclusion(verdict)}")
        if not verdict.passed:
            for line in verdict_lines(verdict):
                say(f"  {line}")
    if verdicts:
        found = {
            "origin": origin_of(command, dataset=dataset.name),
            **({"no_verdict": lost} if lost else {}),
            "climbs": [verdict_to_dict(verdict) for verdict in verdicts],
        }
        write_json(output_dir / LADDER_JSON, found)
        write_text(output_dir / LADDER_PAGE, "\n".join([*markdown(verdicts, list(lost)), ""]))
    return verdicts, lost


def prove_mutants(
    climber: Climber,
    dataset: Dataset,
    output_dir: Path,
    mutants: Sequence[Mutant],
    say: Callable[[str], None],
    command: str,
    session: Session,
    *,
    with_practice: bool = False,
) -> list[Outcome]:
    """Plant each mutant, climb, and write `faults.json` and `faults.md`.

    The ladder is climbed up to a mutant's own rung. With practice,
    what usual checks see of each is measured too, going on where it was left.
    """
    outcomes = []
    names = {mutant: f"fault {mutant.engine}/{mutant.name}" for mutant in mutants}
    missing = [mutant for mutant in mutants if not session.kept(names[mutant])]
    for mutant in mutants:
        if kept := session.kept(names[mutant]):
            outcomes.append(Outcome(mutant, _verdict_of(kept)))
    if outcomes:
        say(f"{len(outcomes)} mutants are kept from an earlier call")
    # Named, or an interrupt in this loop would close it, and wait, before the engines are ended.
    planting = plant_all(climber, alternating(missing))
    for outcome in planting:
        outcomes.append(outcome)
        if outcome.verdict:
            session.keep(names[outcome.mutant], verdict_to_kept(outcome.verdict))
        mutant, wrong = outcome.mutant, "; ".join(outcome.mistakes())
        words = (
            f"{outcome.cause or 'cause unknown'} at {outcome.where}"
            if outcome.caught_on
            else "no alarm"
        )
        say(f"{mutant.engine} · {mutant.name}: {f'NOT AS EXPECTED: {wrong}' if wrong else words}")
    if with_practice:
        checks_of(Practice(climber.room, dataset), mutants, output_dir / PRACTICE_JSON, say)
    order = {(mutant.engine, mutant.name): number for number, mutant in enumerate(mutants)}
    outcomes.sort(key=lambda outcome: order[outcome.mutant.engine, outcome.mutant.name])
    rows = [outcome_to_dict(outcome) for outcome in outcomes]
    found: dict[str, Any] = {
        **origin_of(command, dataset=dataset.name),
        "faults": rows,
    }
    if (output_dir / PRACTICE_JSON).exists():
        found["practice"] = read_kept(output_dir / PRACTICE_JSON)
    write_json(output_dir / MUTANTS_JSON, found)
    write_text(output_dir / MUTANTS_PAGE, "\n".join([*mutants_page(found), ""]))
    return outcomes


def prove_replays(
    climber: Climber,
    dataset: Dataset,
    output_dir: Path,
    replays: Sequence[Replay],
    say: Callable[[str], None],
    command: str,
    session: Session,
) -> tuple[list[Replayed], dict[str, str]]:
    """Replay reported disagreements and write `replays.json` and `replays.md`.

    The ladder is climbed up to where the numbers part. What
    `session` has kept, and an engine that dies, are as in `prove_ladder`.
    """
    replayed, lost = [], {}
    for replay in replays:
        name = f"replay {replay.name}"
        if kept := session.kept(name):
            each = replayed_from_dict(replay, kept)
        else:
            try:
                each = play(climber, replay)
            except (EngineError, CheckError) as error:
                lost[replay.name] = str(error)
                say(f"{replay.name}: no verdict: {error}")
                continue
            session.keep(name, replayed_to_dict(each))
        replayed.append(each)
        wrong = "; ".join(each.mistakes())
        say(f"{each.replay.name}: {f'NOT AS EXPECTED: {wrong}' if wrong else each.cause}")
    if not replayed:
        return replayed, lost
    found = {
        **origin_of(command, dataset=dataset.name),
        "replays": [replayed_to_dict(each) for each in replayed],
    }
    write_json(output_dir / REPLAYS_JSON, found)
    write_text(output_dir / REPLAYS_PAGE, "\n".join([*replays_page(found), ""]))
    return replayed, lost


def _verdict_of(kept: dict[str, Any]) -> Verdict:
    """Return a verdict that an earlier call has kept.

    Raises:
        RunError: it is damaged.
    """
    try:
        return verdict_from_kept(kept)
    except ValueError as error:
        raise RunError(f"cannot go on from what is kept: {error}; use another folder") from error
