"""The picture of what networks say of a person's own pictures."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.plots import CYCLE, VERMILLION, layout, save

Array = np.ndarray[Any, Any]

MOST_PICTURES = 24
"""Pictures of one's own that are drawn into one figure."""


@dataclass(frozen=True)
class PicturedGuess:
    """A picture of one's own, and what networks say of it."""

    name: str
    original: Array | None
    """uint8 (h, w, 3)."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of what networks were shown of it, as shares."""
    seen: Sequence[Array]
    """uint8 (H, W), one for each size that a network takes."""
    guesses: Mapping[str, Sequence[tuple[str, float]]]
    """Classes with their probabilities, likeliest first, by the network's name."""


def plot_guesses(path: Path, pictures: Sequence[PicturedGuess], num_pictures: int) -> None:
    """Draw a row for each picture: itself, as networks saw it, and a bar for each class named.

    `num_pictures` is how many there are in all.
    """
    num_seen, networks = len(pictures[0].seen), list(pictures[0].guesses)
    widths = [1.0] * (1 + num_seen) + [2.2] * len(networks)
    figure = Figure(figsize=(1.5 * sum(widths), 1.5 * len(pictures) + 0.5), layout=layout())
    axes = figure.subplots(len(pictures), len(widths), squeeze=False, width_ratios=widths)
    for row, picture in zip(axes, pictures, strict=True):
        for axis, image in zip(row, [picture.original, *picture.seen], strict=False):
            axis.set_axis_off()
            if image is not None:
                axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if picture.original is not None:
            _frame(row[0], picture.original.shape, picture.box)
        name = picture.name if len(picture.name) <= 24 else f"{picture.name[:23]}…"
        row[0].set_title(name, fontsize=8, parse_math=False)
        for number, said in enumerate(picture.guesses.values()):
            _draw_guess(row[1 + num_seen + number], said, CYCLE[number % len(CYCLE)])
    for axis, image in zip(axes[0][1:], pictures[0].seen, strict=False):
        axis.set_title(f"as seen, {image.shape[0]} × {image.shape[1]}", fontsize=8)
    for axis, network in zip(axes[0][1 + num_seen :], networks, strict=True):
        axis.set_title(network, fontsize=9, parse_math=False)
    if num_pictures > len(pictures):
        figure.suptitle(f"the first {len(pictures)} of {num_pictures:,}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may hold any letter
        save(figure, path)


def _frame(axis: Axes, shape: tuple[int, ...], box: tuple[float, float, float, float]) -> None:
    """Draw what was taken as the object; a pixel's middle has its whole number."""
    left, top, right, bottom = box
    height, width = shape[:2]
    corner = left * width - 0.5, top * height - 0.5
    size = (right - left) * width, (bottom - top) * height
    axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=VERMILLION, linewidth=1.2))


def _draw_guess(axis: Axes, said: Sequence[tuple[str, float]], colour: str) -> None:
    places = range(len(said))
    bars = axis.barh(places, [probability for _, probability in said], 0.7, color=colour)
    words = [f"{100 * probability:.1f} %" for _, probability in said]
    axis.bar_label(bars, words, padding=3, fontsize=8)
    axis.set_yticks(places, [name for name, _ in said], fontsize=8, parse_math=False)
    axis.set_xlim(0, 1.3)  # room for the numbers
    axis.set_xticks([])
    axis.invert_yaxis()
    axis.spines[["top", "right", "bottom"]].set_visible(False)
