"""How a comparison is shown: `comparison.md`, the tables on the screen, and the pictures."""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ladder.files import write_json, write_text
from pipeline.environment import told_commit
from pipeline.launch import Outcome
from pipeline.plots import pictures
from pipeline.record import Record, series
from reporting.comparison import (
    GAP_OPENS_ABOVE,
    Comparison,
    DropoutEffect,
    Run,
    change,
    to_json,
)
from reporting.markdown import table

PAGE, DATA = "comparison.md", "comparison.json"
PICTURES = {
    "accuracy.png": "Accuracy by epoch",
    "loss.png": "Loss by epoch",
    "gap.png": "Train–validation gap by epoch, base and dropout",
    "per_class.png": "Change of each class's recall by dropout",
}
NONE = "–"
OTHER_DEVICE = "≠ device"
"""Stands for the ratio of times on two devices, which says nothing of the engines."""

Rows = list[list[str]]

NAME_COLUMNS = ("engine", "variant", "device")
RESULT_COLUMNS = (
    "engine", "variant", "device", "train\naccur.", "valid.\naccur.", "test\naccur.",
    "train\nloss", "valid.\nloss", "test\nloss", "in\nrange",
)  # fmt: skip
COST_COLUMNS = ("engine", "variant", "device", "parameters", "s/epoch", "images/s", "memory")
DIFFERENCE_COLUMNS = (
    "variant", "engines", "train\naccur.", "valid.\naccur.", "test\naccur.", "test\nloss",
    "time", "same\nlabel",
)  # fmt: skip
EFFECT_COLUMNS = ("engine", "", "base", "dropout", "change")


def render_markdown(comparison: Comparison) -> str:
    """Return `comparison.md`: the same comparison always gives the same text."""
    sections = [
        "# Comparison",
        _setting(comparison),
        "## Results",
        _markdown_table(RESULT_COLUMNS, result_rows(comparison)),
        _result_notes(comparison),
        "## Cost",
        _markdown_table(COST_COLUMNS, cost_rows(comparison)),
        "Seconds an epoch: median, validation included. Images/s: training images over that. "
        "Memory: the process's largest resident size.",
    ]
    if comparison.differences:
        sections += ["## Differences between engines", _difference_section(comparison)]
    if comparison.dropout_effects:
        sections += ["## Overfitting, and what dropout did", _effect_section(comparison)]
    if any(run.reason is None for run in comparison.runs):
        pictures = pictures_of(comparison)
        sections += [f"![{PICTURES[name]}]({name})" for name in pictures]
    return "\n\n".join(sections) + "\n"


def readme_table(comparison: Comparison) -> str:
    """Return the table of results and cost in one, with the command and the machine."""
    costs = cost_rows(comparison)
    rows = [
        [*results[:6], *results[8:], *cost[3:]]
        for results, cost in zip(result_rows(comparison), costs, strict=True)
    ]
    columns = [*RESULT_COLUMNS[:6], *RESULT_COLUMNS[8:], *COST_COLUMNS[3:]]
    return f"{_markdown_table(columns, rows)}\n\n{_setting(comparison)}"


def tables(comparison: Comparison) -> list[Table]:
    """Return the tables for a terminal of 80 columns."""
    shown = [
        _table("Results of the last epoch", RESULT_COLUMNS, result_rows(comparison)),
        _table("Cost", COST_COLUMNS, cost_rows(comparison)),
    ]
    if comparison.differences:
        rows = difference_rows(comparison)
        shown.append(_table("Second engine minus first", DIFFERENCE_COLUMNS, rows))
    if comparison.dropout_effects:
        shown.append(_table("What dropout did", EFFECT_COLUMNS, effect_rows(comparison)))
    return shown


def write_comparison(output_dir: Path, comparison: Comparison, outcomes: Sequence[Outcome]) -> Path:
    """Write `comparison.json`, the pictures and `comparison.md`; return the last one's path."""
    write_json(output_dir / DATA, to_json(comparison))
    for name in PICTURES:
        for earlier in pictures(output_dir / name):
            earlier.unlink(missing_ok=True)
    write_pictures(output_dir, comparison, outcomes)
    write_text(output_dir / PAGE, render_markdown(comparison))
    return output_dir / PAGE


def pictures_of(comparison: Comparison) -> list[str]:
    """Return the names of the pictures that a comparison has."""
    if comparison.dropout_effects:
        return list(PICTURES)
    return list(PICTURES)[:2] if any(run.reason is None for run in comparison.runs) else []


def write_pictures(output_dir: Path, comparison: Comparison, outcomes: Sequence[Outcome]) -> None:
    """Draw the pictures of a comparison whose outcomes these are."""
    from pipeline.plots import plot_curves
    from reporting.pictures import plot_class_changes

    pictures = pictures_of(comparison)
    for metric in ("accuracy", "loss"):
        if f"{metric}.png" in pictures:
            plot_curves(output_dir / f"{metric}.png", _curves(outcomes, metric), metric)
    if "gap.png" in pictures:
        plot_curves(
            output_dir / "gap.png",
            _gap_curves(comparison),
            "gap",
            line_names=("base", "dropout"),
            share_y=False,
        )
        class_names = comparison.dataset["class_names"]
        changes = {
            effect.engine: _changes_by_class(effect, class_names)
            for effect in comparison.dropout_effects
        }
        plot_class_changes(output_dir / "per_class.png", changes, class_names)


def result_rows(comparison: Comparison) -> Rows:
    """Return the cells of the table of results; a failed run's first number says so."""
    numbers: tuple[Callable[[Run], float | None], ...] = (
        lambda run: run.train_accuracy,
        lambda run: run.validation_accuracy,
        lambda run: run.test_accuracy,
        lambda run: run.train_loss,
        lambda run: run.validation_loss,
        lambda run: run.test_loss,
    )
    words = {True: "yes", False: "NO", None: NONE}
    return [
        [
            run.engine,
            run.variant,
            run.device or NONE,
            *(_failed(run) or [*(_number(get(run)) for get in numbers), words[run.is_in_range]]),
        ]
        for run in comparison.runs
    ]


def cost_rows(comparison: Comparison) -> Rows:
    """Return the cells of the table of cost."""
    return [
        [
            run.engine,
            run.variant,
            run.device or NONE,
            *(
                _failed(run, len(COST_COLUMNS) - len(NAME_COLUMNS))
                or [
                    f"{run.parameters:,}",
                    f"{run.epoch_seconds:.2f}",
                    f"{run.images_per_second:,.0f}",
                    _memory(run),
                ]
            ),
        ]
        for run in comparison.runs
    ]


def difference_rows(comparison: Comparison) -> Rows:
    """Return the cells of the table of differences between engines."""
    return [
        [
            item.variant,
            f"{item.second}\n− {item.first}",
            _signed(item.train_accuracy),
            _signed(item.validation_accuracy),
            _signed(item.test_accuracy),
            _signed(item.test_loss),
            OTHER_DEVICE
            if item.epoch_seconds_ratio is None
            else f"×{item.epoch_seconds_ratio:.2f}",
            f"{item.agreement:.2%}",
        ]
        for item in comparison.differences
    ]


def effect_rows(comparison: Comparison) -> Rows:
    """Return the cells of the table of what dropout changed."""
    return [row for effect in comparison.dropout_effects for row in _effect_rows(effect)]


def _effect_rows(effect: DropoutEffect) -> Rows:
    numbers = {
        "test accuracy": effect.test_accuracy,
        "test loss": effect.test_loss,
        "accuracy gap": effect.accuracy_gap,
        "loss gap": effect.loss_gap,
    }
    rows = []
    for name, (before, after) in numbers.items():
        shown = _number(before), _number(after), _signed(change(before, after))
        rows.append([effect.engine, name, *shown])
    opens = ["never" if epoch is None else str(epoch) for epoch in effect.gap_opens]
    best = [NONE if epoch is None else str(epoch) for epoch in effect.best_epoch]
    return [
        *rows,
        [effect.engine, "gap opens, epoch", *opens, ""],
        [effect.engine, "best valid. loss, epoch", *best, ""],
    ]


def _setting(comparison: Comparison) -> str:
    machine = comparison.machine
    dataset = comparison.dataset
    counts = ", ".join(
        f"{dataset[name]:,} {name}" for name in ("train", "validation", "test") if name in dataset
    )
    versions = ", ".join(f"{name} {item}" for name, item in comparison.versions.items() if item)
    settings = ", ".join(f"{name} {item}" for name, item in comparison.settings.items())
    memory = machine["memory_bytes"] / 2**30
    return "\n".join(
        [
            "```",
            shlex.join(comparison.command),
            "```",
            "",
            f"- data: {dataset['name']} ({counts})",
            f"- settings: {settings}",
            f"- machine: {machine['cpu']}, {machine['cores']} cores, {memory:.0f} GiB, "
            f"{machine['platform']}",
            f"- versions: Python {machine['python']}, {versions}{told_commit(machine)}",
        ]
    )


def _result_notes(comparison: Comparison) -> str:
    lines = [
        "Metrics are those of the last epoch. Train metrics are the mean over the epoch's batches "
        "as they were trained on, so with dropout at work; validation and test are without."
    ]
    for run in comparison.runs:
        name = f"{run.engine}, {run.variant}"
        if run.reason is not None:
            lines.append(f"- {name} failed: {' '.join(run.reason.split())}")
        elif run.expected is None:
            lines.append(f"- {name}: no range stated for this data, recipe and number of epochs")
        else:
            low, high = run.expected
            verdict = "in" if run.is_in_range else "**outside**"
            lines.append(
                f"- {name}: test accuracy {_number(run.test_accuracy)} is {verdict} "
                f"its expected range {low:.3f}–{high:.3f}"
            )
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _difference_section(comparison: Comparison) -> str:
    shown = _markdown_table(DIFFERENCE_COLUMNS, difference_rows(comparison))
    return (
        f"{shown}\n\nTime: seconds an epoch, second divided by first; {OTHER_DEVICE} where they "
        "ran on different devices, whose times are not compared. Same label: share of the "
        "test images to which both give the same class."
    )


def _effect_section(comparison: Comparison) -> str:
    sections = [
        _markdown_table(EFFECT_COLUMNS, effect_rows(comparison)),
        "Accuracy gap: train minus validation accuracy; loss gap: validation minus train loss; "
        "both at the last epoch. The gap opens at the first epoch from which on, to the last, "
        f"train accuracy exceeds validation accuracy by more than {GAP_OPENS_ABOVE}.",
        "### Recall of each class on the test set",
    ]
    for effect in comparison.dropout_effects:
        rows = [
            [name, _number(before), _number(after), _signed(change(before, after))]
            for name, before, after in effect.recall
        ]
        sections += [effect.engine, _markdown_table(("class", "base", "dropout", "change"), rows)]
    sections += ["### The gap by epoch", _gap_table(comparison)]
    return "\n\n".join(sections)


def _gap_table(comparison: Comparison) -> str:
    runs = [run for run in comparison.runs if run.reason is None]
    columns = ["epoch"]
    for run in runs:
        columns += [f"{run.engine}, {run.variant}: accuracy", "loss"]
    rows = []
    for place in range(max(len(run.accuracy_gaps) for run in runs)):
        row = [str(place + 1)]
        for run in runs:
            for gaps in (run.accuracy_gaps, run.loss_gaps):
                row.append(_signed(gaps[place]) if place < len(gaps) else NONE)
        rows.append(row)
    return _markdown_table(columns, rows)


def _curves(outcomes: Sequence[Outcome], metric: str) -> dict[str, list[Any]]:
    from pipeline.plots import Curve

    panels: dict[str, list[Any]] = {}
    for record in _records(outcomes):
        curve = Curve(record.engine, series(record, metric), series(record, f"val_{metric}"))
        panels.setdefault(record.variant, []).append(curve)
    return panels


def _gap_curves(comparison: Comparison) -> dict[str, list[Any]]:
    from pipeline.plots import Curve

    runs = {(run.engine, run.variant): run for run in comparison.runs}
    titles = {
        "accuracy: train − validation": "accuracy_gaps",
        "loss: validation − train": "loss_gaps",
    }

    def gaps(engine: str, variant: str, name: str) -> list[float]:
        values = getattr(runs[engine, variant], name)
        return [math.nan if value is None else value for value in values]

    return {
        title: [
            Curve(engine, gaps(engine, "base", name), gaps(engine, "dropout", name))
            for engine in (effect.engine for effect in comparison.dropout_effects)
        ]
        for title, name in titles.items()
    }


def _changes_by_class(effect: DropoutEffect, class_names: Sequence[str]) -> list[float]:
    changes = {name: change(before, after) or 0.0 for name, before, after in effect.recall}
    return [changes[name] for name in class_names]


def _records(outcomes: Sequence[Outcome]) -> list[Record]:
    return [outcome.record for outcome in outcomes if outcome.record is not None]


def _table(title: str, columns: Sequence[str], rows: Rows) -> Table:
    shown = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0)
    numbers = _numbers(columns)
    for place, column in enumerate(columns):
        # On a narrow terminal names are folded before numbers, and nothing is cut off.
        width = max(len(row[place]) for row in rows) if place in numbers else None
        justify = "right" if place in numbers else "left"
        shown.add_column(column, justify=justify, overflow="fold", min_width=width)  # type: ignore[arg-type]
    for row in rows:
        shown.add_row(*row)
    return shown


def _markdown_table(columns: Sequence[str], rows: Rows) -> str:
    return "\n".join(table(columns, rows, numbers=_numbers(columns)))


def _numbers(columns: Sequence[str]) -> list[int]:
    """Return the places of the columns that hold numbers."""
    return [place for place in range(2, len(columns)) if columns[place] not in NAME_COLUMNS]


def _failed(run: Run, num_cells: int = len(RESULT_COLUMNS) - len(NAME_COLUMNS)) -> list[str] | None:
    return None if run.reason is None else ["failed", *[NONE] * (num_cells - 1)]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.4f}"


def _memory(run: Run) -> str:
    text = NONE if run.peak_memory_bytes is None else f"{run.peak_memory_bytes / 2**30:.2f} GiB"
    if run.peak_device_memory_bytes is not None:
        text += f" + {run.peak_device_memory_bytes / 2**30:.2f} GPU"
    return text
