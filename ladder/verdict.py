"""A verdict as text and as plain values."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

from ladder.causes import Diagnosis
from ladder.checks import Gap, Report
from ladder.compare import Difference
from ladder.reading import built
from ladder.rungs import FAILED, PASSED, RungResult, Verdict

SHOWN = 3
"""Findings shown of a rung in text; all that are kept stand in the plain values."""


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """Yield the lines that say what came of a climb, a rung each and what failed below it."""
    title = f" · {verdict.title}" if verdict.title else ""
    yield f"{verdict.left} → {verdict.right} · {verdict.dtype}{title}"
    for rung in verdict.rungs:
        yield f"  {rung.number:2} {rung.name:<15}{rung.status:<10}{_words(rung)}".rstrip()
        if rung.status == FAILED:
            yield from (f"       {found}" for found in rung.report.findings[:SHOWN])
            more = len(rung.report.findings) - SHOWN
            if more > 0:
                yield f"       and {more} more"
            for found in rung.diagnoses:
                yield f"     → {': '.join(filter(None, (found.cause, found.sentence)))}"
            if not rung.diagnoses:
                yield "     → cause unknown"
    yield f"  {conclusion(verdict)}"


def conclusion(verdict: Verdict) -> str:
    """Say in one line what follows."""
    failure = verdict.first_failure
    if failure is None:
        explained = [rung.name for rung in verdict.rungs if rung.status == "explained"]
        less = f", but for {', '.join(explained)}, explained" if explained else ""
        return f"the same computation on every rung asked for{less}"
    where = failure.report.findings[0].where
    cause = failure.diagnoses[0].cause if failure.diagnoses else "unexplained"
    return f"they part at rung {failure.number}, {failure.name}: {where} ({cause})"


def verdict_to_dict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain values for JSON; a gap that is not finite is a word.

    A rung's `gaps` hold one of each place, in the unit of `worst`'s: |left − right|.
    """
    return {
        "left": verdict.left,
        "right": verdict.right,
        "lane": verdict.dtype,
        "title": verdict.title,
        "passed": verdict.passed,
        "rungs": [_rung_to_dict(rung) for rung in verdict.rungs],
    }


def verdict_to_kept(verdict: Verdict) -> Any:
    """Return a verdict as plain values from which `verdict_from_kept` makes the same again."""
    return json.loads(json.dumps(dataclasses.asdict(verdict), default=str))


def verdict_from_kept(kept: Any) -> Verdict:
    """Return the verdict that `verdict_to_kept` was given.

    Raises:
        ValueError: it has not been given what it could have written.
    """
    return built(Verdict, kept, "verdict", is_whole=True)


def _rung_to_dict(rung: RungResult) -> dict[str, Any]:
    return {
        "number": rung.number,
        "name": rung.name,
        "status": rung.status,
        "reason": rung.reason,
        "compared": rung.report.compared,
        "worst": rung.report.worst and _fields(rung.report.worst),
        "gaps": [_fields(each) for each in rung.report.gaps],
        "findings": [_fields(found) for found in rung.report.findings],
        "diagnoses": [_fields(found) for found in rung.diagnoses],
    }


def _fields(found: Difference | Gap | Diagnosis) -> dict[str, Any]:
    return {name: _plain(value) for name, value in dataclasses.asdict(found).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _words(rung: RungResult) -> str:
    if rung.reason:
        return rung.reason
    return _worst(rung.report) if rung.status == PASSED else ""


def _worst(report: Report) -> str:
    compared = f"{report.compared:,} compared"
    worst = report.worst
    if worst is None or worst.gap == 0:
        return f"{compared}, all equal"
    return f"{compared}, nearest its limit {worst.gap:.2g} ({worst.ulps:.3g} ulp) at {worst.where}"
