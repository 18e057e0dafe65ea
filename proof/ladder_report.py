"""The ladder's verdicts side by side: a table for the terminal, Markdown and JSON for the file."""

from collections.abc import Iterator, Sequence
from typing import Any

from portproof.ladder import RUNGS, RungResult, Verdict
from portproof.verdict import verdict_lines, verdict_to_dict


def verdicts_to_dict(verdicts: Sequence[Verdict], **origin: Any) -> dict[str, Any]:
    """Return verdicts as plain values, with where they come from."""
    return {**origin, "climbs": [verdict_to_dict(verdict) for verdict in verdicts]}


def matrix(verdicts: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows, a climb each, of what came of each rung."""
    headings = ["against", "lane", "route", *(rung.name for rung in RUNGS)]
    rows = [
        [verdict.right, verdict.lane, verdict.title, *map(cell, verdict.rungs)]
        for verdict in verdicts
    ]
    return headings, rows


def cell(rung: RungResult) -> str:
    """Say what came of a rung in a word: the largest gap, `equal`, `failed`, `explained` or –."""
    if rung.status == "skipped":
        return "–"
    if rung.status != "passed":
        return rung.status
    worst = rung.report.worst
    return "equal" if worst is None or worst.gap == 0 else f"{worst.gap:.0e}"


def markdown(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield the lines of a Markdown page: the table, then each climb."""
    headings, rows = matrix(verdicts)
    yield from table(headings, rows)
    for verdict in verdicts:
        yield ""
        yield "```"
        yield from verdict_lines(verdict)
        yield "```"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{' --- |' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
