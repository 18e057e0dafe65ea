"""The network and its fast path: the tests that both implementations pass.

tests/keras/test_model.py and tests/lightning/test_model.py import them.
"""

import numpy as np
import pytest

from ladder.following import Follower
from pipeline.execution import Execution
from pipeline.network import shared_first_weights
from pipeline.recipe import preset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.bias": None}, "missing conv1.bias"),
        ({"extra": np.zeros(1, np.float32)}, "unexpected extra"),
        ({"hidden.kernel": np.zeros((128, 2048), np.float32)}, r"hidden.kernel has shape \(128, "),
        ({"logits.bias": np.full(10, np.nan, np.float32)}, "logits.bias holds values that are not"),
        ({"logits.bias": np.zeros(10, np.int64)}, "must be float32 or float64; received int64"),
    ],
)
def test_other_weights_are_refused_and_none_is_set(implementation, change, message):
    recipe = preset("base")
    network = implementation.build_model(recipe)
    before = implementation.export_weights(network, recipe)
    weights = {**shared_first_weights(recipe), **change}
    weights = {name: array for name, array in weights.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        implementation.load_weights(network, weights, recipe)
    after = implementation.export_weights(network, recipe)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_own_first_weights_are_glorots_and_follow_the_seed(implementation):
    recipe, draws = preset("base"), []
    for seed in (0, 0, 1):
        implementation.set_seed(seed)
        weights = implementation.export_weights(implementation.build_model(recipe), recipe)
        draws.append(weights["hidden.kernel"])
    limit = np.sqrt(6 / (2048 + 128))
    assert 0.99 * limit < np.abs(draws[0]).max() <= np.float32(limit)
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("every", "steps_per_epoch", "expected"),
    [(75, 750, 25), (75, 250, 25), (10, 250, 5), (75, 40, 5), (1, 750, 1)],
)
def test_who_follows_a_run_sees_each_step_that_is_due(
    implementation, tmp_path, every, steps_per_epoch, expected
):
    follow = implementation.follow(Follower(tmp_path, every), preset("base"), steps_per_epoch)
    num_steps = implementation.steps_at_once(Execution(), [follow])
    assert num_steps == expected
    # What is taken at once begins anew with each epoch.
    ends = {step % steps_per_epoch for step in range(every, 10 * steps_per_epoch, every)}
    assert all(end % num_steps == 0 for end in ends)


def test_any_other_callback_sees_each_step(implementation):
    steps_at_once = implementation.steps_at_once
    assert steps_at_once(Execution(), []) == 25
    assert steps_at_once(Execution(), [implementation.Callback()]) == 1
    assert steps_at_once(Execution(plain=True), []) == 1


@pytest.mark.parametrize("plain", [False, True])
def test_only_the_fast_path_keeps_freed_memory(implementation, monkeypatch, plain):
    calls = []
    monkeypatch.setattr(implementation.settings, "keep_freed_memory", lambda: calls.append("kept"))
    implementation.settings.configure(preset("base"), Execution(plain=plain))
    assert calls == ([] if plain else ["kept"])
