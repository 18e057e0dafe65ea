"""The picture of what networks say of a person's own pictures."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.plots import CYCLE, VERMILLION, layout, save
from trained.photos import Photo
from trained.prediction import MOST_PICTURES, Guesses, printable, seen_by


def draw(path: Path, photos: Sequence[Photo], guesses: Sequence[Guesses]) -> None:
    """Draw a row for each of the first pictures: itself, as networks saw it, and what each says."""
    shown = photos[:MOST_PICTURES]
    seen = list({each.run.recipe.image_size: seen_by(each.run, shown) for each in guesses}.values())
    widths = [1.0] * (1 + len(seen)) + [2.2] * len(guesses)
    figure = Figure(figsize=(1.5 * sum(widths), 1.5 * len(shown) + 0.5), layout=layout())
    axes = figure.subplots(len(shown), len(widths), squeeze=False, width_ratios=widths)
    for number, (row, photo) in enumerate(zip(axes, shown, strict=True)):
        images = [photo.original, *(each[number] for each in seen)]
        for axis, image in zip(row, images, strict=False):
            axis.set_axis_off()
            if image is not None:
                axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if photo.original is not None:
            _frame(row[0], photo.original.shape, photo.cutout.box)
        name = printable(photo.path.name)
        short = name if len(name) <= 24 else f"{name[:23]}…"
        row[0].set_title(short, fontsize=8, parse_math=False)
        for place, guess in enumerate(guesses):
            colour = CYCLE[place % len(CYCLE)]
            _draw_guess(row[1 + len(seen) + place], guess.most_likely(number), colour)
    for axis, each in zip(axes[0][1:], seen, strict=False):
        axis.set_title(f"as seen, {each.shape[1]} × {each.shape[2]}", fontsize=8)
    for axis, guess in zip(axes[0][1 + len(seen) :], guesses, strict=True):
        axis.set_title(guess.run.name, fontsize=9, parse_math=False)
    if len(photos) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(photos):,}")
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
