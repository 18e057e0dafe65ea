"""Which test images the page shows, their pixels as one picture, and what each run says of them."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets import Dataset
from reporting.evidence import CompleteRun

MAX_IMAGES = 1_500
CORRECT_OF_EACH_CLASS = 12
COLUMNS = 50
LARGEST = 64

Array = np.ndarray[Any, Any]


def chosen(runs: Sequence[CompleteRun]) -> Array:
    """Return the positions of the images shown, in order.

    All that a run gets wrong or two runs call differently, as far as there is room, evenly by
    class; and the first images of each class that all get right.
    """
    predicted = np.stack([run.evaluation.predicted for run in runs])
    labels = runs[0].labels
    is_hard = (predicted != labels).any(axis=0)
    hard = _evenly(np.flatnonzero(is_hard), labels, MAX_IMAGES)
    easy = [
        np.flatnonzero(~is_hard & (labels == label))[:CORRECT_OF_EACH_CLASS]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate([hard, *easy]))


def _evenly(positions: Array, labels: Array, most: int) -> Array:
    """Return at most `most` of `positions`, the first of each class before the second of any."""
    rank = np.zeros(len(positions), np.int64)
    for label in np.unique(labels[positions]):
        own = labels[positions] == label
        rank[own] = np.arange(np.count_nonzero(own))
    return np.asarray(positions[np.argsort(rank, kind="stable")][:most])


def sprite(images: Array) -> str:
    """Return images uint8 (N, H, W) as one PNG of `COLUMNS` columns, a data address."""
    images = small(images)
    count, height, width = images.shape
    rows = -(-count // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width), np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, COLUMNS, height, width).swapaxes(1, 2)
    return png(sheet.reshape(rows * height, COLUMNS * width))


def small(images: Array) -> Array:
    """Return images uint8 (N, H, W) with no side above `LARGEST`, as the page shows them."""
    height, width = images.shape[1:]
    if max(height, width) <= LARGEST:
        return images
    scale = LARGEST / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.stack([np.asarray(Image.fromarray(image).resize(size)) for image in images])


def png(image: Array) -> str:
    """Return a grey image uint8 (H, W) as a data address."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def class_strips(dataset: Dataset, per_class: int = 10) -> list[tuple[str, str]]:
    """Return each class's name with its first training images in a row, a data address."""
    strips = []
    for label, name in enumerate(dataset.class_names):
        images = dataset.train_images[dataset.train_labels == label][:per_class]
        if len(images):
            strips.append((name, png(np.concatenate(list(small(images)), axis=1))))
    return strips


def data_of(runs: Sequence[CompleteRun], dataset: Dataset) -> dict[str, Any]:
    """Return what the page's script shows: images, classes, runs, and an answer of each run."""
    positions = chosen(runs)
    labels = runs[0].labels
    answers = []
    for run in runs:
        predicted = run.evaluation.predicted[positions]
        of_predicted = run.evaluation.probabilities[positions, predicted]
        of_true = run.evaluation.probabilities[positions, labels[positions]]
        answers.append(
            {
                "predicted": predicted.tolist(),
                "probability": [round(float(p), 3) for p in of_predicted],
                "ofTrue": [round(float(p), 3) for p in of_true],
            }
        )
    images = dataset.test_images[positions]
    return {
        "sprite": sprite(images),
        "columns": COLUMNS,
        "size": [int(images.shape[2]), int(images.shape[1])],
        "positions": positions.tolist(),
        "labels": labels[positions].tolist(),
        "classes": list(runs[0].record.dataset["class_names"]),
        "runs": [run.name for run in runs],
        "variants": [run.variant for run in runs],
        "answers": answers,
        "total": len(labels),
    }
