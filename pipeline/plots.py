"""A run's pictures, as PNG and as SVG, and what all pictures share.

They are drawn with matplotlib's object interface, without global state.

Colours are Okabe and Ito's, which colour-blind readers tell apart
(https://jfly.uni-koeln.de/color/).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ladder.files import write_whole

Array = np.ndarray[Any, Any]

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#777777"
# Hollow, so that the two lines also differ where there is a single epoch.
DASHED: dict[str, Any] = {"linestyle": "--", "markerfacecolor": "white"}
DOTS_PER_INCH = 120
ASIDE = 0.03
"""Epochs between two runs' points where there is one epoch only, so that none hides another."""
SAMPLE_ROWS, SAMPLE_COLUMNS = 4, 6


@dataclass(frozen=True)
class Curve:
    """Two series of one run or engine by epoch, from epoch 1; NaN leaves a gap."""

    label: str
    solid: Sequence[float]
    dashed: Sequence[float]


def plot_curves(
    path: Path,
    panels: Mapping[str, Sequence[Curve]],
    quantity: str,
    *,
    line_names: tuple[str, str] = ("train", "validation"),
    share_y: bool = True,
) -> None:
    """Draw the solid and the dashed line of each curve by epoch, a panel for each title.

    A single curve has a colour for each of its lines; of several, each has one of its own.
    """
    figure, axes = _panels(len(panels), share_y)
    is_single = [len(curves) for curves in panels.values()] == [1]
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        axis.set_title(title)
        for number, curve in enumerate(curves):
            is_point = max(len(curve.solid) for curve in curves) == 1
            aside = ASIDE * (number - (len(curves) - 1) / 2) if is_point else 0.0
            _draw(axis, curve.solid, aside, **_style(number))
            _draw(axis, curve.dashed, aside, **DASHED, **_style(1 if is_single else number))
        _label_epochs(axis)
    axes[0].set_ylabel(quantity)
    _add_curve_legend(figure, [] if is_single else _labels(panels), line_names)
    save(figure, path)


def plot_confusion(path: Path, confusion: Array, class_names: Sequence[str]) -> None:
    """Draw counts (C, C), rows true; the shade is the share of the row, its root taken.

    The root keeps the mistakes, a few in a hundred, visible beside the diagonal.
    """
    num_classes = len(class_names)
    side = 2.5 + 0.62 * num_classes
    figure = Figure(figsize=(side, side * 0.93), layout=layout())
    axis = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if shares[row, column] > 0.4 else GREY if count == 0 else "black"
        axis.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=9)
    ticks = range(num_classes)
    axis.set_xticks(ticks, class_names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, class_names)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    accuracy = np.trace(confusion) / max(confusion.sum(), 1)
    axis.set_title(f"Confusion matrix: {confusion.sum():,} images, accuracy {accuracy:.4f}")
    save(figure, path)


def plot_classified(
    path: Path,
    images: Array,
    labels: Array,
    predicted: Array,
    *,
    class_names: Sequence[str],
    title: str,
) -> None:
    """Draw the first 24 of the given samples with their true and their predicted class.

    `images` are uint8 (N, H, W) or (N, H, W, 1), `labels` and `predicted` integers (N,).
    """
    figure, axes = _image_grid(SAMPLE_ROWS, SAMPLE_COLUMNS)
    shown = min(len(labels), SAMPLE_ROWS * SAMPLE_COLUMNS)
    extent = f"the first {shown} of {len(labels):,}" if shown else "none"
    figure.suptitle(f"{title}: {extent}", fontsize=13)
    for axis, image, true, guess in zip(axes.flat, images, labels, predicted, strict=False):
        show_image(axis, image)
        colour = BLUE if true == guess else VERMILLION
        axis.set_title(f"true: {class_names[true]}", fontsize=9, loc="left", pad=16)
        axis.text(
            0, 1.03, f"pred: {class_names[guess]}",
            fontsize=9, color=colour, transform=axis.transAxes,
        )  # fmt: skip
    save(figure, path)


def layout() -> ConstrainedLayoutEngine:
    """Return the layout of all pictures: nothing overlaps."""
    return ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)


def _panels(number: int, share_y: bool) -> tuple[Figure, list[Axes]]:
    number = max(number, 1)
    width = 6.4 if number == 1 else 4.8 * number
    figure = Figure(figsize=(width, 4.4), layout=layout())
    return figure, list(figure.subplots(1, number, sharey=share_y, squeeze=False)[0])


def _style(number: int) -> dict[str, Any]:
    return {"color": CYCLE[number % len(CYCLE)], "marker": MARKERS[number % len(MARKERS)]}


def _draw(axis: Axes, values: Sequence[float], aside: float, **style: Any) -> None:
    epochs = [epoch + aside for epoch in range(1, len(values) + 1)]
    axis.plot(epochs, values, markersize=4, linewidth=1.6, **style)


def _label_epochs(axis: Axes) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    longest = max((len(np.atleast_1d(line.get_xdata())) for line in axis.lines), default=1)
    axis.set_xlim(1 - 0.04 * max(longest, 5), longest + 0.04 * max(longest, 5))
    clear_frame(axis, grid="both")


def clear_frame(axis: Axes, grid: str) -> None:
    """Leave of the frame what carries numbers, and draw a light `grid`: `x`, `y` or `both`."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.grid(axis=grid, color="#DDDDDD", linewidth=0.8)  # type: ignore[arg-type]


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


def _labels(panels: Mapping[str, Sequence[Curve]]) -> list[str]:
    return list(dict.fromkeys(curve.label for curves in panels.values() for curve in curves))


def _handle(label: str, **style: Any) -> Line2D:
    return Line2D([], [], label=label, markersize=4, linewidth=1.6, **style)


def _add_curve_legend(figure: Figure, labels: Sequence[str], line_names: tuple[str, str]) -> None:
    handles = [_handle(label, **_style(number)) for number, label in enumerate(labels)]
    solid, dashed = ({"color": GREY, "marker": "o"},) * 2 if labels else (_style(0), _style(1))
    handles.append(_handle(line_names[0], **solid))
    handles.append(_handle(line_names[1], **DASHED, **dashed))
    outside_legend(figure, handles)


def outside_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Put the legend below all panels."""
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False
        )


def _image_grid(rows: int, columns: int) -> tuple[Figure, Array]:
    figure = Figure(figsize=(1.6 * columns, 2.0 * rows + 0.5), layout=layout())
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def show_image(axis: Axes, image: Array) -> None:
    """Draw a uint8 image (H, W) or (H, W, 1) in grey."""
    axis.imshow(
        image.reshape(image.shape[:2]), cmap="gray", vmin=0, vmax=255, interpolation="nearest"
    )


def pictures(path: Path) -> tuple[Path, Path]:
    """Return the two files of the picture called `path`: the PNG and the SVG."""
    return path.with_suffix(".png"), path.with_suffix(".svg")


def save(figure: Figure, path: Path) -> None:
    """Write both files; equal pictures are equal files, which don't say what made them and when."""
    png, svg = pictures(path)
    figure.set_dpi(DOTS_PER_INCH)
    raster = FigureCanvasAgg(figure)
    write_whole(png, lambda file: raster.print_png(file, metadata={"Software": None}))
    unsigned = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with rc_context({"svg.hashsalt": path.stem}):
        vectors = FigureCanvasSVG(figure)
        write_whole(svg, lambda file: vectors.print_svg(file, metadata=unsigned))
