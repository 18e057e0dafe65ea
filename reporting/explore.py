"""What a data set holds, before anything is trained on it: numbers and two pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pipeline.datasets import Dataset
from pipeline.errors import UsageError

SAMPLES = "samples.png"
CLASSES = "classes.png"
IMAGES_AT_ONCE = 4096

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SetSummary:
    """One set of images with their labels."""

    images_shape: tuple[int, ...]
    images_dtype: str
    labels_shape: tuple[int, ...]
    labels_dtype: str
    class_counts: tuple[int, ...]
    pixel_min: int
    pixel_max: int
    pixel_mean: float
    """Mean of all pixels divided by 255; the deviation likewise."""
    pixel_std: float
    zero_share: float
    """Share of the pixels that are 0, the background."""


@dataclass(frozen=True)
class Exploration:
    """A data set in numbers."""

    name: str
    folder: str
    fingerprint: str
    class_names: tuple[str, ...]
    train: SetSummary
    test: SetSummary


def explore(dataset: Dataset) -> Exploration:
    """Summarise both sets of `dataset`."""
    num_classes = len(dataset.class_names)
    return Exploration(
        name=dataset.name,
        folder=str(dataset.folder),
        fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        train=summarize(dataset.train_images, dataset.train_labels, num_classes),
        test=summarize(dataset.test_images, dataset.test_labels, num_classes),
    )


def summarize(images: Array, labels: Array, num_classes: int) -> SetSummary:
    """Summarise images uint8 (N, H, W) and labels (N,) in [0, num_classes)."""
    histogram = pixel_histogram(images)
    values = np.arange(256) / 255
    shares = histogram / histogram.sum()
    mean = float(shares @ values)
    present = np.flatnonzero(histogram)
    return SetSummary(
        images_shape=images.shape,
        images_dtype=str(images.dtype),
        labels_shape=labels.shape,
        labels_dtype=str(labels.dtype),
        class_counts=tuple(np.bincount(labels, minlength=num_classes).tolist()),
        pixel_min=int(present[0]),
        pixel_max=int(present[-1]),
        pixel_mean=mean,
        pixel_std=float(np.sqrt(shares @ (values - mean) ** 2)),
        zero_share=float(shares[0]),
    )


def pixel_histogram(images: Array) -> Array:
    """Count each of the 256 pixel values, int64 (256,), without a large copy of the images."""
    histogram = np.zeros(256, np.int64)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        pixels = images[start : start + IMAGES_AT_ONCE].ravel()
        histogram += np.bincount(pixels, minlength=256)
    return histogram


def write_pictures(output_dir: Path, dataset: Dataset, exploration: Exploration) -> list[Path]:
    """Write the sample grid and the class histogram; return their paths.

    Raises:
        UsageError: `output_dir` cannot be made or written to.
    """
    from pipeline.plots import plot_class_samples
    from reporting.pictures import plot_class_histogram

    samples, classes = output_dir / SAMPLES, output_dir / CLASSES
    counts = {"train": exploration.train.class_counts, "test": exploration.test.class_counts}
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        plot_class_samples(samples, dataset.train_images, dataset.train_labels, dataset.class_names)
        plot_class_histogram(classes, counts, dataset.class_names)
    except OSError as error:
        raise UsageError(f"cannot write to {output_dir}: {error.strerror or error}") from error
    return [samples, classes]


def tables(exploration: Exploration) -> Iterator[Table]:
    """Yield the table of the sets and that of the classes, for rich."""
    sets = Table(title=exploration.name)
    for column in ("", "train", "test"):
        sets.add_column(column, justify="right" if column else "left")
    train, test = map(_lines, (exploration.train, exploration.test))
    for label, text in train.items():
        sets.add_row(label, text, test[label])
    yield sets
    classes = Table(title="images of each class")
    for column in ("label", "class", "train", "test"):
        classes.add_column(column, justify="left" if column == "class" else "right")
    sets_counts = exploration.train.class_counts, exploration.test.class_counts
    for number, (name, *counts) in enumerate(
        zip(exploration.class_names, *sets_counts, strict=True)
    ):
        classes.add_row(str(number), name, *(f"{count:,}" for count in counts))
    yield classes


def _lines(summary: SetSummary) -> dict[str, str]:
    return {
        "images": f"{summary.images_shape} {summary.images_dtype}",
        "labels": f"{summary.labels_shape} {summary.labels_dtype}",
        "pixel values": f"{summary.pixel_min} to {summary.pixel_max}",
        "mean, of pixels / 255": f"{summary.pixel_mean:.4f}",
        "standard deviation": f"{summary.pixel_std:.4f}",
        "background (0) pixels": f"{summary.zero_share:.1%}",
    }
