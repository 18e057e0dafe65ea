"""Markdown as this project writes it: tables, and pages of which parts are made."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Container[int] = ()
) -> Iterator[str]:
    """Yield the lines of a table; `numbers` are the places of columns that are set to the right."""
    rule = ["---:" if place in numbers else "---" for place in range(len(headings))]
    for cells in (headings, rule, *rows):
        yield f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Return a text that cannot end its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """Return a page with the parts between `<!-- NAME -->` and `<!-- /NAME -->` made anew."""
    for name, part in parts.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}{part}\n{end}{after}"
    return text
