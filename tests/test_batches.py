import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from pipeline.batches import (
    Batches,
    batch_dtype,
    dropout_seed,
    epoch_order,
    evaluation_batches,
    training_batches,
)
from pipeline.datasets import load_dataset
from pipeline.errors import UsageError
from pipeline.preprocess import LabeledImages, one_hot, prepare, rescale, resize
from pipeline.recipe import preset
from pipeline.split import train_validation_split


def labeled(count):
    """Images whose every pixel says their position, with position % 10 as label."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 1)
    )
    return LabeledImages(images, np.arange(count) % 10)


def positions(batches):
    """The positions of the images that the batches feed, in their order."""
    pixels = [batches[index][0][:, 0, 0, 0] for index in range(len(batches))]
    return np.rint(np.concatenate(pixels) * 255).astype(int)


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    for (seed, epoch), order in orders.items():
        np.testing.assert_array_equal(order, epoch_order(50, seed, epoch))
    assert len({order.tobytes() for order in orders.values()}) == len(orders)


def test_the_order_never_changes_from_one_version_to_the_next():
    assert epoch_order(8, seed=0, epoch=0).tolist() == [1, 3, 7, 6, 0, 4, 2, 5]


def test_dropout_seeds_differ_by_seed_and_epoch_and_fit_every_framework():
    seeds = [dropout_seed(seed, epoch) for seed in range(20) for epoch in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert dropout_seed(1, 2) == dropout_seed(1, 2)


@pytest.mark.parametrize(("count", "sizes"), [(12, [5, 5, 2]), (10, [5, 5]), (3, [3])])
def test_the_partial_last_batch_is_kept(count, sizes):
    batches = Batches(labeled(count), 5, 10, "float32", seed=0)
    assert [len(batches[index][0]) for index in range(len(batches))] == sizes
    assert sorted(positions(batches)) == list(range(count))
    for index in (-1, len(sizes)):
        with pytest.raises(IndexError, match=f"batch {index} of {len(sizes)}"):
            batches[index]


def test_each_epoch_feeds_its_own_order():
    batches = Batches(labeled(20), 6, 10, "float32", seed=4)
    for epoch in (0, 3, 1, 3):
        batches.set_epoch(epoch)
        np.testing.assert_array_equal(positions(batches), epoch_order(20, 4, epoch))


def test_training_is_shuffled_and_evaluation_is_not():
    recipe = preset("base", batch_size=7, seed=2)
    training, evaluation = (make(labeled(30), recipe)
                            for make in (training_batches, evaluation_batches))  # fmt: skip
    np.testing.assert_array_equal(positions(training), epoch_order(30, 2, 0))
    np.testing.assert_array_equal(positions(evaluation), np.arange(30))
    evaluation.set_epoch(1)
    np.testing.assert_array_equal(positions(evaluation), np.arange(30))


def test_labels_stay_with_their_images():
    batches = Batches(labeled(25), 4, 10, "float32", seed=0)
    labels = np.concatenate([batches[index][1].argmax(axis=1) for index in range(len(batches))])
    np.testing.assert_array_equal(labels, positions(batches) % 10)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32", "float32"), ("64", "float64"), ("bf16", "float32")]
)
def test_batches_come_in_the_runs_dtype(precision, dtype):
    recipe = preset("base", precision=precision)
    assert batch_dtype(recipe) == dtype
    images, labels = training_batches(labeled(70), recipe)[0]
    assert (images.dtype, labels.dtype) == (dtype, dtype)
    assert (images.shape, labels.shape) == ((64, 4, 4, 1), (64, 10))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixels_are_divided_by_255_in_their_dtype(dtype):
    pixels = np.arange(256, dtype=np.uint8)
    scaled = rescale(pixels, dtype)
    np.testing.assert_array_equal(scaled, np.arange(256, dtype=dtype) / np.array(255, dtype))
    assert scaled.dtype == dtype
    assert (scaled[0], scaled[-1]) == (0, 1)


def test_a_product_with_the_reciprocal_would_be_other_numbers():
    pixels = np.arange(256, dtype=np.uint8)
    product = pixels.astype(np.float32) * np.float32(1 / 255)
    assert not np.array_equal(rescale(pixels, "float32"), product)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_hot_rows_hold_a_single_one(dtype):
    rows = one_hot(np.array([3, 0, 9]), 10, dtype)
    assert rows.dtype == dtype
    expected = np.zeros((3, 10), dtype)
    expected[[0, 1, 2], [3, 0, 9]] = 1
    np.testing.assert_array_equal(rows, expected, strict=True)


@pytest.mark.parametrize("num_images", [11, 101, 333, 60_000])
@pytest.mark.parametrize("fraction", [0.2, 0.25, 0.3, 0.01, 0.9])
@pytest.mark.parametrize("seed", [0, 13])
def test_the_split_is_scikit_learns(num_images, fraction, seed):
    ours = train_validation_split(num_images, fraction, seed)
    theirs = train_test_split(np.arange(num_images), test_size=fraction, random_state=seed)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other, strict=True)
    np.testing.assert_array_equal(np.sort(np.concatenate(ours)), np.arange(num_images))


def test_resizing_to_the_same_size_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    assert resize(images, 28) is images


def test_resizing_is_pillows_bilinear():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    for size in (14, 32):
        resized = resize(images, size)
        assert (resized.shape, resized.dtype) == ((3, size, size), np.uint8)
        expected = Image.fromarray(images[2]).resize((size, size), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(resized[2], np.asarray(expected))
        nearest = Image.fromarray(images[2]).resize((size, size), Image.Resampling.NEAREST)
        assert not np.array_equal(resized[2], np.asarray(nearest))


def test_prepare_splits_resizes_and_keeps_the_test_set_in_order(drawn_data):
    dataset = load_dataset(drawn_data)
    data = prepare(dataset, preset("base", image_size=14, batch_size=8))
    train, validation = train_validation_split(200, 0.2, 13)
    small = resize(dataset.train_images, 14)[..., None]
    for part, images, labels in [
        (data.train, small[train], dataset.train_labels[train]),
        (data.validation, small[validation], dataset.train_labels[validation]),
        (data.test, resize(dataset.test_images, 14)[..., None], dataset.test_labels),
    ]:
        np.testing.assert_array_equal(part.images, images, strict=True)
        np.testing.assert_array_equal(part.labels, labels.astype(np.int64), strict=True)
    assert (data.name, data.fingerprint) == (dataset.name, dataset.fingerprint)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [160, 40, 60]


def test_a_batch_larger_than_the_training_set_is_refused(drawn_data):
    dataset = load_dataset(drawn_data)
    message = "`batch_size` must be at most the 160 training images; received batch_size=161"
    with pytest.raises(UsageError, match=message):
        prepare(dataset, preset("base", batch_size=161))
    data = prepare(dataset, preset("base", batch_size=160))
    assert len(training_batches(data.train, preset("base", batch_size=160))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 9}, "`num_classes` must be the data set's 10; received num_classes=9"),
        ({"num_classes": 11}, "`num_classes` must be the data set's 10; received num_classes=11"),
        ({"validation_fraction": 0.9999}, "`validation_fraction` must leave images on both sides"),
    ],
)
def test_a_recipe_that_does_not_fit_the_data_is_refused(changes, message, drawn_data):
    with pytest.raises(UsageError, match=message):
        prepare(load_dataset(drawn_data), preset("base", batch_size=1, **changes))
    fits = preset("base", batch_size=1, validation_fraction=0.99)
    assert len(prepare(load_dataset(drawn_data), fits).train) == 2
