"""Rung 2: the batches that each half's production training really feeds."""

from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from pipeline.answers import batch_row
from pipeline.batches import epoch_order
from pipeline.datasets import Dataset
from pipeline.recipe import preset
from portproof.compare import compare_facts

# The whole real data set through the production trainers, with a network that costs nothing and a
# batch size that leaves a partial last batch in each of the three sets.
RECIPE = preset(
    "base", conv_filters=(1, 1, 1), hidden_units=1, num_epochs=2, seed=3, batch_size=448
)
TRAIN_BATCHES, VALIDATION_BATCHES = 108, 27
PATHS = [
    ("keras-tensorflow", False),
    ("keras-tensorflow", True),
    ("lightning", False),
    ("lightning", True),
]


def expected_batches(dataset: Dataset) -> list[dict[str, object]]:
    """Work out each batch from the files, scikit-learn's split and the epoch's order alone."""
    split = train_test_split(np.arange(60_000), test_size=0.2, random_state=13)
    train, validation = split
    rows = []
    for epoch in range(RECIPE.num_epochs):
        order = train[epoch_order(len(train), RECIPE.seed, epoch)]
        rows += batch_rows("train", dataset.train_images, dataset.train_labels, order)
        rows += batch_rows("validation", dataset.train_images, dataset.train_labels, validation)
    everything = np.arange(10_000)
    return rows + batch_rows("predict", dataset.test_images, dataset.test_labels, everything)


def batch_rows(stage, images, labels, positions):
    rows = []
    for start in range(0, len(positions), RECIPE.batch_size):
        chosen = positions[start : start + RECIPE.batch_size]
        one_hot = np.zeros((len(chosen), 10), np.float32)
        one_hot[np.arange(len(chosen)), labels[chosen]] = 1
        scaled = images[chosen].astype(np.float32)[..., None] / np.float32(255)
        rows.append(batch_row(stage, scaled, one_hot))
    return rows


@pytest.fixture(scope="session")
def expected(dataset):
    return expected_batches(dataset)


def ask_batches(ask, dataset, engine, *, plain=False, fault=""):
    settings = {"data_dir": str(dataset.folder), "plain": plain}
    return ask(engine, RECIPE, "batches", fault=fault, **settings).facts["batches"]


@pytest.mark.parametrize(("engine", "plain"), PATHS)
def test_each_half_feeds_the_batches_that_the_files_and_the_split_give(
    ask, dataset, expected, engine, plain
):
    assert compare_facts(ask_batches(ask, dataset, engine, plain=plain), expected) == []


def test_the_batches_cover_what_they_should(expected):
    sizes = {}
    for row in expected:
        sizes.setdefault(row["stage"], []).append(row["size"])
    assert sizes["train"] == ([448] * 107 + [64]) * 2
    assert sizes["validation"] == ([448] * 26 + [352]) * 2
    assert sizes["predict"] == [448] * 22 + [144]


def images_fed(rows, stage, start, count):
    chosen = [row for row in rows if row["stage"] == stage][start : start + count]
    return Counter(image for row in chosen for image in row["each_image"])


@pytest.mark.parametrize("engine", ["keras-tensorflow", "lightning"])
def test_an_epoch_trains_on_each_training_image_once_and_on_no_other(ask, dataset, engine):
    train, validation = train_test_split(np.arange(60_000), test_size=0.2, random_state=13)
    rows = ask_batches(ask, dataset, engine)
    for epoch in range(RECIPE.num_epochs):
        trained_on = images_fed(rows, "train", epoch * TRAIN_BATCHES, TRAIN_BATCHES)
        assert trained_on == images_at(dataset, train)
        assert trained_on != images_at(dataset, validation)


def images_at(dataset, positions):
    rows = batch_rows("", dataset.train_images, dataset.train_labels, positions)
    return images_fed(rows, "", 0, len(rows))


def test_a_validation_image_among_them_is_seen(ask, dataset):
    train, _ = train_test_split(np.arange(60_000), test_size=0.2, random_state=13)
    rows = ask_batches(ask, dataset, "lightning", fault="train-on-validation")
    trained_on = images_fed(rows, "train", 0, TRAIN_BATCHES)
    assert trained_on
    assert not trained_on <= images_at(dataset, train)


@pytest.mark.parametrize(
    ("engine", "fault", "where"),
    [
        ("lightning", "drop-last", ""),
        ("lightning", "same-order", f"{TRAIN_BATCHES + VALIDATION_BATCHES}.images"),
        ("lightning", "train-on-validation", ""),
        ("lightning", "unscaled", "0.images"),
        ("lightning", "shifted-labels", "0.labels"),
        ("keras-tensorflow", "shuffled-batches", "0.images"),
        ("keras-tensorflow", "dropped-batch", ""),
    ],
)
def test_a_planted_fault_is_caught(ask, dataset, expected, engine, fault, where):
    fed = ask_batches(ask, dataset, engine, plain=engine.startswith("keras"), fault=fault)
    differences = compare_facts(fed, expected)
    assert differences
    assert differences[0].where == where
