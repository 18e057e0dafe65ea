"""The ladder's verdicts side by side: a table for the terminal, Markdown and JSON for the file."""

from collections.abc import Iterator, Sequence

from ladder.rungs import RUNGS, RungResult, Verdict
from ladder.verdict import verdict_lines
from reporting.markdown import table


def matrices(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield, for each precision, path and seed, its name, headings and rows: a rung each.

    A column is a climb, headed by engine and variant.
    """
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        way = verdict.title.partition(" · ")[2]
        groups.setdefault(f"{verdict.dtype} · {way}", []).append(verdict)
    for name, group in groups.items():
        headings = ["rung", *(f"{v.right.replace('-', ' ')} {_variant(v)}" for v in group)]
        rows = [
            [f"{number} {rung.name}", *(cell(v.rungs[number - 1]) for v in group)]
            for number, rung in enumerate(RUNGS, start=1)
        ]
        yield name, headings, rows


def _variant(verdict: Verdict) -> str:
    return verdict.title.partition(" · ")[0]


def cell(rung: RungResult) -> str:
    """Say what came of a rung in a word: its gap, `equal`, `failed`, `explained` or –.

    The gap is the one nearest to its limit.
    """
    if rung.status == "skipped":
        return "–"
    if rung.status != "passed":
        return rung.status
    worst = rung.report.worst
    return "equal" if worst is None or worst.gap == 0 else f"{worst.gap:.0e}"


def markdown(verdicts: Sequence[Verdict], lost: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines of a Markdown page: the tables, what has no verdict, then each climb."""
    for name, headings, rows in matrices(verdicts):
        yield f"## {name}"
        yield ""
        yield from table(headings, rows)
        yield ""
    if lost:
        yield "## Without a verdict, as an engine died"
        yield ""
        yield from (f"- {name}" for name in lost)
        yield ""
    yield "## Each climb"
    for verdict in verdicts:
        yield ""
        yield "```"
        yield from verdict_lines(verdict)
        yield "```"
