"""The links of the map are what they say; that the page is up to date, test_docs.py checks."""

import pytest

from proof.catalogue import FAULTS
from proof.porting_map import ROWS, link_to_line, link_to_test

STAGES = (
    *("set-up", "data", "model", "compile", "fit", "callbacks", "logging", "checkpoints"),
    *("evaluate", "predict", "export", "precision", "multi-device", "determinism"),
)


def test_each_stage_has_a_row():
    assert {row.stage for row in ROWS} == set(STAGES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.topic)
def test_a_row_links_a_line_of_each_half_and_a_test(row):
    keras, lightning = row.places
    assert keras[0].startswith("keras_impl/")
    assert lightning[0].startswith("lightning_impl/")
    assert [link_to_line(*place) for place in row.places]
    assert [link_to_test(*test) for test in row.tests]


def test_each_difference_of_a_row_is_one_that_a_fault_plants():
    assert {row.difference for row in ROWS} - {""} <= {fault.difference for fault in FAULTS}


@pytest.mark.parametrize("snippet", ["no such line", "import "])
def test_a_line_that_is_gone_or_not_alone_is_seen(snippet):
    with pytest.raises(ValueError, match="must stand in one line"):
        link_to_line("keras_impl/train.py", snippet)


def test_a_test_that_is_gone_is_seen():
    with pytest.raises(ValueError, match="has no test"):
        link_to_test("tests/test_docs.py", "test_no_such")
