"""The results of all runs, and the answers to the two questions."""

import math
import statistics

from pipeline.record import device_of, series
from reporting.comparison import Run
from reporting.evidence import Benchmark, Climb, CompleteRun, Evidence, finite, name_of
from reporting.repeated import paired_ratio
from reporting.wording import (
    COLOURS,
    NONE,
    OTHER_COLOUR,
    Fields,
    colour_of,
    gib,
    number,
    pairs,
    percent,
)

SHORT = 5
"""Epochs up to which a training is still far from where it settles."""
START_COUNTED = ", with the first step's compiling, which weighs much in so few"


def summary(evidence: Evidence) -> Fields:
    """Return the table of results and the two sentences."""
    rows: list[Fields] = [
        {
            "name": run.name,
            "colour": colour_of(run.engine),
            "reason": run.reason,
            "cells": _cells(run) if isinstance(run, CompleteRun) else [],
        }
        for run in evidence.runs
    ]
    rows += [
        {"name": name, "colour": OTHER_COLOUR, "reason": reason} for name, reason in evidence.lost
    ]
    epochs = sorted({len(run.record.history) for run in evidence.complete})
    return {
        "rows": rows,
        "epochs": epochs,
        "starts_counted": any(count <= 2 for count in epochs),
        "alike": _what_runs_share(evidence),
        "right": is_it_right(evidence),
        "faster": which_is_faster(evidence),
        "closer": _accuracy_sentence(evidence),
    }


def _cells(run: CompleteRun) -> list[str]:
    cell, train_seconds = run.cell, run.record.timing.get("train_seconds")
    return [
        cell.device or NONE,
        percent(cell.train_accuracy),
        percent(cell.validation_accuracy),
        _in_range(cell),
        number(cell.test_loss),
        f"{cell.epoch_seconds:.1f} s" if cell.epoch_seconds else NONE,
        NONE if train_seconds is None else f"{train_seconds:.0f} s",
        gib(cell.peak_memory_bytes),
    ]


def _in_range(cell: Run) -> str:
    if cell.is_in_range is not False or cell.expected is None:
        return percent(cell.test_accuracy)
    low, high = cell.expected
    return f"{percent(cell.test_accuracy)}, not in {low:.3f}–{high:.3f}"


def _what_runs_share(evidence: Evidence) -> str:
    """Say whether runs set side by side started from the same weights."""
    found = pairs(evidence.complete)
    if not found:
        return ""
    if all(one.record.recipe.get("init") == "shared" for one, _ in found):
        return "Runs set side by side have the same recipe, first weights and order of images."
    return "Runs set side by side have the same recipe, but first weights of their own."


def is_it_right(evidence: Evidence) -> Fields:
    """Say in a sentence whether the port is right, from the ladder's verdicts."""
    ladder, source = evidence.ladder, evidence.sources.proof
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
        if rung.name != "evaluation"
        for each in rung.gaps
        if (gap := finite(each.gap)) is not None
    ]
    explained = sorted(
        {name_of(c.right) for c in ladder.climbs for r in c.rungs if r.status == "explained"}
    )
    differ = "differs" if len(explained) == 1 else "differ"
    less = (
        f"; where {' and '.join(explained)} {differ}, it is by ties and exact zeros"
        if explained
        else ""
    )
    far = (
        ": in float64, where layers, gradients, optimizer steps and trained weights come nearest "
        f"to their limits, they are at most {_rounded_up(max(gaps))} apart, which is rounding"
        if gaps
        else ""
    )
    own = " These are the project's own results; make prove repeats them here."
    return {
        "verdict": "yes",
        "sentence": f"The port is right: all {len(ladder.climbs)} climbs of the ladder hold"
        f"{far}{less}.{own if source is not None and source.is_committed else ''}",
    }


def _rounded_up(gap: float) -> str:
    """Return a gap with one digit, not smaller than it is."""
    if gap <= 0:
        return "0"
    exponent = math.floor(math.log10(gap))
    digit = math.ceil(gap / 10**exponent - 1e-9)
    return f"{digit * 10.0**exponent:.0e}"


def _parting(climb: Climb) -> str:
    first = next((rung.name for rung in climb.rungs if rung.status == "failed"), "?")
    return f"{name_of(climb.left)} and {name_of(climb.right)} part at {first} in {climb.lane}"


def which_is_faster(evidence: Evidence) -> str:
    """Say in a sentence or two which framework is faster here, and by how much."""
    measured = "" if evidence.benchmark is None else _faster_measured(evidence.benchmark)
    source = evidence.sources.benchmark
    if measured and source is not None and not source.is_committed:
        return measured
    ran = next(map(_faster_run, pairs(evidence.complete)), "")
    if measured:
        return f"{ran} The project's own benchmark: {measured}".strip()
    return ran or "Not measured here yet: run make benchmark."


def _faster_run(pair: tuple[CompleteRun, CompleteRun]) -> str:
    devices = [device_of(run.record) or "an unknown device" for run in pair]
    if devices[0] != devices[1]:
        places = " and ".join(
            f"{name_of(run.engine)} on {device}" for run, device in zip(pair, devices, strict=True)
        )
        return f"These runs do not tell which is faster: {places}."
    seconds = [statistics.median(series(run.record, "seconds")) for run in pair]
    is_short = any(len(run.record.history) <= 2 for run in pair)
    (less, fast), (more, slow) = sorted(
        zip(seconds, pair, strict=True), key=lambda measured: measured[0]
    )
    return (
        f"In these runs an epoch of {name_of(fast.engine)} took {less:.1f} s and one of "
        f"{name_of(slow.engine)} {more:.1f} s{START_COUNTED if is_short else ''}. That is one run "
        "each, one after the other; make benchmark measures it."
    )


def _faster_measured(benchmark: Benchmark) -> str:
    ours = {
        arm.arm.removeprefix("ours ")
        for arm in benchmark.arms
        if arm.arm.startswith("ours ") and arm.epoch_seconds and not arm.thrown_out
    }
    keras = next((name for name in COLOURS if name in ours and name != "lightning"), None)
    if "lightning" not in ours or keras is None:
        return ""
    seconds = {name: _by_round(benchmark, f"ours {name}") for name in ("lightning", keras)}
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
    gpu = benchmark.environment.get("gpu")
    named = gpu.get("name") if isinstance(gpu, dict) else None
    machine = named or benchmark.environment.get("cpu", "this machine")
    return f"{verdict} an epoch{interval}, on {machine}."


def _by_round(benchmark: Benchmark, arm: str) -> list[float]:
    """Return an arm's seconds an epoch, round by round; none where they can't be such."""
    measured = benchmark.measurements.get(arm, ())
    steady = [m.epoch_seconds[1:] or m.epoch_seconds for m in measured]
    if not all(seconds and all(1e-6 < one < 1e9 for one in seconds) for seconds in steady):
        return []
    return [statistics.median(seconds) for seconds in steady]


def _accuracy_sentence(evidence: Evidence) -> str:
    """Name the accuracies, and what lets them differ where both compute the same."""
    found = pairs(evidence.complete)
    if not found:
        return ""
    parts = [
        f"{keras.variant}, {name_of(keras.engine)} {percent(keras.cell.test_accuracy)} and "
        f"Lightning {percent(lightning.cell.test_accuracy)}"
        for keras, lightning in found
    ]
    reasons = [f"Test accuracy: {'; '.join(parts)}"]
    if any(keras.variant == "dropout" for keras, _ in found):
        reasons.append("Each framework draws dropout masks of its own")
    if any(keras.record.recipe.get("init") != "shared" for keras, _ in found):
        reasons.append("Each run has first weights of its own")
    if any(len(run.record.history) <= SHORT for pair in found for run in pair):
        reasons.append(
            "In so short a training such differences, and rounding, can move the accuracy by "
            "several points"
        )
    return " ".join(f"{reason}." for reason in reasons)
