"""Medians, ratios, and where the time goes."""

from collections.abc import Sequence
from typing import Any

from pipeline.record import VALIDATION_SECONDS
from reporting import charts
from reporting.charts import Mark, Row
from reporting.evidence import Arm, Benchmark, Evidence
from reporting.wording import Fields, colour_of, complete, gib, plain_items, spread


def benchmark(found: Benchmark) -> Fields:
    """Return medians with intervals, ratios and where the time goes."""
    arms = [arm for arm in found.arms if arm.epoch_seconds is not None and not arm.thrown_out]
    precisions = {arm.precision for arm in found.arms}

    def named(arm: Arm) -> str:
        return arm.arm if len(precisions) == 1 else f"{arm.arm}, {arm.precision}"

    rows = []
    for arm in arms:
        assert arm.epoch_seconds is not None
        ratios = arm.faster_than or {}
        rows.append(
            {
                "name": named(arm),
                "cells": [
                    spread(arm.epoch_seconds),
                    f"{arm.images_per_second:,.0f}" if arm.images_per_second else "–",
                    _first_ratio(ratios, "stock"),
                    _first_ratio(ratios, "raw"),
                    spread(arm.to_first_step_seconds),
                    spread(arm.warm_up_seconds),
                    spread(arm.wall_seconds),
                    gib(arm.peak_memory_bytes),
                ],
            }
        )
    return {
        "chart": charts.rows_chart(
            [
                Row(
                    named(arm),
                    [
                        Mark(
                            arm.epoch_seconds.median,
                            _track_colour(arm),
                            f"{named(arm)}: median {arm.epoch_seconds.median:.2f} s, quartiles "
                            f"{arm.epoch_seconds.lower:.2f}–{arm.epoch_seconds.upper:.2f} s, "
                            f"n = {arm.epoch_seconds.n}",
                            low=arm.epoch_seconds.lower,
                            high=arm.epoch_seconds.upper,
                        )
                    ],
                )
                for arm in arms
                if arm.epoch_seconds is not None
            ],
            "Seconds an epoch of each program, median and quartiles",
            "seconds an epoch, validation included",
        )
        if arms
        else "",
        "rows": rows,
        "thrown_out": [(named(arm), arm.thrown_out) for arm in found.arms if arm.thrown_out],
        "left_out": sorted(found.left_out.items()),
        "startup": _startup_chart(arms, named),
        "rounds": found.rounds,
        "conditions": plain_items(found.conditions),
    }


STARTUP_PARTS = ("program", "data", "framework", "build", "first step and compiling")


def _startup_chart(arms: Sequence[Arm], named: Any) -> Any:
    bars = []
    for arm in arms:
        if arm.startup and arm.first_step_seconds:
            phases = [arm.startup[n].median if n in arm.startup else 0.0 for n in STARTUP_PARTS[:4]]
            bars.append((named(arm), [*phases, arm.first_step_seconds.median]))
    if not bars:
        return ""
    title = "From the command to the end of the first step, median of each part"
    return charts.stacked_bars(bars, STARTUP_PARTS, title, "seconds", unit=" s")


TIME_PARTS = ("start-up", "first step and compiling", "steps", "validation")


def time_split(evidence: Evidence) -> Any:
    """Draw where the time of each run went; empty where no record says."""
    bars = []
    runs = complete(evidence)
    for run in runs:
        timing = run.record.timing
        wanted = ("startup_seconds", "first_step_seconds", "train_seconds", VALIDATION_SECONDS)
        if all(timing.get(part) is not None for part in wanted):
            startup, first, train, validation = (float(timing[part]) for part in wanted)
            bars.append(
                (run.name, [startup, first, max(train - first - validation, 0.0), validation])
            )
    if not bars:
        return ""
    return charts.stacked_bars(
        bars, TIME_PARTS, "Where the time of each run went", "seconds", unit=" s"
    )


def _track_colour(arm: Arm) -> int:
    engine = arm.arm.partition(" ")[2]
    engine = {"torch": "lightning", "tensorflow": "keras-tensorflow", "jax": "keras-jax"}.get(
        engine, engine
    )
    return colour_of(engine)


def _first_ratio(ratios: dict[str, Any], track: str) -> str:
    for name, ratio in ratios.items():
        if name.startswith(track):
            interval = "" if ratio.low is None else f" ({ratio.low:.2f}–{ratio.high:.2f})"
            return f"{ratio.median:.2f}×{interval}"
    return "–"
