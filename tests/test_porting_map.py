"""What the map shows of the code stands there, and the tests that it names exist."""

import ast
import re
from pathlib import Path

import pytest

from parity_tests.catalogue import MUTANTS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "keras-lightning-map.md").read_text()
ROWS = TEXT.partition("## Set-up")[2].split("\n### ")[1:]
LINK = re.compile(r"\[(`+)?(.+?)(?(1)\1)\]\(\.\./([\w/]+\.py)\)")


def names_in(code):
    """Yield the functions that a file defines, and what it imports by name."""
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def wrong_links(text):
    """Yield the links to code whose text is neither a line's part nor a test's name there."""
    for ticks, words, path in LINK.findall(text):
        code = (ROOT / path).read_text()
        if ticks:
            found = words.replace("\\|", "|") in code or path.endswith(words)
        else:
            found = f"test_{words.replace(' ', '_')}" in names_in(code)
        if not found:
            yield f"{words} in {path}"


def planted(text):
    lines = re.findall(r"(?m)^- Planted mistakes: (.*)\.$", text)
    return {name for line in lines for name in re.findall(r"`([^`]+)`", line)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.partition("\n")[0])
def test_a_row_shows_a_line_of_each_implementation_and_names_a_test(row):
    assert list(wrong_links(row)) == []
    shown, tests = row.split("- Shown by: ")
    assert [path.partition("/")[0] for _, _, path in LINK.findall(shown)] == [
        "keras_impl",
        "lightning_impl",
    ]
    assert LINK.findall(tests)
    assert "- Differs by default: " in shown
    assert "- Write: " in shown


def test_the_planted_mistakes_of_a_row_are_those_of_one_difference():
    by_difference = {}
    for mutant in MUTANTS:
        if not mutant.is_harmless:
            by_difference.setdefault(mutant.difference, set()).add(mutant.name)
    assert [
        row for row in filter(planted, ROWS) if planted(row) not in by_difference.values()
    ] == []


@pytest.mark.parametrize(
    "link",
    [
        "[`no such line`](../keras_impl/train.py)",
        "[no such test](../tests/test_docs.py)",
    ],
)
def test_what_is_gone_is_seen(link):
    assert len(list(wrong_links(link))) == 1
