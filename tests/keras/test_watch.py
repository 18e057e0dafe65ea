"""What a proof hangs into training: it leaves the fast path's calls whole, and sees their seams."""

import dataclasses
from functools import cache

import keras
import numpy as np
import pytest

from keras_impl.fast import STEPS_PER_EXECUTION
from keras_impl.train import predict_logits, train
from keras_impl.watch import AtSeams, InjectMasks, NoteMasks
from keras_impl.weights import export_weights
from parity_tests.questions import CALL
from pipeline.answers import narrowed, scratch_journal
from pipeline.batches import training_batches
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.network import shared_first_weights
from pipeline.preprocess import prepare
from pipeline.recipe import preset

EXECUTION = Execution(device="cpu")
pytestmark = pytest.mark.filterwarnings(  # Keras's own, on NumPy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def trained(drawn_data, tmp_path_factory):
    """Return a function that trains for two epochs of 40 steps, and what it trains on."""
    recipe = narrowed(preset("dropout", batch_size=4, num_epochs=2))
    data = prepare(load_dataset(drawn_data), recipe)
    data = dataclasses.replace(data, train=data.train.__class__(
        data.train.images[:158], data.train.labels[:158]))  # fmt: skip

    def run(*callbacks):
        journal = scratch_journal(recipe, data, str(tmp_path_factory.mktemp("run")))
        first = shared_first_weights(recipe)
        model = train(recipe, data, EXECUTION, journal, first, callbacks)
        return export_weights(model), model

    run.recipe, run.data = recipe, data
    run.plain = cache(lambda: run()[0])
    return run


def test_a_proof_counts_calls_as_the_fast_path_does():
    assert CALL == STEPS_PER_EXECUTION


def test_masks_are_the_same_in_calls_of_several_steps(trained):
    several, single = InjectMasks(trained.recipe), InjectMasks(trained.recipe)
    one, model = trained(several)
    assert {masks.shape[0] for _, masks, _ in several.masks} == {CALL}
    other, _ = trained(single, keras.callbacks.Callback())
    assert {masks.shape[0] for _, masks, _ in single.masks} == {1}
    assert all(np.array_equal(one[name], other[name]) for name in one)
    another, _ = trained(InjectMasks(dataclasses.replace(trained.recipe, seed=1)))
    assert not np.array_equal(another["hidden.kernel"], one["hidden.kernel"])
    predict_logits(model, trained.data.test, trained.recipe, EXECUTION)
    assert several.modes == {"train": {True}, "validation": {False}, "predict": {False}}
    model(trained.data.test.images[:4].astype("float32"), training=True)  # not by `predict`
    assert several.modes["validation"] == {False}
    assert several.modes["predict"] == {False, True}


def test_weights_are_kept_at_each_seam(trained):
    assert len(training_batches(trained.data.train, trained.recipe)) == 40
    seams = AtSeams(CALL, 40)
    weights, _ = trained(seams)
    assert all(np.array_equal(weights[name], trained.plain()[name]) for name in weights)
    assert list(seams.weights) == [25, 40, 65, 80]
    assert all(np.array_equal(seams.weights[80][name], weights[name]) for name in weights)
    assert not np.array_equal(seams.weights[65]["hidden.kernel"], weights["hidden.kernel"])


def test_each_step_draws_masks_of_its_own(trained):
    note = NoteMasks(trained.recipe, 80)
    plain, noted = trained.plain(), trained(note)[0]
    assert set(note.sums) == {"drop1", "drop2", "drop3", "hidden_drop"}
    for sums in note.sums.values():
        assert len(np.unique(keras.ops.convert_to_numpy(sums), axis=0)) == 80
    assert max(np.abs(plain[name] - noted[name]).max() for name in plain) < 1e-5
