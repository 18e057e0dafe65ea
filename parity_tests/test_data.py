"""Rung `data`: the batches that each implementation's production training really feeds."""

from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from ladder.compare import compare_facts
from pipeline.batches import epoch_order
from pipeline.datasets import load_dataset
from pipeline.drawn import draw_dataset
from pipeline.fed import batch_row
from pipeline.recipe import preset

# A network that costs nothing, and batch sizes that leave a partial last batch in all three sets:
# an epoch of the whole real data set, and two of a small drawn one.
TINY = {"conv_filters": (1, 1, 1), "hidden_units": 1, "seed": 3}
REAL_RECIPE = preset("base", batch_size=448, num_epochs=1, **TINY)
SMALL_RECIPE = preset("base", batch_size=50, num_epochs=2, **TINY)
REAL_TRAIN_BATCHES = 108
SMALL_TRAIN_BATCHES, SMALL_VALIDATION_BATCHES = 10, 3
ENGINES = ("keras-tensorflow", "lightning")


@pytest.fixture(scope="session")
def expected(dataset):
    return expected_batches(dataset, REAL_RECIPE)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    draw_dataset(folder, 600, 110)
    return load_dataset(folder)


def split_of(dataset):
    positions = np.arange(len(dataset.train_labels))
    return train_test_split(positions, test_size=0.2, random_state=13)


def expected_batches(dataset, recipe):
    """Work out each batch from the files, scikit-learn's split and the epoch's order alone."""
    train, validation = split_of(dataset)
    rows = []
    for epoch in range(recipe.num_epochs):
        order = train[epoch_order(len(train), recipe.seed, epoch)]
        rows += training_rows("train", dataset, order, recipe)
        rows += training_rows("validation", dataset, validation, recipe)
    everything = np.arange(len(dataset.test_labels))
    images, labels = dataset.test_images, dataset.test_labels
    return rows + batch_rows("predict", images, labels, everything, recipe)


def training_rows(stage, dataset, positions, recipe):
    return batch_rows(stage, dataset.train_images, dataset.train_labels, positions, recipe)


def batch_rows(stage, images, labels, positions, recipe):
    rows = []
    for start in range(0, len(positions), recipe.batch_size):
        chosen = positions[start : start + recipe.batch_size]
        one_hot = np.zeros((len(chosen), 10), np.float32)
        one_hot[np.arange(len(chosen)), labels[chosen]] = 1
        scaled = images[chosen].astype(np.float32)[..., None] / np.float32(255)
        rows.append(batch_row(stage, scaled, one_hot))
    return rows


def ask_batches(ask, dataset, recipe, engine, *, plain=False, mutant=""):
    settings = {"data_dir": str(dataset.folder), "plain": plain}
    return ask(engine, recipe, "batches", mutant=mutant, **settings).facts["batches"]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_implementation_feeds_the_batches_that_the_files_and_the_split_give(
    ask, dataset, expected, engine
):
    fed = ask_batches(ask, dataset, REAL_RECIPE, engine)
    assert compare_facts(fed, expected) == []


def test_the_batches_cover_what_they_should(expected):
    sizes = {}
    for row in expected:
        sizes.setdefault(row["stage"], []).append(row["size"])
    assert sizes["train"] == [448] * 107 + [64]
    assert sizes["validation"] == [448] * 26 + [352]
    assert sizes["predict"] == [448] * 22 + [144]


def images_fed(rows, stage, start, count):
    chosen = [row for row in rows if row["stage"] == stage][start : start + count]
    return Counter(image for row in chosen for image in row["members"])


def images_at(dataset, positions, recipe):
    rows = training_rows("train", dataset, positions, recipe)
    return images_fed(rows, "train", 0, len(rows))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_epoch_trains_on_each_training_image_once_and_on_no_other(ask, dataset, engine):
    train, validation = split_of(dataset)
    rows = ask_batches(ask, dataset, REAL_RECIPE, engine)
    trained_on = images_fed(rows, "train", 0, REAL_TRAIN_BATCHES)
    assert trained_on == images_at(dataset, train, REAL_RECIPE)
    assert trained_on != images_at(dataset, validation, REAL_RECIPE)


def test_a_validation_image_among_them_is_seen(ask, small):
    train, _ = split_of(small)
    rows = ask_batches(ask, small, SMALL_RECIPE, "lightning", mutant="train-on-validation")
    trained_on = images_fed(rows, "train", 0, SMALL_TRAIN_BATCHES)
    assert trained_on
    assert not trained_on <= images_at(small, train, SMALL_RECIPE)


# On JAX and torch both paths of the Keras implementation take the same PyDataset.
@pytest.mark.parametrize(
    ("engine", "plain"),
    [
        ("keras-tensorflow", False),
        ("keras-tensorflow", True),
        pytest.param("keras-jax", False, marks=pytest.mark.slow),
        pytest.param("keras-jax", True, marks=pytest.mark.slow),
        pytest.param("keras-torch", False, marks=pytest.mark.slow),
        pytest.param("keras-torch", True, marks=pytest.mark.slow),
        ("lightning", False),
        ("lightning", True),
    ],
)
def test_every_engine_feeds_them_in_both_epochs_on_both_paths(ask, small, engine, plain):
    fed = ask_batches(ask, small, SMALL_RECIPE, engine, plain=plain)
    assert compare_facts(fed, expected_batches(small, SMALL_RECIPE)) == []


SECOND_EPOCH = SMALL_TRAIN_BATCHES + SMALL_VALIDATION_BATCHES


@pytest.mark.parametrize(
    ("engine", "mutant", "where"),
    [
        ("lightning", "drop-last", ""),
        ("lightning", "same-order", f"{SECOND_EPOCH}.images"),
        ("lightning", "train-on-validation", ""),
        ("lightning", "unscaled", "0.images"),
        ("lightning", "shifted-labels", "0.labels"),
        ("keras-tensorflow", "shuffled-batches", "0.images"),
        ("keras-tensorflow", "dropped-batch", ""),
    ],
)
def test_a_mutant_is_caught(ask, small, engine, mutant, where):
    plain = engine.startswith("keras")  # only a PyDataset can be shuffled by `fit`
    fed = ask_batches(ask, small, SMALL_RECIPE, engine, plain=plain, mutant=mutant)
    differences = compare_facts(fed, expected_batches(small, SMALL_RECIPE))
    assert differences
    assert where in [difference.where for difference in differences]
    batch = where.partition(".")[0]
    assert differences[0].where.partition(".")[0] == batch
