"""The pages that are made from results are what their results make."""

import re
from pathlib import Path

import pytest

from proof.docs import PARITY, made_pages, with_parts

ROOT = Path(__file__).resolve().parent.parent
PAGES = made_pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_made_page_is_up_to_date(path):
    assert path.read_text() == PAGES[path], "run `make readme`"


def test_a_stale_part_is_seen():
    text = PARITY.read_text().replace("| keras-", "| changed-", 1)
    assert text != PARITY.read_text()
    assert with_parts(text) == PARITY.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_links_of_the_documents_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    local = [target for target in targets if not target.startswith("https://")]
    assert all((path.parent / target).exists() for target in local), local
