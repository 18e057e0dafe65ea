"""The pages that are made from results are what their results make."""

import re
from pathlib import Path

import pytest

from parity_tests.docs import PARITY, made_pages, parity_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = made_pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_made_page_is_up_to_date(path):
    assert path.read_text() == PAGES[path], "run `make readme`"


def missing_tests(text):
    """Return the tests that the table of the same bits names and that are not there."""
    _, _, table = text.partition("## The same bits")
    table, _, _ = table.partition("\n## ")
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 5
    missing = [row for row in rows if not re.search(r"`[a-z_/]*tests/[a-z_/]+\.py", row)]
    for path, name in re.findall(r"`((?:parity_)?tests/[\w/]+\.py)(?:::(\w+))?`", table):
        file = ROOT / path
        there = rf"^(def {name}\(|    {name},$)"  # written in the file, or imported into it
        if not file.exists() or (name and not re.search(there, file.read_text(), re.M)):
            missing.append(f"{path}::{name}")
    return missing


def test_each_row_of_the_same_bits_names_a_test_that_is_there():
    assert missing_tests((ROOT / "docs" / "reliability.md").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("::test_other_runs_have_other_bits`", "::test_gone`"), ("test_ladder_climbs.py", "gone.py"),
     ("`parity_tests/test_ladder_climbs.py`", "")],
)  # fmt: skip
def test_a_row_whose_test_is_gone_is_seen(old, new):
    text = (ROOT / "docs" / "reliability.md").read_text()
    assert old in text
    assert missing_tests(text.replace(old, new))


def test_a_stale_part_is_seen():
    text = PARITY.read_text().replace("| keras-", "| changed-", 1)
    assert text != PARITY.read_text()
    assert parity_page(text) == PARITY.read_text()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_of_the_documents_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|href=\"([^\"]+)\"", path.read_text())
    targets = [target for pair in links for target in pair if target]
    local = [target for target in targets if not target.startswith("https://")]
    assert all((path.parent / target).exists() for target in local), local
    assert targets or path.name != "README.md"
