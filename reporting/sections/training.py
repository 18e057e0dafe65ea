"""Curves, and how far each run overfits."""

import math
from collections.abc import Sequence

from pipeline.record import series
from reporting import charts
from reporting.charts import Line
from reporting.comparison import GAP_OPENS_ABOVE
from reporting.evidence import Evidence, TrainedRun, name_of
from reporting.wording import Fields, colour_of, json_number, number, signed


def training(evidence: Evidence) -> Fields:
    """Return the curves of each variant, and how far each run overfits."""
    runs = [run for run in evidence.runs if run.record.history]
    panels = []
    for variant in dict.fromkeys(run.variant for run in runs):
        own = [run for run in runs if run.variant == variant]
        for metric in ("accuracy", "loss"):
            panels.append(_panel(own, variant, metric))
    gaps = []
    for run in runs:
        cell = run.cell
        if cell is None or not cell.accuracy_gaps:
            continue
        gaps.append(
            (
                run.name,
                signed(cell.accuracy_gaps[-1]),
                signed(cell.loss_gaps[-1]),
                "never" if cell.gap_opens is None else f"epoch {cell.gap_opens}",
                "–" if cell.best_epoch is None else f"epoch {cell.best_epoch}",
            )
        )
    return {"panels": panels, "gaps": gaps, "opens_above": GAP_OPENS_ABOVE}


def _panel(runs: Sequence[TrainedRun], variant: str, metric: str) -> Fields:
    lines = []
    for run in runs:
        label = run.name.replace(f", {variant}", "")
        for kind, is_dashed in ((metric, False), (f"val_{metric}", True)):
            which = "validation" if is_dashed else "train"
            values = series(run.record, kind)
            lines.append(Line(f"{label}, {which}", colour_of(run.engine), is_dashed, values))
    title = f"{metric} by epoch, {variant}"
    count = max(len(line.values) for line in lines)
    # The space between a run's own two lines is what it overfits by: Lightning's, or the first's.
    marked = next((n for n, run in enumerate(runs) if run.engine == "lightning"), 0)
    return {
        "title": title.capitalize(),
        "chart": charts.curves(lines, _curve_words(lines, title), (2 * marked, 2 * marked + 1)),
        "marked": name_of(runs[marked].engine) if count > 1 else "",
        "data": {
            "places": charts.epoch_places(count),
            "lines": [
                {"label": line.label, "values": [json_number(value) for value in line.values]}
                for line in lines
            ],
        },
        "lines": [(line.label, line.colour, line.is_dashed) for line in lines],
        "rows": [
            (epoch, *(number(_at(line.values, epoch)) for line in lines))
            for epoch in range(1, count + 1)
        ],
    }


def _curve_words(lines: Sequence[Line], title: str) -> str:
    ends = ", ".join(f"{line.label} {number(line.values[-1])}" for line in lines)
    return f"{title}; at the last epoch: {ends}"


def _at(values: Sequence[float], epoch: int) -> float:
    return values[epoch - 1] if epoch <= len(values) else math.nan
