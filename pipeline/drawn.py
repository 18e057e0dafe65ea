"""A small data set that the project draws itself, for what needs no real images.

Each class is a shape: even a small network learns it in an epoch or two.
"""

import argparse
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ladder.files import write_bytes
from pipeline.command import OneLineParser, guarded
from pipeline.datasets import NUM_CLASSES, Dataset
from pipeline.errors import UsageError
from pipeline.idx import (
    IMAGES_MAGIC,
    LABELS_MAGIC,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
)

Array = np.ndarray[Any, Any]

IMAGE_SIZE = 28
MAX_SHIFT = 3
NOISE = 24.0
"""Standard deviation of the pixel noise, in grey levels."""


def draw_dataset(folder: Path, num_train: int, num_test: int, seed: int = 0) -> None:
    """Write four plain IDX files of drawn images to `folder`, which is made where missing.

    The same arguments give the same bytes. The classes are balanced to within one image.

    Raises:
        UsageError: a count is below 1.
    """
    for name, count in (("num_train", num_train), ("num_test", num_test)):
        if count < 1:
            raise UsageError(f"`{name}` must be at least 1; received {name}={count}")
    train = draw_images(num_train, np.random.default_rng([seed, 0]))
    test = draw_images(num_test, np.random.default_rng([seed, 1]))
    write_idx_set(folder, *train, *test)


def write_idx_set(
    folder: Path,
    train_images: Array,
    train_labels: Array,
    test_images: Array,
    test_labels: Array,
) -> None:
    """Write images (N, H, W) and labels (N,), uint8, as four IDX files to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, magic, values in (
        (TRAIN_IMAGES, IMAGES_MAGIC, train_images),
        (TRAIN_LABELS, LABELS_MAGIC, train_labels),
        (TEST_IMAGES, IMAGES_MAGIC, test_images),
        (TEST_LABELS, LABELS_MAGIC, test_labels),
    ):
        write_bytes(folder / file.name, idx_bytes(magic, values))


def write_first_images(dataset: Dataset, folder: Path, num_train: int, num_test: int) -> None:
    """Write the first images of a data set, and their labels, as four IDX files to `folder`.

    Where it holds fewer, they come over again.
    """
    train = np.arange(num_train) % len(dataset.train_labels)
    test = np.arange(num_test) % len(dataset.test_labels)
    write_idx_set(
        folder,
        dataset.train_images[train],
        dataset.train_labels[train],
        dataset.test_images[test],
        dataset.test_labels[test],
    )


def draw_images(count: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Return drawn images, uint8 (count, 28, 28), and their labels, uint8 (count,)."""
    labels = generator.permutation(np.arange(count) % NUM_CLASSES).astype(np.uint8)
    shapes = np.stack([_shape(label) for label in range(NUM_CLASSES)])
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for index, label in enumerate(labels):
        shift = generator.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=2)
        grey = np.roll(shapes[label], shift, axis=(0, 1)) * generator.uniform(120, 220)
        noisy = grey + generator.normal(0, NOISE, grey.shape)
        images[index] = noisy.clip(0, 255).round()
    return images, labels


def idx_bytes(magic: int, values: Array) -> bytes:
    """Return the bytes of an IDX file with `values`, uint8."""
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.tobytes()


def _shape(label: int) -> Array:
    """Return the shape of a class, bool (28, 28), clear of the border by `MAX_SHIFT`."""
    row, column = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] - (IMAGE_SIZE - 1) / 2
    radius = np.hypot(row, column)
    square = np.maximum(abs(row), abs(column))
    shapes = (
        radius < 9,
        (radius > 6) & (radius < 10),
        square < 8,
        (square > 6) & (square < 10),
        abs(row) < 3,
        abs(column) < 3,
        np.minimum(abs(row), abs(column)) < 2,
        abs(row - column) < 3,
        abs(row + column) < 3,
        (row // 3 + column // 3) % 2 == 0,
    )
    return shapes[label] & (square < IMAGE_SIZE / 2 - MAX_SHIFT)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="pipeline.drawn", description="Write a small drawn data set.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="images (200)")
    parser.add_argument("--test", type=int, default=60, metavar="N", help="images (60)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    return parser


def _main() -> int:
    given = _parser().parse_args()
    return guarded(
        "pipeline.drawn",
        lambda: draw_dataset(given.folder, given.train, given.test, given.seed),
    )


if __name__ == "__main__":
    sys.exit(_main())
