"""Ranks that die or differ: the others end, in time, and say who it was."""

import pytest

from pipeline.drawn import draw_dataset
from pipeline.record import read_record
from tests.lightning.cases import Ranks, case

# As tests/lightning/ranks.py sets them; and for a busy machine.
LIMIT_SECONDS, WORD_SECONDS, SLACK_SECONDS = 20, 3, 40
FLAGS = ("--batch-size", "40", "--epochs", "3")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return Ranks(tmp_path_factory.mktemp("losing"))


def ended(ranks, called):
    ranks.run(called)
    return ranks.ended(called["name"], called["size"])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("kill 1 1 2", "rank 1 of 2 died or hung: the others end"),
    ],
)
def test_the_others_end_in_time_and_name_the_rank(ranks, fault, words):
    called = case("base", 2, FLAGS, fault=fault)
    first, _ = ended(ranks, called)
    assert first["code"] == 1
    assert words in first["said"].splitlines()[-1]
    assert first["seconds"] < LIMIT_SECONDS + WORD_SECONDS + SLACK_SECONDS
    record = read_record(ranks.folder / called["name"])
    assert (record.status, len(record.history)) == ("failed", 1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"only": {"1": ["--seed", "1"]}}, "`seed` is 0 at rank 0 and 1 at rank 1"),
        ({"only": {"1": ["--plain"]}}, "`plain` is False at rank 0 and True at rank 1"),
        ({"other_torch": 1}, "and '1.0' at rank 1"),
    ],
)
def test_ranks_that_differ_are_a_wrong_call(ranks, more, words):
    called = case("base", 2, FLAGS, **more)
    first, second = ended(ranks, called)
    assert (first["code"], second["code"]) == (2, 2)
    assert words in first["said"].splitlines()[-1]
    assert not (ranks.folder / called["name"]).exists()


def test_ranks_with_other_data_are_a_wrong_call(ranks):
    other = ranks.folder / "other-data"
    draw_dataset(other, 203, 61)
    called = case("base", 2, FLAGS, only={"1": ["--data-dir", str(other)]})
    called["name"] += "-data"
    assert [rank["code"] for rank in ended(ranks, called)] == [2, 2]
    assert "all ranks must train the same: `data` is" in ended(ranks, called)[0]["said"]
