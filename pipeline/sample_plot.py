"""A picture of the data: some training images of each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pipeline.plots import Array, layout, save, show_image


def plot_class_samples(
    path: Path, images: Array, labels: Array, class_names: Sequence[str], num_samples: int = 10
) -> None:
    """Draw the first samples of each class, a row a class; `images` as in `plot_classified`."""
    height, width = images.shape[1:3]
    # One large picture draws far faster than a hundred small ones.
    sheet = np.zeros((len(class_names) * height, num_samples * width), np.uint8)
    for label in range(len(class_names)):
        for column, position in enumerate(np.flatnonzero(labels == label)[:num_samples]):
            rows = slice(label * height, (label + 1) * height)
            columns = slice(column * width, (column + 1) * width)
            sheet[rows, columns] = images[position].reshape(images.shape[1:3])
    size = (0.8 * num_samples + 1.4, 0.8 * len(class_names) + 0.5)
    figure = Figure(figsize=size, layout=layout())
    axis = figure.subplots()
    show_image(axis, sheet)
    axis.set_yticks((np.arange(len(class_names)) + 0.5) * height - 0.5, class_names)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(f"The first {num_samples} training images of each class")
    save(figure, path)
