"""The picture of the horizon: how the gap between two runs grows to where they part."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from parity_tests.catalogue import TENSORFLOW
from parity_tests.full import HORIZON_GAP, MOVED, SMALL
from pipeline.plots import BLUE, GREY, VERMILLION, clear_frame

TITLES = {
    SMALL: "4,000 images, batches of 16",
    "base": "the tutorial's training, 48,000 images, batches of 64",
}
LINES = {
    TENSORFLOW: ("Keras on TensorFlow against Lightning", BLUE),
    MOVED: ("Lightning against itself, first weights moved by one ulp", VERMILLION),
}


def horizon_picture(stages: Mapping[str, Any]) -> str:
    """Return the gap of weights by step of each pair of runs that may part, as SVG.

    The same results give the same text.
    """
    kinds = [kind for kind in TITLES if any(_is_of(name, kind) for name in stages)]
    with matplotlib.rc_context({"svg.hashsalt": "horizon", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(6.4 * len(kinds), 4.6), layout="constrained")
        axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axis, kind in zip(axes, kinds, strict=True):
            _draw(axis, {name: stage for name, stage in stages.items() if _is_of(name, kind)})
            axis.set_title(TITLES[kind])
        axes[0].set_ylabel("largest gap of any weight")
        handles = [Line2D([], [], color=color, label=label) for label, color in LINES.values()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _is_of(name: str, kind: str) -> bool:
    return any(name.startswith(f"{kind}-") and name.endswith(f"-{who}") for who in LINES)


def _draw(axis: Axes, stages: Mapping[str, Any]) -> None:
    for who, (_, color) in LINES.items():
        for name, stage in stages.items():
            if name.endswith(f"-{who}"):
                steps = sorted(map(int, stage["steps"]))
                gaps = [stage["steps"][str(step)]["weight"] for step in steps]
                axis.plot(steps, gaps, color=color, linewidth=1.2, alpha=0.8)
    axis.axhline(HORIZON_GAP, color=GREY, linestyle="--", linewidth=1)
    axis.annotate(
        f"parted: {HORIZON_GAP:g}", (0.01, HORIZON_GAP), xycoords=("axes fraction", "data"),
        color=GREY, va="bottom",
    )  # fmt: skip
    axis.set_yscale("log")
    axis.set_xlabel("step")
    clear_frame(axis, grid="both")
