import numpy as np
import pytest

from ladder.arrays import read_arrays
from ladder.following import EnoughSeenError, Follower, group_gaps, horizon, state_path
from pipeline.masks import keep_mask


def state(shift=0.0):
    return {
        "dense.kernel": np.arange(4.0) + shift,
        "adam.m.dense.kernel": np.ones(4) + 2 * shift,
        "adam.step": np.asarray(3),
    }


def test_a_run_is_looked_at_every_so_many_steps(tmp_path):
    follower = Follower(tmp_path / "run", every=5, keeps_every=10)
    assert [step for step in range(1, 21) if follower.is_due(step)] == [5, 10, 15, 20]
    assert follower.look(5, state()) is None
    assert follower.look(10, state()) is None
    assert not state_path(tmp_path / "run", 5).exists()
    kept, _ = read_arrays(state_path(tmp_path / "run", 10))
    assert np.array_equal(kept["dense.kernel"], np.arange(4.0))


@pytest.fixture
def reference(tmp_path):
    follower = Follower(tmp_path / "reference", every=5, keeps_every=5)
    for step in (5, 10):
        follower.look(step, state())
    return follower.folder


def test_gaps_are_kept_group_by_group_and_outlast_the_process(tmp_path, reference):
    Follower(tmp_path / "run", every=5, reference=reference).look(5, state(0.25))
    again = Follower(tmp_path / "run", every=5, reference=reference)
    again.look(10, state(0.5))
    assert again.rows == {
        "5": {"weight": 0.25, "adam.m": 0.5, "adam.step": 0.0},
        "10": {"weight": 0.5, "adam.m": 1.0, "adam.step": 0.0},
    }


def test_a_synchronised_run_goes_on_from_the_references_state(tmp_path, reference):
    follower = Follower(tmp_path / "run", every=5, reference=reference, synchronises=True)
    go_on_from = follower.look(5, state(0.25))
    assert np.array_equal(go_on_from["dense.kernel"], np.arange(4.0))


def test_a_run_that_has_parted_is_followed_no_further(tmp_path, reference):
    follower = Follower(tmp_path / "run", every=5, reference=reference, stop_gap=0.3)
    follower.look(5, state(0.25))
    with pytest.raises(EnoughSeenError, match=r"parted by 0\.5 after step 10"):
        follower.look(10, state(0.5))
    assert horizon(follower.rows, 0.3) == 10
    assert horizon(follower.rows, 0.1) == 5
    assert horizon(follower.rows, 1.0) is None


def test_a_run_that_is_not_finite_any_more_has_parted(tmp_path, reference):
    follower = Follower(tmp_path / "run", every=5, reference=reference, stop_gap=0.3)
    with pytest.raises(EnoughSeenError, match="parted"):
        follower.look(5, state(np.nan))
    again = Follower(tmp_path / "run", every=5, reference=reference)
    assert horizon(again.rows, 1e300) == 5


def test_states_with_other_entries_are_not_compared():
    with pytest.raises(ValueError, match=r"adam\.v\.dense\.kernel"):
        group_gaps(state(), {**state(), "adam.v.dense.kernel": np.ones(4)})
    with pytest.raises(ValueError, match="none"):
        group_gaps({}, {})


def test_nan_is_a_gap_without_end():
    assert group_gaps(state(), state(np.nan))["weight"] == np.inf


def test_masks_follow_from_seed_epoch_step_and_layer():
    shape = (8, 7, 7, 3)
    first = keep_mask(0, 0, 0, 0, shape, 0.25)
    assert first.dtype == bool
    assert np.array_equal(first, keep_mask(0, 0, 0, 0, shape, 0.25))
    others = [keep_mask(*place, shape, 0.25) for place in np.eye(4, dtype=int).tolist()]
    assert not any(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("rate", [0.25, 0.4])
def test_masks_keep_the_right_share(rate):
    keep = keep_mask(0, 0, 0, 0, (100, 1000), rate)
    assert keep.mean() == pytest.approx(1 - rate, abs=5 * np.sqrt(rate * (1 - rate) / 1e5))


def test_a_higher_rate_drops_the_same_and_more():
    low, high = (keep_mask(0, 0, 0, 0, (100, 100), rate) for rate in (0.25, 0.4))
    assert (high <= low).all()


def test_a_state_that_does_not_come_is_waited_for_only_so_long(tmp_path, reference):
    folder = tmp_path / "run"
    follower = Follower(folder, every=5, reference=reference, patience_seconds=0.1)
    with pytest.raises(ValueError, match=r"cannot read .*state-000015"):
        follower.look(15, state())


def test_a_run_ends_with_the_last_that_follows_it(tmp_path):
    marks = (tmp_path / "one.json", tmp_path / "two.json")
    follower = Follower(tmp_path / "run", every=5, ends_with=marks)
    follower.look(5, state())
    marks[0].touch()
    follower.look(10, state())
    marks[1].touch()
    with pytest.raises(EnoughSeenError, match="nobody follows after step 15"):
        follower.look(15, state())
    assert "15" in follower.rows
