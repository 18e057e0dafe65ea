"""The results of all runs, and the answers to the two questions."""

import math
import statistics
from collections.abc import Sequence

from page.evidence import Benchmark, Climb, Evidence, Ladder, TrainedRun
from page.wording import (
    COLOURS,
    Fields,
    colour_of,
    complete,
    gib,
    name_of,
    number,
    pairs,
    percent,
    run_names,
)
from pipeline.record import series
from pipeline.repeated import paired_ratio


def summary(evidence: Evidence) -> Fields:
    """Return the table of results and the two sentences."""
    rows = []
    for name, run in zip(run_names(evidence.runs), evidence.runs, strict=True):
        cell = run.cell
        if cell is None:
            rows.append({"name": name, "colour": colour_of(run.engine), "reason": run.reason})
            continue
        rows.append(
            {
                "name": name,
                "colour": colour_of(run.engine),
                "reason": "",
                "cells": [
                    percent(cell.train_accuracy),
                    percent(cell.validation_accuracy),
                    percent(cell.test_accuracy),
                    number(cell.test_loss),
                    f"{cell.epoch_seconds:.1f} s" if cell.epoch_seconds else "–",
                    f"{run.record.timing.get('train_seconds', math.nan):.0f} s",
                    gib(cell.peak_memory_bytes),
                ],
            }
        )
    return {
        "rows": rows,
        "epochs": sorted({len(run.record.history) for run in complete(evidence)}),
        "right": is_it_right(evidence.ladder),
        "faster": which_is_faster(evidence),
        "closer": _accuracy_sentence(complete(evidence)),
    }


def is_it_right(ladder: Ladder | None) -> Fields:
    """Say in a sentence whether the port is right, from the ladder's verdicts."""
    if ladder is None or not ladder.climbs:
        return {"verdict": "unknown", "sentence": "Not proved here yet: run make prove."}
    failed = [climb for climb in ladder.climbs if not climb.passed]
    if failed:
        names = "; ".join(dict.fromkeys(_parting(climb) for climb in failed))
        return {
            "verdict": "no",
            "sentence": f"{len(failed)} of {len(ladder.climbs)} climbs fail: {names}.",
        }
    gaps = [
        gap
        for climb in ladder.climbs
        for rung in climb.rungs
        if climb.lane == "float64" and rung.status == "passed"
        for gap in rung.finite_gaps
        if rung.name != "evaluation"
    ]
    explained = sorted(
        {name_of(c.right) for c in ladder.climbs for r in c.rungs if r.status == "explained"}
    )
    differ = "differs" if len(explained) == 1 else "differ"
    less = (
        f"; where {' and '.join(explained)} {differ} in meaning, the cause is computed and named"
        if explained
        else ""
    )
    far = (
        ": in float64 no layer, gradient, optimizer step or trained weight is further apart than "
        f"{max(gaps):.0e}"
        if gaps
        else ""
    )
    return {
        "verdict": "yes",
        "sentence": f"The port is right: all {len(ladder.climbs)} climbs of the ladder hold"
        f"{far}, which is rounding{less}.",
    }


def _parting(climb: Climb) -> str:
    first = next((rung.name for rung in climb.rungs if rung.status == "failed"), "?")
    return f"{name_of(climb.left)} and {name_of(climb.right)} part at {first} in {climb.lane}"


def which_is_faster(evidence: Evidence) -> str:
    """Say in a sentence which framework is faster here, and by how much."""
    if evidence.benchmark is not None:
        sentence = _faster_measured(evidence.benchmark)
        if sentence:
            return sentence
    for keras, lightning in pairs(complete(evidence)):
        one, two = (statistics.median(series(run.record, "seconds")) for run in (keras, lightning))
        fast, slow = (keras, lightning) if one < two else (lightning, keras)
        return (
            f"In these runs an epoch of {name_of(fast.engine)} took {min(one, two):.1f} s and one "
            f"of {name_of(slow.engine)} {max(one, two):.1f} s: {max(one, two) / min(one, two):.2f} "
            "times as long. One run each, one after the other; make benchmark measures it."
        )
    return "Not measured here yet: run make benchmark."


def _faster_measured(benchmark: Benchmark) -> str:
    ours = {
        arm.arm.removeprefix("ours "): arm
        for arm in benchmark.arms
        if arm.arm.startswith("ours ") and arm.epoch_seconds and not arm.thrown_out
    }
    if "lightning" not in ours:
        return ""
    keras = next((name for name in COLOURS if name in ours and name != "lightning"), None)
    if keras is None:
        return ""
    seconds = {name: _by_round(benchmark, ours[name].arm) for name in ("lightning", keras)}
    if len(seconds["lightning"]) != len(seconds[keras]) or not seconds[keras]:
        return ""
    fast, slow = sorted(seconds, key=lambda name: statistics.median(seconds[name]))
    ratio = paired_ratio(seconds[slow], seconds[fast])
    interval = (
        f" (95 % interval {ratio.low:.2f}–{ratio.high:.2f}, n = {ratio.n} rounds)"
        if ratio.low is not None
        else " (one round)"
    )
    verdict = f"{name_of(fast)} is faster: {ratio.median:.2f} times as fast as {name_of(slow)}"
    if ratio.low is None or ratio.low <= 1:
        verdict = (
            f"No difference that these rounds can tell: {name_of(fast)} is {ratio.median:.2f} "
            f"times as fast as {name_of(slow)}"
        )
    return f"{verdict} an epoch{interval}, on {benchmark.environment.get('cpu', 'this machine')}."


def _by_round(benchmark: Benchmark, arm: str) -> list[float]:
    """Return an arm's seconds an epoch, round by round; none where they can't be such."""
    measured = benchmark.measurements.get(arm, ())
    steady = [m.epoch_seconds[1:] or m.epoch_seconds for m in measured]
    if not all(seconds and all(1e-6 < one < 1e9 for one in seconds) for seconds in steady):
        return []
    return [statistics.median(seconds) for seconds in steady]


def _accuracy_sentence(runs: Sequence[TrainedRun]) -> str:
    parts = []
    for keras, lightning in pairs(runs):
        assert keras.cell is not None
        assert lightning.cell is not None
        one, two = keras.cell.test_accuracy, lightning.cell.test_accuracy
        if one is not None and two is not None:
            parts.append(f"{keras.variant} {percent(one)} and {percent(two)}")
    if not parts:
        return ""
    return f"Test accuracy, {name_of(pairs(runs)[0][0].engine)} and Lightning: {'; '.join(parts)}."
