"""Curves, and how far each run overfits."""

import math
from collections.abc import Sequence
from itertools import zip_longest

from pipeline.record import series
from reporting import charts
from reporting.charts import Line
from reporting.comparison import GAP_OPENS_ABOVE
from reporting.evidence import Evidence, TrainedRun, name_of
from reporting.wording import NONE, Fields, colour_of, number, signed


def training(evidence: Evidence) -> Fields:
    """Return the curves of each variant, and how far each run overfits."""
    runs = [run for run in evidence.runs if run.record.history]
    panels = [
        _panel([run for run in runs if run.variant == variant], variant, metric)
        for variant in dict.fromkeys(run.variant for run in runs)
        for metric in ("accuracy", "loss")
    ]
    gaps = [
        (
            run.name,
            signed(run.cell.accuracy_gaps[-1]),
            signed(run.cell.loss_gaps[-1]),
            "never" if run.cell.gap_opens is None else f"epoch {run.cell.gap_opens}",
            NONE if run.cell.best_epoch is None else f"epoch {run.cell.best_epoch}",
        )
        for run in evidence.complete
    ]
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
    marked_lines = 2 * marked, 2 * marked + 1
    ends = ", ".join(f"{line.label} {number(line.values[-1])}" for line in lines)
    return {
        "title": title.capitalize(),
        "chart": charts.curves(lines, f"{title}; at the last epoch: {ends}", marked_lines),
        "marked": name_of(runs[marked].engine) if count > 1 else "",
        "data": {
            "places": charts.epoch_places(count),
            "lines": [
                {
                    "label": line.label,
                    "values": [round(v, 5) if math.isfinite(v) else None for v in line.values],
                }
                for line in lines
            ],
        },
        "lines": [(line.label, line.colour, line.is_dashed) for line in lines],
        "rows": [
            (epoch, *map(number, values))
            for epoch, values in enumerate(zip_longest(*(line.values for line in lines)), 1)
        ],
    }
