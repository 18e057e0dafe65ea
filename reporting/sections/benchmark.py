"""Medians, ratios, and where the time goes."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.record import VALIDATION_SECONDS
from reporting import charts
from reporting.charts import Mark, Row
from reporting.evidence import Arm, Benchmark, Evidence
from reporting.repeated import Ratio, Spread
from reporting.wording import NONE, Fields, colour_of, gib, plain_items, spread

STARTUP_PARTS = ("program", "data", "framework", "build", "first step and compiling")
TIME_PARTS = ("start-up", "first step and compiling", "steps", "validation")
ENGINES = {"torch": "lightning", "tensorflow": "keras-tensorflow", "jax": "keras-jax"}
"""The engine whose colour a hand-written loop has."""


def benchmark(found: Benchmark) -> Fields:
    """Return medians with intervals, ratios and where the time goes."""
    arms = [arm for arm in found.arms if not arm.thrown_out]
    with_precision = len({arm.precision for arm in found.arms}) > 1
    names = {id(arm): arm.arm + f", {arm.precision}" * with_precision for arm in found.arms}
    measured = [
        (names[id(arm)], arm, arm.epoch_seconds) for arm in arms if arm.epoch_seconds is not None
    ]
    bars = [
        (name, [*_medians(arm.startup, STARTUP_PARTS[:4]), arm.first_step_seconds.median])
        for name, arm, _ in measured
        if arm.startup and arm.first_step_seconds
    ]
    return {
        "chart": charts.rows_chart(
            [Row(name, [_epoch_mark(name, arm, epoch)]) for name, arm, epoch in measured],
            "Seconds an epoch of each program, median and quartiles",
            "seconds an epoch, validation included",
        ),
        "rows": [
            {
                "name": name,
                "cells": [
                    spread(epoch),
                    f"{arm.images_per_second:,.0f}" if arm.images_per_second else NONE,
                    _first_ratio(arm.faster_than, "stock"),
                    _first_ratio(arm.faster_than, "raw"),
                    spread(arm.to_first_step_seconds),
                    spread(arm.warm_up_seconds),
                    spread(arm.wall_seconds),
                    gib(arm.peak_memory_bytes),
                ],
            }
            for name, arm, epoch in measured
        ],
        "thrown_out": [(names[id(arm)], arm.thrown_out) for arm in found.arms if arm.thrown_out],
        "left_out": sorted(found.left_out.items()),
        "startup": charts.stacked_bars(
            bars,
            STARTUP_PARTS,
            "From the command to the end of the first step, median of each part",
            "seconds",
            unit=" s",
        ),
        "rounds": found.rounds,
        "conditions": plain_items(found.conditions),
    }


def time_split(evidence: Evidence) -> Any:
    """Draw where the time of each run went; empty where no record says."""
    bars = []
    wanted = ("startup_seconds", "first_step_seconds", "train_seconds", VALIDATION_SECONDS)
    for run in evidence.complete:
        timing = run.record.timing
        if all(timing.get(part) is not None for part in wanted):
            startup, first, train, validation = (float(timing[part]) for part in wanted)
            steps = max(train - first - validation, 0.0)
            bars.append((run.name, [startup, first, steps, validation]))
    title = "Where the time of each run went"
    return charts.stacked_bars(bars, TIME_PARTS, title, "seconds", unit=" s")


def _epoch_mark(name: str, arm: Arm, epoch: Spread) -> Mark:
    engine = arm.arm.partition(" ")[2]
    text = (
        f"{name}: median {epoch.median:.2f} s, quartiles {epoch.lower:.2f}–{epoch.upper:.2f} s, "
        f"n = {epoch.n}"
    )
    colour = colour_of(ENGINES.get(engine, engine))
    return Mark(epoch.median, colour, text, low=epoch.lower, high=epoch.upper)


def _medians(phases: Mapping[str, Spread], names: Sequence[str]) -> list[float]:
    return [phases[name].median if name in phases else 0.0 for name in names]


def _first_ratio(ratios: Mapping[str, Ratio] | None, track: str) -> str:
    for name, ratio in (ratios or {}).items():
        if name.startswith(track):
            interval = "" if ratio.low is None else f" ({ratio.low:.2f}–{ratio.high:.2f})"
            return f"{ratio.median:.2f}×{interval}"
    return NONE
