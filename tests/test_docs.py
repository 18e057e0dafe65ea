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


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def missing_tests(text):
    """Return the tests that a document names and that are not there."""
    named = re.findall(r"`((?:portproof/|parity_)?tests/[\w/]+\.py)(?:::(\w+))?", text)
    for path, name in named:
        file = ROOT / path
        there = rf"(?m)^(def {name}\(|    {name},$)"  # written in the file, or imported into it
        if not file.exists() or (name and not re.search(there, file.read_text())):
            yield f"{path}::{name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_test_that_a_document_names_is_there(path):
    assert list(missing_tests(path.read_text())) == []


@pytest.mark.parametrize("name", ["test_docs.py::test_gone`", "gone.py`"])
def test_a_test_that_is_gone_is_seen(name):
    assert len(list(missing_tests(f"`tests/{name}"))) == 1


def test_a_stale_part_is_seen():
    text = PARITY.read_text().replace("| keras-", "| changed-", 1)
    assert text != PARITY.read_text()
    assert parity_page(text) == PARITY.read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_the_documents_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|href=\"([^\"]+)\"", path.read_text())
    targets = [target for pair in links for target in pair if target]
    local = [target for target in targets if not target.startswith("https://")]
    assert all((path.parent / target).exists() for target in local), local
    assert targets or path.name != "README.md"
