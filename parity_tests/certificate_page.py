"""What people see of a certificate: a page in Markdown and a picture of both distributions."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parity_tests.certificate import MOST_SEEDS, Certificate, to_dict
from parity_tests.equivalence import Judgement
from pipeline.plots import BLUE, VERMILLION, clear_frame
from reporting.markdown import table

SHARES = ("accuracy", "recall ", "calibration_error", "churn")
"""Quantities shown in points of a hundred."""
QUANTITIES = (
    "quantity", "reference", "suspect", "difference", "interval", "bootstrap", "margin", "verdict",
)  # fmt: skip


def certificate_markdown(certificates: Sequence[Certificate], origin: str) -> str:
    """Return the page: the sentences first, then a table for each design."""
    parts = ["# Do they learn the same?", origin]
    parts.append("\n".join(verdict_lines([to_dict(item) for item in certificates])))
    for item in certificates:
        parts += [f"## {item.design}", _about(item)]
        if item.judgements:
            parts.append(_table(item.judgements))
    return "\n\n".join(parts) + "\n"


def verdict_lines(certificates: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table with the sentence of each certificate, as `to_dict` gives it."""
    rows = [
        [item["design"], f"{len(item['values'][0])} of {item['declared_seeds']}", item["sentence"]]
        for item in certificates
    ]
    yield from table(("design", "seeds", "verdict"), rows)


def _about(item: Certificate) -> str:
    how = "the same seed is a pair" if item.is_paired else "seeds are not paired"
    words = [
        f"{item.suspect} against {item.reference}, {item.variant}, {item.num_epochs} epochs; {how}."
    ]
    if item.is_planted:
        words.append("A mutant: the suspect's recipe was changed, and 'equivalent' would be wrong.")
    if item.machines:
        versions = " | ".join(item.versions)
        words.append(f"Each on {'; or each on '.join(item.machines)}. {versions}.")
    if item.missing:
        words.append(f"Seeds without both runs: {item.missing} of {item.declared_seeds}.")
    if item.power is not None:
        needed = item.seeds_needed or f"more than {MOST_SEEDS}"
        words.append(
            f"With this many seeds of this spread, equal accuracies are certified in "
            f"{100 * item.power:.0f} % of cases (simulated); the plan's power takes {needed}."
        )
    if item.failed:
        words.append(f"Runs that failed: {'; '.join(item.failed)}.")
    if item.apart:
        words.append(
            f"Rows left out, alone on their machine class or of other versions: {item.apart}."
        )
    return " ".join(words)


def _table(judgements: Sequence[Judgement]) -> str:
    rows = [
        [
            item.name,
            _mean(item, 0),
            _mean(item, 1),
            _number(item, item.difference),
            _range(item, item.interval),
            _range(item, item.bootstrap),
            f"±{_number(item, item.margin).lstrip('+')}",
            item.verdict,
        ]
        for item in judgements
    ]
    return "\n".join(table(QUANTITIES, rows))


def _mean(item: Judgement, side: int) -> str:
    scale = _scale(item)
    deviation = item.deviations[side]
    spread = "" if np.isnan(deviation) else f" ± {scale * deviation:.3f}"
    return f"{scale * item.means[side]:.3f}{spread}"


def _range(item: Judgement, interval: tuple[float, float]) -> str:
    return " … ".join(_number(item, value) for value in interval)


def _number(item: Judgement, value: float) -> str:
    return f"{_scale(item) * value:+.3f}"


def _scale(item: Judgement) -> float:
    return 100.0 if item.name.startswith(SHARES) else 1.0


def certificate_picture(certificates: Sequence[Certificate]) -> bytes:
    """Return test accuracy over seeds, a row a design and a dot a run, as a PNG."""
    shown = [item for item in certificates if item.values[0]]
    figure = Figure(figsize=(8, 1.2 + 0.9 * max(1, len(shown))), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for row, item in enumerate(shown):
        for side, color in enumerate((BLUE, VERMILLION)):
            values = 100 * np.asarray(item.values[side])
            height = row + (0.17 if side else -0.17)
            scatter = 0.1 * np.random.default_rng(0).uniform(-1, 1, len(values))
            axis.plot(values, height + scatter, ".", color=color, alpha=0.6, markersize=5)
            axis.plot([values.mean()], [height], "|", color=color, markersize=22)
    axis.set_yticks(range(len(shown)), [item.design for item in shown])
    axis.invert_yaxis()
    axis.set_xlabel("test accuracy, % (a dot a run, a bar the mean)")
    for name, color in (("reference", BLUE), ("suspect", VERMILLION)):
        axis.plot([], [], ".", color=color, label=name)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    clear_frame(axis, grid="x")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
