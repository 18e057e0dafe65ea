"""How a comparison is shown: `comparison.md`, the tables on the screen, and the pictures."""

import dataclasses
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from rich import box
from rich.table import Table

from ladder.files import write_json, write_text
from pipeline.launch import Outcome
from pipeline.origin import told_commit
from pipeline.plots import Curve, pictures, plot_curves
from pipeline.record import series
from reporting.comparison import DATA, GAP_OPENS_ABOVE, Comparison, DropoutEffect, Run, change
from reporting.markdown import table
from reporting.pictures import plot_class_changes
from reporting.wording import versions

PAGE = "comparison.md"
PICTURES = {
    "accuracy.png": "Accuracy by epoch",
    "loss.png": "Loss by epoch",
    "gap.png": "Train–validation gap by epoch, base and dropout",
    "per_class.png": "Change of each class's recall by dropout",
}
NONE = "–"
OTHER_DEVICE = "≠ device"
"""Stands for the ratio of times on two devices, which says nothing of the engines."""

PARTS = ("train", "validation", "test")
NAMES = ("engine", "variant", "device")


@dataclass(frozen=True)
class Grid:
    """A table, shown as Markdown and on the screen."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    """Of the screen's alone."""

    @property
    def numbers(self) -> list[int]:
        """Return the places of the columns that hold numbers."""
        return [n for n, name in enumerate(self.columns) if n >= 2 and name not in NAMES]

    def markdown(self) -> str:
        """Return the table's lines."""
        return "\n".join(table(self.columns, self.rows, numbers=self.numbers))

    def on_screen(self) -> Table:
        """Return the table for a terminal of 80 columns."""
        shown = Table(title=self.title, title_justify="left", box=box.SIMPLE, padding=0)
        for place, column in enumerate(self.columns):
            if place in self.numbers:
                # On a narrow terminal names are folded before numbers, and nothing is cut off.
                width = max(len(row[place]) for row in self.rows)
                shown.add_column(column, justify="right", overflow="fold", min_width=width)
            else:
                shown.add_column(column, overflow="fold")
        for row in self.rows:
            shown.add_row(*row)
        return shown


def render_markdown(comparison: Comparison) -> str:
    """Return `comparison.md`: the same comparison always gives the same text."""
    sections = [
        "# Comparison",
        _setting(comparison),
        "## Results",
        results(comparison).markdown(),
        _result_notes(comparison),
        "## Cost",
        costs(comparison).markdown(),
        "Seconds an epoch: median, validation included. Images/s: training images over that. "
        "Memory: the process's largest resident size.",
    ]
    if comparison.differences:
        sections += [
            "## Differences between engines",
            differences(comparison).markdown(),
            f"Time: seconds an epoch, second divided by first; {OTHER_DEVICE} where they ran on "
            "different devices, whose times are not compared. Same label: share of the test images "
            "to which both give the same class.",
        ]
    if comparison.dropout_effects:
        sections += ["## Overfitting, and what dropout did", *_effect_sections(comparison)]
    sections += [f"![{PICTURES[name]}]({name})" for name in pictures_of(comparison)]
    return "\n\n".join(sections) + "\n"


def readme_table(comparison: Comparison) -> str:
    """Return the table of results and cost in one, with the command and the machine."""
    one, other = results(comparison), costs(comparison)
    columns = [*one.columns[:6], *one.columns[8:], *other.columns[3:]]
    rows = [
        [*left[:6], *left[8:], *right[3:]] for left, right in zip(one.rows, other.rows, strict=True)
    ]
    return f"{Grid(columns, rows).markdown()}\n\n{_setting(comparison)}"


def tables(comparison: Comparison) -> list[Table]:
    """Return the tables for a terminal of 80 columns."""
    shown = [make(comparison) for make in (results, costs, differences, effects)]
    return [grid.on_screen() for grid in shown if grid.rows]


def write_comparison(output_dir: Path, comparison: Comparison, outcomes: Sequence[Outcome]) -> Path:
    """Write `comparison.json`, the pictures and `comparison.md`; return the last one's path."""
    write_json(output_dir / DATA, dataclasses.asdict(comparison))
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
    pictures = pictures_of(comparison)
    for metric in ("accuracy", "loss"):
        panels: dict[str, list[Curve]] = {}
        for record in (outcome.record for outcome in outcomes if outcome.record is not None):
            curve = Curve(record.engine, series(record, metric), series(record, f"val_{metric}"))
            panels.setdefault(record.variant, []).append(curve)
        if f"{metric}.png" in pictures:
            plot_curves(output_dir / f"{metric}.png", panels, metric)
    if "gap.png" not in pictures:
        return
    runs = {(run.engine, run.variant): run for run in comparison.runs}

    def gaps(effect: DropoutEffect, name: str) -> Curve:
        base, dropout = (
            [math.nan if gap is None else gap for gap in getattr(runs[effect.engine, of], name)]
            for of in ("base", "dropout")
        )
        return Curve(effect.engine, base, dropout)

    titles = {
        "accuracy: train − validation": "accuracy_gaps",
        "loss: validation − train": "loss_gaps",
    }
    panels = {
        title: [gaps(effect, name) for effect in comparison.dropout_effects]
        for title, name in titles.items()
    }
    path, names = output_dir / "gap.png", ("base", "dropout")
    plot_curves(path, panels, "gap", line_names=names, share_y=False)
    changes: dict[str, list[float]] = {}
    class_names = comparison.dataset["class_names"]
    for effect in comparison.dropout_effects:
        found = {name: change(before, after) or 0.0 for name, before, after in effect.recall}
        changes[effect.engine] = [found[name] for name in class_names]
    plot_class_changes(output_dir / "per_class.png", changes, class_names)


def results(comparison: Comparison) -> Grid:
    """Return the table of results; a failed run's first number says so."""
    words = {True: "yes", False: "NO", None: NONE}

    def cells(run: Run) -> list[str]:
        metrics = [f"{part}_{metric}" for metric in ("accuracy", "loss") for part in PARTS]
        return [*(_number(getattr(run, name)) for name in metrics), words[run.is_in_range]]

    columns = (
        "train\naccur.", "valid.\naccur.", "test\naccur.", "train\nloss", "valid.\nloss",
        "test\nloss", "in\nrange",
    )  # fmt: skip
    return _grid(comparison, columns, cells, "Results of the last epoch")


def costs(comparison: Comparison) -> Grid:
    """Return the table of cost."""

    def cells(run: Run) -> list[str]:
        memory = f"{(run.peak_memory_bytes or 0) / 2**30:.2f} GiB"
        if run.peak_device_memory_bytes is not None:
            memory += f" + {run.peak_device_memory_bytes / 2**30:.2f} GPU"
        seconds, images = f"{run.epoch_seconds:.2f}", f"{run.images_per_second:,.0f}"
        return [f"{run.parameters:,}", seconds, images, memory]

    return _grid(comparison, ("parameters", "s/epoch", "images/s", "memory"), cells, "Cost")


def _grid(
    comparison: Comparison, columns: Sequence[str], cells: Callable[[Run], list[str]], title: str
) -> Grid:
    failed = ["failed", *[NONE] * (len(columns) - 1)]
    rows = [
        [
            run.engine,
            run.variant,
            run.device or NONE,
            *(cells(run) if run.reason is None else failed),
        ]
        for run in comparison.runs
    ]
    return Grid((*NAMES, *columns), rows, title)


def differences(comparison: Comparison) -> Grid:
    """Return the table of differences between engines."""
    rows = [
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
    columns = (
        "variant", "engines", "train\naccur.", "valid.\naccur.", "test\naccur.", "test\nloss",
        "time", "same\nlabel",
    )  # fmt: skip
    return Grid(columns, rows, "Second engine minus first")


def effects(comparison: Comparison) -> Grid:
    """Return the table of what dropout changed."""
    rows = []
    for effect in comparison.dropout_effects:
        for name in ("test_accuracy", "test_loss", "accuracy_gap", "loss_gap"):
            rows.append([effect.engine, name.replace("_", " "), *_moved(*getattr(effect, name))])
        opens = ["never" if epoch is None else str(epoch) for epoch in effect.gap_opens]
        best = [NONE if epoch is None else str(epoch) for epoch in effect.best_epoch]
        rows.append([effect.engine, "gap opens, epoch", *opens, ""])
        rows.append([effect.engine, "best valid. loss, epoch", *best, ""])
    return Grid(("engine", "", "base", "dropout", "change"), rows, "What dropout did")


def _moved(before: float | None, after: float | None) -> list[str]:
    return [_number(before), _number(after), _signed(change(before, after))]


def _setting(comparison: Comparison) -> str:
    machine = comparison.machine
    dataset = comparison.dataset
    counts = ", ".join(f"{dataset[name]:,} {name}" for name in PARTS if name in dataset)
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
            f"- versions: Python {machine['python']}, {versions(comparison.versions)}"
            f"{told_commit(machine)}",
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


def _effect_sections(comparison: Comparison) -> list[str]:
    sections = [
        effects(comparison).markdown(),
        "Accuracy gap: train minus validation accuracy; loss gap: validation minus train loss; "
        "both at the last epoch. The gap opens at the first epoch from which on, to the last, "
        f"train accuracy exceeds validation accuracy by more than {GAP_OPENS_ABOVE}.",
        "### Recall of each class on the test set",
    ]
    for effect in comparison.dropout_effects:
        rows = [[name, *_moved(before, after)] for name, before, after in effect.recall]
        recalls = Grid(("class", "base", "dropout", "change"), rows)
        sections += [effect.engine, recalls.markdown()]
    runs = [run for run in comparison.runs if run.reason is None]
    columns = ["epoch"]
    for run in runs:
        columns += [f"{run.engine}, {run.variant}: accuracy", "loss"]
    gaps = zip_longest(*(own for run in runs for own in (run.accuracy_gaps, run.loss_gaps)))
    rows = [[str(epoch), *map(_signed, values)] for epoch, values in enumerate(gaps, 1)]
    return [*sections, "### The gap by epoch", Grid(columns, rows).markdown()]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.4f}"
