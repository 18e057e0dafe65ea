"""The network and its fast path: the tests that both implementations pass.

tests/keras/test_model.py and tests/lightning/test_model.py import them.
"""

import numpy as np
import pytest

from ladder.following import Follower
from pipeline.execution import Execution
from pipeline.network import feature_map_shape, parameter_shapes, shared_first_weights
from pipeline.recipe import preset


@pytest.mark.parametrize("variant", ["base", "dropout"])
@pytest.mark.parametrize("size", [28, 29, 32])
def test_images_become_logits(implementation, variant, size):
    recipe = preset(variant, image_size=size)
    network = implementation.build_model(recipe)
    images = np.random.default_rng(0).random((5, size, size, 1), np.float32)
    assert implementation.logits(network, images).shape == (5, 10)
    hidden = implementation.export_weights(network, recipe)["hidden.kernel"]
    assert len(hidden) == np.prod(feature_map_shape(recipe))


@pytest.mark.parametrize("variant", ["base", "dropout"])
def test_the_layers_of_a_run_are_those_that_are_built(implementation, variant):
    network = implementation.build_model(preset(variant))
    rows = implementation.layers_of(network)
    found = [(row.name, row.type, row.output_shape, row.parameters) for row in rows]
    assert found[:3] == implementation.FIRST_LAYERS
    assert (found[-1][0], *found[-1][2:]) == ("logits", (10,), 1_290)
    assert len(found) == 13 + 4 * (variant == "dropout")
    assert sum(parameters for *_, parameters in found) == 356_234


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_survive_the_way_in_and_out(implementation, dtype):
    recipe = preset("base")
    network = implementation.built_in(recipe, dtype)
    weights = {name: array.astype(dtype) for name, array in shared_first_weights(recipe).items()}
    implementation.load_weights(network, weights, recipe)
    exported = implementation.export_weights(network, recipe)
    assert {name: array.shape for name, array in exported.items()} == parameter_shapes(recipe)
    for name, array in weights.items():
        np.testing.assert_array_equal(exported[name], array, strict=True)


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
