"""Disagreements that people report are replayed, and the ladder names the cause of each."""

import pytest

from parity_tests.replaying import play
from parity_tests.replays import REPLAYS

SHORT = next(replay for replay in REPLAYS if replay.pair == "tutorial")


@pytest.mark.parametrize(
    "replay",
    [
        SHORT,
        *(pytest.param(each, marks=pytest.mark.slow) for each in REPLAYS if each is not SHORT),
    ],
    ids=lambda replay: replay.name,
)
def test_a_reported_disagreement_is_named(climber, replay):
    assert list(play(climber, replay).mistakes()) == []


def test_there_are_many_and_each_links_its_thread():
    assert len(REPLAYS) >= 10
    assert len({replay.thread_url for replay in REPLAYS}) == len(REPLAYS)
    assert all(replay.thread_url.startswith("https://") for replay in REPLAYS)
