"""What a proof hangs into training: it leaves the fast path's calls whole, and sees their seams."""

import dataclasses

import lightning as L
import numpy as np
import pytest
import torch

from lightning_impl.fast import CAPTURED_STEPS_PER_BATCH, STEPS_PER_BATCH
from lightning_impl.train import predict_logits, train
from lightning_impl.watch import AtSeams, InjectMasks, NoteMasks
from lightning_impl.weights import export_weights
from parity_tests.questions import CALL, CAPTURED_CALL
from pipeline.answers import narrowed, scratch_journal
from pipeline.batches import training_batches
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.preprocess import prepare
from pipeline.recipe import preset

EXECUTION = Execution(device="cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own


@pytest.fixture
def trained(drawn_data, tmp_path_factory):
    """Return a function that trains for two epochs of 40 steps, and what it trains on."""
    recipe = narrowed(preset("dropout", precision="64", batch_size=4, num_epochs=2))
    data = prepare(load_dataset(drawn_data), recipe)
    data = dataclasses.replace(data, train=data.train.__class__(
        data.train.images[:158], data.train.labels[:158]))  # fmt: skip

    def run(*callbacks):
        torch.manual_seed(0)
        journal = scratch_journal(recipe, data, str(tmp_path_factory.mktemp("run")))
        module = train(recipe, data, EXECUTION, journal, None, callbacks)
        return export_weights(module.network, recipe), module

    run.recipe, run.data = recipe, data
    return run


def test_a_proof_counts_calls_as_the_fast_paths_do():
    assert (CALL, CAPTURED_CALL) == (STEPS_PER_BATCH, CAPTURED_STEPS_PER_BATCH)


def test_masks_are_the_same_in_calls_of_several_steps(trained):
    several, single = InjectMasks(trained.recipe), InjectMasks(trained.recipe)
    one, module = trained(several)
    assert several.num_steps == CALL
    other, _ = trained(single, L.Callback())
    assert single.num_steps == 1
    # Rounding of the optimizer's path alone; masks of another step would show in the first digit.
    assert max(np.abs(one[name] - other[name]).max() for name in one) < 1e-12
    assert not np.array_equal(trained(InjectMasks(dataclasses.replace(trained.recipe, seed=1)))[0]
                              ["hidden.kernel"], one["hidden.kernel"])  # fmt: skip
    predict_logits(module, trained.data.test, trained.recipe, EXECUTION)
    assert several.modes == {"train": {True}, "validation": {False}, "predict": {False}}


def test_weights_are_kept_at_each_seam(trained):
    assert len(training_batches(trained.data.train, trained.recipe)) == 40
    seams = AtSeams(CALL, 40)
    weights, _ = trained(seams)
    assert list(seams.weights) == [25, 40, 65, 80]
    assert all(np.array_equal(seams.weights[80][name], weights[name]) for name in weights)
    assert not np.array_equal(seams.weights[65]["hidden.kernel"], weights["hidden.kernel"])


def test_each_step_draws_masks_of_its_own(trained):
    note = NoteMasks(trained.recipe, 80)
    plain, noted = trained()[0], trained(note)[0]
    assert set(note.sums) == {"drop1", "drop2", "drop3", "hidden_drop"}
    for sums in note.sums.values():
        assert len(torch.unique(sums, dim=0)) == 80
    assert max(np.abs(plain[name] - noted[name]).max() for name in plain) < 1e-12
