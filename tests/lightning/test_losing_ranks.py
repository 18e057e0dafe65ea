"""Ranks that die, hang, differ or don't come: the others end, in time, and say who it was."""

import shutil
import socket

import pytest

from pipeline.drawn import draw_dataset
from pipeline.record import LAST_WEIGHTS
from pipeline.recorded import read_record
from tests.both.several import same_state
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
        ("hang 1 1 2", "rank 1 of 2 died or hung: the others end"),
        ("fail 1 1 2", "rank 1 of 2 failed: a disk of its own is full"),
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


@pytest.mark.parametrize("size", [2, 3])
def test_resume_after_a_killed_rank(ranks, size):
    whole, killed = case("base", 2, FLAGS), case("base", 2, FLAGS, fault="kill 1 1 2")
    ranks.run(whole, killed)
    name = f"resumed-on-{size}"
    shutil.copytree(ranks.folder / killed["name"], ranks.folder / name)
    resumed = {"name": name, "size": size, "flags": ["--resume"]}
    assert [rank["code"] for rank in ended(ranks, resumed)] == [0] * size
    weights = [(ranks.folder / run / LAST_WEIGHTS).read_bytes() for run in (whole["name"], name)]
    assert (weights[0] == weights[1]) == (size == 2)
    one, several = ranks.state(whole["name"]), ranks.state(name)
    assert same_state(one, several)


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


def test_a_port_in_use_is_named(ranks):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        called = case("base", 2, FLAGS, port=port, started=[0])
        ranks.run(called)
    first, _ = ranks.ended(called["name"], 2)
    assert first["code"] == 2
    assert f"port {port} is in use; name another in MASTER_PORT" in first["said"]


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_do_not_come_are_waited_for_in_a_limit(ranks, rank):
    called = case("base", 2, FLAGS, started=[rank])
    called["name"] += f"-{rank}-alone"
    alone = ended(ranks, called)[rank]
    assert alone["code"] == 2
    assert f"rank {rank} of 2 did not find the others at 127.0.0.1:" in alone["said"]
    assert alone["seconds"] < LIMIT_SECONDS + SLACK_SECONDS


def test_slurm_says_by_its_variables_which_rank_is_which(ranks):
    local, slurm = case("base", 2, FLAGS), case("base", 2, FLAGS, launcher="slurm")
    assert [rank["code"] for rank in ended(ranks, slurm)] == [0, 0]
    ranks.run(local)
    first, second = (ranks.folder / run["name"] / LAST_WEIGHTS for run in (local, slurm))
    assert first.read_bytes() == second.read_bytes()
