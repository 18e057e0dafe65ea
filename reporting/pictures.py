"""Pictures of classes and of measurements; those of a run are `pipeline.plots`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.plots import BLUE, CYCLE, GREY, VERMILLION, clear_frame, layout, outside_legend, save


def plot_class_histogram(
    path: Path, counts: Mapping[str, Sequence[int]], class_names: Sequence[str]
) -> None:
    """Draw the number of images of each class; `counts` holds one sequence a set."""
    title = "Images of each class"
    _plot_bars(path, counts, class_names, title=title, unit="images", value_format="{:,.0f}")


def plot_class_changes(
    path: Path, changes: Mapping[str, Sequence[float]], class_names: Sequence[str]
) -> None:
    """Draw by how much dropout changed the recall of each class, in points of percent."""
    percent = {name: [100 * value for value in values] for name, values in changes.items()}
    title = "What dropout changed: share of a class's test images found"
    _plot_bars(
        path, percent, class_names, title=title, unit="percentage points", value_format="{:+.1f}"
    )


def plot_measurements(path: Path, groups: Mapping[str, Sequence[float]], unit: str) -> None:
    """Draw every measurement of each group, with a line at the group's median."""
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(groups)), layout=layout())
    axis = figure.subplots()
    for row, values in enumerate(groups.values()):
        axis.plot(values, [row] * len(values), "o", color=BLUE, markersize=5, alpha=0.6)
        axis.plot([np.median(values)] * 2, [row - 0.3, row + 0.3], color=VERMILLION, linewidth=2)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel(unit)
    clear_frame(axis, grid="x")
    handles = [
        Line2D([], [], color=BLUE, marker="o", linestyle="", alpha=0.6, label="a process"),
        Line2D([], [], color=VERMILLION, linewidth=2, label="median"),
    ]
    outside_legend(figure, handles)
    save(figure, path)


def _plot_bars(
    path: Path,
    groups: Mapping[str, Sequence[float]],
    class_names: Sequence[str],
    *,
    title: str,
    unit: str,
    value_format: str,
) -> None:
    num_bars = len(class_names) * len(groups)
    figure = Figure(figsize=(8, 1.6 + 0.24 * (len(class_names) + num_bars)), layout=layout())
    axis = figure.subplots()
    height = 0.8 / max(len(groups), 1)
    places = np.arange(len(class_names))
    for number, (name, values) in enumerate(groups.items()):
        offsets = places + (number - (len(groups) - 1) / 2) * height
        colour = CYCLE[number % len(CYCLE)]
        bars = axis.barh(offsets, values, height * 0.92, color=colour, label=name)
        axis.bar_label(
            bars, [value_format.format(value) for value in values], padding=3, fontsize=8
        )
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_yticks(places, class_names)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_title(title)
    axis.set_xlabel(unit)
    clear_frame(axis, grid="x")
    outside_legend(figure, axis.get_legend_handles_labels()[0])
    save(figure, path)
