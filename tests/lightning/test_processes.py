"""N processes compute what one does: the proof in float64, and what it sees of mutants."""

import dataclasses
from functools import partial

import pytest
import torch
from torch.nn import functional

from lightning_impl.model import Classifier
from lightning_impl.weights import load_weights
from pipeline.batches import training_batches
from pipeline.datasets import load_dataset
from pipeline.network import first_weights
from pipeline.preprocess import prepare
from pipeline.recipe import preset
from pipeline.recorded import read_record
from tests.both.several import NUM_TRAIN, NUM_VALIDATION
from tests.lightning.cases import Ranks, case

# 5 steps an epoch, the last of 2 images.
MUTATED = ("--batch-size", "40", "--epochs", "2")
MASKED = {"one_mask"}
SEEN = {
    "sum_for_mean": {"state"},
    "unweighted_shares": {"state", "metrics", "predictions"},
    "padded": {"state", "metrics", "counts", "predictions"},
    "whole_batches": {"state", "metrics", "predictions"},
    "order_without_epoch": {"state"},
    "one_mask": {"state", "metrics", "predictions"},
    "other_first_weights": {"state"},
    "metrics_of_rank_zero": {"metrics", "counts"},
    "generator_shared_with_the_loader": {"state"},
}
"""What of a training each mutant changes at least."""
SHORT = ("unweighted_shares", "padded", "one_mask", "metrics_of_rank_zero")


def slow(*values):
    return [pytest.param(*value if isinstance(value, tuple) else [value], marks=pytest.mark.slow)
            for value in values]  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return Ranks(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(
    ("variant", "size"),
    [("base", 3), ("dropout", 2), *slow(("base", 2), ("dropout", 3))],
)
def test_several_processes_train_as_one(ranks, variant, size):
    one, several = case(variant, 1), case(variant, size)
    ranks.run(
        *[case(*called) for called in (("base", 1), ("base", 3), ("dropout", 1), ("dropout", 2))]
    )
    ranks.run(several)
    assert ranks.differences(several["name"], size, one["name"]) == []
    assert ranks.counts(one["name"], 1) == [[NUM_VALIDATION, NUM_TRAIN] * 3]
    assert (ranks.metrics(one["name"])[:, 1::2] == ranks.metrics(several["name"])[:, 1::2]).all()
    first, *others = ranks.ended(several["name"], size)
    assert first["said"].count("epoch 1/3") == 1
    assert [ended["said"] for ended in others] == [""] * (size - 1)
    run = ranks.folder / several["name"]
    assert read_record(run).execution["devices"] == size
    assert len((run / "history.csv").read_text().splitlines()) == 4
    assert [path.name for path in (run / "logs").iterdir()] == ["from-epoch-1"]


@pytest.mark.parametrize("mutant", [*SHORT, *slow(*(name for name in SEEN if name not in SHORT))])
def test_a_mutant_is_seen(ranks, mutant):
    variant = "dropout" if mutant in MASKED else "base"
    planned = [case("base", 1, MUTATED), case("dropout", 1, MUTATED)]
    mutated = case(variant, 3, MUTATED, mutant)
    # One start of the framework for all that the short suite asks for.
    planned += [case("dropout" if name in MASKED else "base", 3, MUTATED, name) for name in SHORT]
    ranks.run(*planned, *([] if mutant in SHORT else [mutated]))
    seen = ranks.differences(mutated["name"], 3, case(variant, 1, MUTATED)["name"])
    assert set(seen) >= SEEN[mutant]


@pytest.mark.slow
def test_the_true_pair_of_the_mutants_agrees(ranks):
    for variant in ("base", "dropout"):
        one, three = case(variant, 1, MUTATED), case(variant, 3, MUTATED)
        ranks.run(one, three)
        assert ranks.differences(three["name"], 3, one["name"]) == []


@pytest.mark.slow
def test_two_ranks_are_two_accumulated_halves_to_the_bit(ranks, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)  # as each rank has: more add up in another order
    two = case("base", 2)
    ranks.run(two)
    recipe = preset("base", precision="64", batch_size=7, num_epochs=3)
    dataset = load_dataset(ranks.data)
    data = prepare(dataset, recipe)
    module = Classifier(recipe, fast=True).double()
    load_weights(module.network, first_weights(recipe), recipe)
    optimizer, batches = module.configure_optimizers(), training_batches(data.train, recipe)
    halves = [dataclasses.replace(batches, rank=rank, num_ranks=2) for rank in range(2)]
    for epoch in range(recipe.num_epochs):
        for index in range(len(batches)):
            for half in halves:
                half.set_epoch(epoch)
                images, one_hot = map(torch.from_numpy, half[index])
                logits = module(images.permute(0, 3, 1, 2).contiguous())
                loss = functional.cross_entropy(logits, one_hot, reduction="sum")
                # The mean of two is what DDP's division and addition make of them, exactly.
                (loss * (2 / batches.size(index)) / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
    state = ranks.state(two["name"])
    for name, weight in module.named_parameters():
        assert torch.equal(torch.from_numpy(state[name]), weight.detach()), name
