"""Samples, balance, pixels and the split."""

from collections.abc import Sequence

import numpy as np

from pipeline.datasets import Dataset
from pipeline.recipe import preset, recipe_from_dict
from pipeline.split import train_validation_split
from reporting import charts, samples
from reporting.evidence import TrainedRun
from reporting.explore import explore, pixel_histogram
from reporting.wording import Fields


def data(dataset: Dataset, runs: Sequence[TrainedRun]) -> Fields:
    """Return samples, balance, pixel statistics and the runs' split of a data set."""
    found = explore(dataset)
    recipe = recipe_from_dict(runs[0].record.recipe) if runs else preset("base")
    train, validation = train_validation_split(
        len(dataset.train_images), recipe.validation_fraction, recipe.split_seed
    )
    parts = {"training": train, "validation": validation}
    counts = {
        name: np.bincount(dataset.train_labels[own], minlength=len(dataset.class_names))
        for name, own in parts.items()
    }
    return {
        "name": dataset.name,
        "strips": samples.class_strips(dataset),
        "balance": charts.stacked_bars(
            [
                (name, [float(counts[part][label]) for part in parts])
                for label, name in enumerate(dataset.class_names)
            ],
            tuple(parts),
            "Training and validation images of each class",
            "images",
            unit=" images",
            size=charts.HALF,
        ),
        "balance_rows": [
            (name, *(int(counts[part][label]) for part in parts), found.test.class_counts[label])
            for label, name in enumerate(dataset.class_names)
        ],
        "histogram": charts.histogram(
            pixel_histogram(dataset.train_images).tolist(),
            "Share of each pixel value in the training images, logarithmic",
        ),
        "split": {
            "training": len(train),
            "validation": len(validation),
            "test": len(dataset.test_images),
        },
        "pixels": [
            (
                name,
                f"{own.pixel_min}–{own.pixel_max}",
                f"{own.pixel_mean:.4f}",
                f"{own.pixel_std:.4f}",
                f"{own.zero_share:.1%}",
            )
            for name, own in (("train", found.train), ("test", found.test))
        ],
    }
