"""The parts of the page that set both implementations' numbers side by side."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import UsageError
from tutorial.notebooks import Notebook, notebook_code, outputs_of
from tutorial.page import FRAMEWORKS

RESULTS = "results"
"""The step that prints a line of numbers for each variant, under a line of their names."""


@dataclass(frozen=True)
class Trained:
    """What a half says of one of its trainings."""

    impl: str
    variant: str
    numbers: Mapping[str, float]


def made_parts(notebooks: Mapping[str, Notebook]) -> dict[str, str]:
    """Return the made parts by name."""
    trained = [
        row
        for impl, notebook in notebooks.items()
        for row in read_results(impl, outputs_of(notebook)[RESULTS].text)
    ]
    trained.sort(key=lambda row: row.variant)
    return {
        "comparison": "\n".join([*_table(trained), "", *_overfitting(trained), *_apart(trained)]),
        "source": _source(notebooks),
    }


def read_results(impl: str, text: str) -> list[Trained]:
    """Read what the step of results printed.

    Raises:
        UsageError: a line has more or fewer words than the first.
    """
    head, *lines = [line.split() for line in text.splitlines() if line.strip()]
    for line in lines:
        if len(line) != len(head):
            raise UsageError(f"step `{RESULTS}` must print {head}; received {line}")
    return [
        Trained(impl, line[0], dict(zip(head[1:], map(float, line[1:]), strict=True)))
        for line in lines
    ]


def _table(trained: list[Trained]) -> list[str]:
    columns = {
        "accuracy": "train accur.", "val_accuracy": "valid. accur.", "val_loss": "valid. loss",
        "test_accuracy": "test accur.", "test_loss": "test loss",
    }  # fmt: skip
    return [
        "| network | half | " + " | ".join(columns.values()) + " |",
        "| --- | --- |" + " ---: |" * len(columns),
        *(
            f"| {row.variant} | {FRAMEWORKS[row.impl]} | "
            + " | ".join(f"{row.numbers[column]:.4f}" for column in columns)
            + " |"
            for row in trained
        ),
    ]


def _overfitting(trained: list[Trained]) -> list[str]:
    return [
        f"- {row.variant}, {FRAMEWORKS[row.impl]}: validation loss was lowest in epoch "
        f"{row.numbers['best_epoch']:.0f} of {row.numbers['epochs']:.0f}; in the last, training "
        f"accuracy was {_points(row.numbers['accuracy'] - row.numbers['val_accuracy'])} "
        "validation accuracy."
        for row in trained
    ]


def _points(difference: float) -> str:
    return f"{abs(100 * difference):.2f} points {'above' if difference > 0 else 'below'}"


def _apart(trained: list[Trained]) -> list[str]:
    """Say how far the implementations' test accuracies are apart, in points."""
    lines = []
    for variant in sorted({row.variant for row in trained}):
        first, second = (row.numbers for row in trained if row.variant == variant)
        apart = abs(first["test_accuracy"] - second["test_accuracy"])
        lines.append(
            f"- {variant}: the implementations' test accuracies are {100 * apart:.2f} points apart."
        )
    return lines


def _source(notebooks: Mapping[str, Notebook]) -> str:
    made = next(iter(notebooks.values())).metadata["made"]
    code = next(iter(notebook_code(notebooks[impl])["settings"] for impl in notebooks))
    settings = ", ".join(line for line in code.splitlines() if " = " in line)
    machine, packages = made["machine"], made["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    return (
        f"`make tutorial`, each network trained once (n = 1) with `{settings}`; {machine['cpu']}, "
        f"{machine['cores']} cores; Python {machine['python']}, {versions}."
    )
