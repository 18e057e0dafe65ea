"""The network and its weights, in Keras."""

import keras
import numpy as np
import pytest

from keras_impl.data import batch_source
from keras_impl.model import build_model
from keras_impl.torch_backend import pools_first
from keras_impl.train import compile_model
from keras_impl.weights import export_training_state, load_training_state
from pipeline.batches import evaluation_batches
from pipeline.network import parameter_shapes
from pipeline.preprocess import LabeledImages
from pipeline.recipe import preset
from tests.both.model import (  # noqa: F401
    test_any_other_callback_sees_each_step,
    test_images_become_logits,
    test_only_the_fast_path_keeps_freed_memory,
    test_other_weights_are_refused_and_none_is_set,
    test_own_first_weights_are_glorots_and_follow_the_seed,
    test_the_layers_of_a_run_are_those_that_are_built,
    test_weights_survive_the_way_in_and_out,
    test_who_follows_a_run_sees_each_step_that_is_due,
)

pytestmark = pytest.mark.filterwarnings(  # Keras's own, on NumPy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def test_pools_that_go_first_change_no_bit_and_no_model():
    recipe = preset("base")
    model = build_model(recipe)
    images = np.random.default_rng(0).normal(size=(64, 28, 28, 1)).astype(np.float32)
    names, config = [layer.name for layer in model.layers], model.get_config()
    plain = np.array(model(images))
    values = images[..., :4, :4, :]
    with pools_first(model):
        assert np.array_equal(model(images), plain)
        assert ([layer.name for layer in model.layers], model.get_config()) == (names, config)
        assert np.array_equal(model.get_layer("act1")(values), values)
        pooled = np.array(model.get_layer("pool1")(values))
    assert np.array_equal(model(images), plain)
    assert not np.array_equal(model.get_layer("act1")(values), values)
    assert pooled.shape == (64, 2, 2, 1)
    # Of some windows all is below zero; there the slope is seen.
    most = values.reshape(64, 2, 2, 2, 2, 1).max(axis=(2, 4))
    assert (most < 0).any()
    sloped = most * np.float32(recipe.negative_slope)
    assert np.array_equal(pooled, np.where(most < 0, sloped, most))


def trained_a_step(recipe):
    model = build_model(recipe)
    compile_model(model, recipe)
    images = np.random.default_rng(0).random((8, 28, 28, 1), np.float32)
    model.train_on_batch(images, np.eye(10, dtype=np.float32)[:8])
    return model


def test_the_training_state_holds_weights_slots_and_step():
    recipe = preset("base")
    state = export_training_state(trained_a_step(recipe))
    names = list(parameter_shapes(recipe))
    assert set(state) == {*names, *(f"adam.{slot}.{name}" for slot in "mv" for name in names),
                          "adam.step"}  # fmt: skip
    assert state["adam.step"] == 1
    assert all(state[f"adam.v.{name}"].shape == state[name].shape for name in names)
    fresh = build_model(recipe)
    compile_model(fresh, recipe)
    load_training_state(fresh, state)
    loaded = export_training_state(fresh)
    for name, array in state.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("adam.step", None, "training state: missing adam.step"),
        ("adam.m.conv1.bias", np.zeros(3), r"training state: adam.m.conv1.bias has shape \(3,\)"),
        ("adam.m.conv9.bias", np.zeros(3), "training state: unexpected adam.m.conv9.bias"),
    ],
)
def test_another_training_state_is_refused(name, value, message):
    recipe = preset("base", conv_filters=(1, 1, 1), hidden_units=2)
    model = trained_a_step(recipe)
    state = {**export_training_state(model), name: value}
    with pytest.raises(ValueError, match=message):
        load_training_state(model, {key: item for key, item in state.items() if item is not None})


def test_the_fast_path_leaves_its_batches_untuned():
    images = LabeledImages(np.zeros((70, 28, 28, 1), np.uint8), np.zeros(70, np.uint8))
    source = batch_source(evaluation_batches(images, preset("base")), plain=False)
    assert source.options().autotune.enabled is False
    assert int(source.cardinality()) == 2


def test_a_slope_that_falls_does_not_commute_with_the_pool():
    layers = [keras.layers.LeakyReLU(0.5), keras.layers.MaxPooling2D(2)]
    layers[0].negative_slope = -0.5  # which Keras itself refuses
    with pytest.raises(AssertionError), pools_first(keras.Sequential(layers)):
        pass
