"""What a proof hangs into training: it leaves the fast path's calls whole, and sees their seams.

tests/keras/test_watch.py and tests/lightning/test_watch.py import it.
"""

import dataclasses

import numpy as np
import pytest

from parity_tests.questions import CALL
from pipeline.answers import narrowed, scratch_journal
from pipeline.batches import training_batches
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.network import shared_first_weights
from pipeline.preprocess import LabeledImages, prepare
from pipeline.recipe import preset

EXECUTION = Execution(device="cpu")


@pytest.fixture
def trained(implementation, drawn_data, tmp_path_factory):
    """Return a function that trains for two epochs of 40 steps, and what it trains on."""
    precision = implementation.WATCHED
    recipe = narrowed(preset("dropout", precision=precision, batch_size=4, num_epochs=2))
    data = prepare(load_dataset(drawn_data), recipe)
    part = LabeledImages(data.train.images[:158], data.train.labels[:158])
    data = dataclasses.replace(data, train=part)
    assert len(training_batches(part, recipe)) == 40

    def run(*callbacks):
        implementation.set_seed(0)
        journal = scratch_journal(recipe, data, str(tmp_path_factory.mktemp("run")))
        first = shared_first_weights(recipe)
        model = implementation.train(recipe, data, EXECUTION, journal, first, callbacks)
        return implementation.export_trained(model, recipe), model

    run.recipe, run.data = recipe, data
    return run


def gap(one, other):
    return max(np.abs(one[name] - other[name]).max() for name in one)


def test_masks_are_the_same_in_calls_of_several_steps(implementation, trained):
    assert implementation.STEPS_AT_ONCE == CALL  # as the ladder counts calls
    several, single = (implementation.InjectMasks(trained.recipe) for _ in range(2))
    one, model = trained(several)
    other, _ = trained(single, implementation.Callback())
    assert [implementation.steps_in_a_call(masks) for masks in (several, single)] == [CALL, 1]
    # Rounding of the optimizer's path alone; masks of another step would show in the first digit.
    assert gap(one, other) <= implementation.SAME
    another = dataclasses.replace(trained.recipe, seed=1)
    assert gap(trained(implementation.InjectMasks(another))[0], one) > 1e-3
    implementation.predict_logits(model, trained.data.test, trained.recipe, EXECUTION)
    assert several.modes == {"train": {True}, "validation": {False}, "predict": {False}}


def test_weights_are_kept_at_each_seam(implementation, trained):
    seams = implementation.AtSeams(CALL, 40)
    weights, _ = trained(seams)
    assert list(seams.weights) == [25, 40, 65, 80]
    assert gap(trained()[0], weights) <= implementation.SAME  # whoever looks changes nothing
    assert gap(seams.weights[80], weights) == 0
    assert gap(seams.weights[65], weights) > 0


def test_each_step_draws_masks_of_its_own(implementation, trained):
    note = implementation.NoteMasks(trained.recipe, 80)
    plain, noted = trained()[0], trained(note)[0]
    assert set(note.sums) == {"drop1", "drop2", "drop3", "hidden_drop"}
    for sums in note.sums.values():
        assert len(np.unique(implementation.as_numpy(sums), axis=0)) == 80
    assert gap(plain, noted) < implementation.ROUNDING
