"""What steps are fed: digests of their batches, and of the set in its own order."""

import hashlib
from typing import Any

import numpy as np

from pipeline.batches import evaluation_batches
from pipeline.preprocess import PreparedData
from pipeline.recipe import Recipe

Array = np.ndarray[Any, Any]


def order_digests(data: PreparedData, recipe: Recipe) -> list[str]:
    """Return a digest of each training image in the order in which the set lies."""
    batches = evaluation_batches(data.train, recipe)
    return [_digest(image)[:16] for index in range(len(batches)) for image in batches[index][0]]


def batch_row(stage: str, images_nhwc: Array, one_hot: Array) -> dict[str, Any]:
    """Return `stage`, size, shape, dtype, and digests of a batch's images and of its labels.

    Images are (B, H, W, 1), labels (B, classes).
    `members` holds a digest for each image, `images` and `labels` one for all of the batch,
    `pixels` one of all its pixels in the order of their size;
    `classes` are the labels' class numbers, `mean` the images' mean to 6 digits.
    """
    mean = np.ascontiguousarray(images_nhwc).mean(dtype=np.float64)
    return {
        "stage": stage,
        "size": len(images_nhwc),
        "shape": list(images_nhwc.shape),
        "dtype": str(images_nhwc.dtype),
        "images": _digest(images_nhwc),
        "members": [_digest(image)[:16] for image in images_nhwc],
        "pixels": _digest(np.sort(images_nhwc, axis=None)),
        "labels": _digest(one_hot),
        "classes": one_hot.argmax(axis=1).tolist(),
        "mean": round(float(mean), 6),
    }


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
