"""From the files' images to the three sets that are trained, validated and tested on."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets import Dataset
from pipeline.errors import UsageError
from pipeline.recipe import Recipe
from pipeline.split import train_validation_split

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LabeledImages:
    """Images uint8 (N, H, W, 1) with labels int64 (N,)."""

    images: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class PreparedData:
    """The three sets, at the recipe's image size."""

    name: str
    fingerprint: str
    class_names: tuple[str, ...]
    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages

    def described(self) -> dict[str, Any]:
        """Return the fields of the data in a record, without their folder."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
        }


def fitted(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Return `recipe` with the data set's number of classes, unless it asks for another."""
    if recipe.num_classes != Recipe.num_classes:
        return recipe
    return dataclasses.replace(recipe, num_classes=len(dataset.class_names))


def explained(dataset: Dataset, recipe: Recipe) -> list[str]:
    """Return a line for each thing about the data that a run takes otherwise than they are."""
    lines, size = [], dataset.train_images.shape[1]
    if size != recipe.image_size:
        to = recipe.image_size
        lines.append(
            f"images of {size}×{size} pixels are trained at {to}×{to}; "
            f"`image_size: {size}` in a --config file keeps them"
        )
    if dataset.first_label:
        last = dataset.first_label + len(dataset.class_names) - 1
        lines.append(f"labels {dataset.first_label}–{last} are classes 0–{last - 1}")
    return lines


def prepare(dataset: Dataset, recipe: Recipe) -> PreparedData:
    """Split the training images and resize all three sets.

    Raises:
        UsageError: the batch size is larger than the training set, a set would be empty, or the
            recipe's classes are not the data set's.
    """
    if recipe.num_classes != len(dataset.class_names):
        raise UsageError(
            f"`num_classes` must be the data set's {len(dataset.class_names)}; "
            f"received num_classes={recipe.num_classes}"
        )
    num_images = len(dataset.train_labels)
    train, validation = train_validation_split(
        num_images, recipe.validation_fraction, recipe.split_seed
    )
    if not (len(train) and len(validation)):
        raise UsageError(
            f"`validation_fraction` must leave images on both sides of {num_images:,}; "
            f"received validation_fraction={recipe.validation_fraction}"
        )
    if recipe.batch_size > len(train):
        raise UsageError(
            f"`batch_size` must be at most the {len(train):,} training images; "
            f"received batch_size={recipe.batch_size}"
        )
    return PreparedData(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        train=_labeled(dataset.train_images, dataset.train_labels, train, recipe),
        validation=_labeled(dataset.train_images, dataset.train_labels, validation, recipe),
        test=_labeled(
            dataset.test_images, dataset.test_labels, np.arange(len(dataset.test_labels)), recipe
        ),
    )


def resize(images: Array, size: int) -> Array:
    """Resize uint8 images (N, H, W) to (N, size, size), bilinear; the same size is a no-op."""
    if images.shape[1:] == (size, size):
        return images
    resized = [
        np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        for image in images
    ]
    return np.stack(resized)


def rescale(images: Array, dtype: str) -> Array:
    """Divide uint8 pixels by 255 in `dtype`: values in [0, 1]."""
    return images.astype(dtype) / np.asarray(255, dtype)


def one_hot(labels: Array, num_classes: int, dtype: str) -> Array:
    """Return labels (N,) as rows (N, num_classes) with a single 1."""
    return np.eye(num_classes, dtype=dtype)[labels]


def _labeled(images: Array, labels: Array, positions: Array, recipe: Recipe) -> LabeledImages:
    resized = resize(images[positions], recipe.image_size)
    return LabeledImages(resized[..., np.newaxis], labels[positions].astype(np.int64))
