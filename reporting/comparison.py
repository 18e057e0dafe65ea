"""What the records of several runs say beside each other.

Everything here is computed from records and predictions alone; `comparison_page` shows it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ladder.reading import built
from pipeline.datasets import FASHION_MNIST
from pipeline.errors import RunError
from pipeline.evaluation import evaluate_logits
from pipeline.launch import Outcome
from pipeline.recipe import VARIANTS, preset, recipe_to_dict
from pipeline.record import Record, device_of, series

DATA = "comparison.json"
SCHEMA = 1
GAP_OPENS_ABOVE = 0.02
"""Train minus validation accuracy from which on the gap counts as open."""

EXPECTED_TEST_ACCURACY: dict[tuple[str, int], tuple[float, float]] = {
    ("base", 1): (0.855, 0.905),
    ("dropout", 1): (0.820, 0.885),
    ("base", 5): (0.885, 0.925),
    ("dropout", 5): (0.885, 0.915),
    ("base", 20): (0.905, 0.925),
    ("dropout", 20): (0.915, 0.935),
}
"""By variant and epochs, for the default recipe (any seed) on Fashion-MNIST itself.

Of 5 epochs from the seeds' runs (docs/parity.md); of others from a few."""


@dataclass(frozen=True)
class Run:
    """One engine on one variant; all but the names and `reason` is None where it failed."""

    engine: str
    variant: str
    reason: str | None = None
    """Why there is no result."""
    device: str | None = None
    """`cpu`, or the GPU's name."""
    threads: str | None = None
    parameters: int | None = None
    num_epochs: int | None = None
    train_accuracy: float | None = None
    """Of the last epoch, like the three that follow; over its batches as they were trained on."""
    validation_accuracy: float | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    expected: tuple[float, float] | None = None
    """Range that the test accuracy must lie in; None where none is stated."""
    epoch_seconds: float | None = None
    """Median over the epochs, validation included."""
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None
    accuracy_gaps: tuple[float | None, ...] = ()
    """Train minus validation accuracy, by epoch."""
    loss_gaps: tuple[float | None, ...] = ()
    """Validation minus train loss, by epoch."""
    gap_opens: int | None = None
    """First epoch (from 1) from which on the accuracy gap stays above 0.02; None is never."""
    best_epoch: int | None = None
    """Epoch of the lowest validation loss."""

    @property
    def is_in_range(self) -> bool | None:
        """Return whether the test accuracy is as expected, None where no range is stated."""
        if self.expected is None or self.test_accuracy is None:
            return None
        low, high = self.expected
        return low <= self.test_accuracy <= high


@dataclass(frozen=True)
class Difference:
    """Two engines on one variant; each difference is the second's value minus the first's."""

    variant: str
    first: str
    second: str
    test_accuracy: float | None
    test_loss: float | None
    validation_accuracy: float | None
    train_accuracy: float | None
    epoch_seconds_ratio: float | None
    """The second's seconds an epoch divided by the first's; None where their machines differ."""
    agreement: float
    """Share of the test images to which both give the same class."""


@dataclass(frozen=True)
class DropoutEffect:
    """What dropout changed in one engine: each pair is (base, dropout)."""

    engine: str
    test_accuracy: tuple[float | None, float | None]
    test_loss: tuple[float | None, float | None]
    accuracy_gap: tuple[float | None, float | None]
    """At the last epoch, like `loss_gap`."""
    loss_gap: tuple[float | None, float | None]
    gap_opens: tuple[int | None, int | None]
    best_epoch: tuple[int | None, int | None]
    recall: tuple[tuple[str, float | None, float | None], ...]
    """Class and its recall in both, from the largest gain to the largest loss."""


@dataclass(frozen=True)
class Comparison:
    """All of it; `comparison.json`."""

    command: tuple[str, ...]
    dataset: dict[str, Any]
    """`name`, `fingerprint`, `class_names` and image counts."""
    machine: dict[str, Any]
    versions: dict[str, Any]
    settings: dict[str, Any]
    """Recipe and execution that all runs share."""
    runs: tuple[Run, ...]
    differences: tuple[Difference, ...]
    dropout_effects: tuple[DropoutEffect, ...]
    schema: int = SCHEMA


def compare(
    outcomes: Sequence[Outcome],
    *,
    command: Sequence[str],
    settings: dict[str, Any],
    dataset: dict[str, Any],
    environment: dict[str, Any],
) -> Comparison:
    """Compare the outcomes of runs that share data set and settings.

    Raises:
        RunError: the predictions of two runs are not of the same test images.
    """
    runs = tuple(map(run_of, outcomes))
    complete = [
        (outcome, run)
        for outcome, run in zip(outcomes, runs, strict=True)
        if outcome.record is not None
    ]
    for outcome, _ in complete[1:]:
        first, _ = complete[0]
        if not np.array_equal(outcome.labels, first.labels):
            raise RunError(
                f"{outcome.engine}, {outcome.variant} was tested on other images than "
                f"{first.engine}, {first.variant}"
            )
    of = {variant: [each for each in complete if each[1].variant == variant]
          for variant in VARIANTS}  # fmt: skip
    machine = dict(environment)
    return Comparison(
        command=tuple(command),
        dataset=dataset,
        versions=machine.pop("packages"),
        machine=machine,
        settings=settings,
        runs=runs,
        differences=tuple(
            _difference(first, second)
            for variant in VARIANTS
            for first, second in combinations(of[variant], 2)
        ),
        dropout_effects=tuple(
            _dropout_effect(base, dropout, dataset["class_names"])
            for base in of["base"]
            for dropout in of["dropout"]
            if dropout[1].engine == base[1].engine
        ),
    )


def run_of(outcome: Outcome) -> Run:
    """Return the cell of one outcome."""
    record = outcome.record
    if record is None:
        return Run(outcome.engine, outcome.variant, reason=outcome.reason)
    timing, history = record.timing, record.history
    validation_loss = series(record, "val_loss")
    accuracy_gaps = np.subtract(series(record, "accuracy"), series(record, "val_accuracy"))
    finite = [epoch for epoch, value in enumerate(validation_loss) if math.isfinite(value)]
    epoch_seconds = statistics.median(series(record, "seconds"))
    device_bytes = timing.get("peak_device_memory_bytes")
    return Run(
        engine=record.engine,
        variant=record.variant,
        device=device_of(record),
        threads=str(record.environment.get("threads", "")) or None,
        parameters=record.parameters,
        num_epochs=len(history),
        train_accuracy=history[-1]["accuracy"],
        validation_accuracy=history[-1]["val_accuracy"],
        train_loss=history[-1]["loss"],
        validation_loss=history[-1]["val_loss"],
        test_accuracy=record.test["accuracy"],
        test_loss=record.test["loss"],
        expected=expected_range(record),
        epoch_seconds=epoch_seconds,
        images_per_second=record.dataset["train"] / epoch_seconds,
        peak_memory_bytes=int(timing["peak_memory_bytes"]),
        peak_device_memory_bytes=None if device_bytes is None else int(device_bytes),
        accuracy_gaps=_nullable(accuracy_gaps),
        loss_gaps=_nullable(np.subtract(validation_loss, series(record, "loss"))),
        gap_opens=opening_epoch(accuracy_gaps.tolist()),
        best_epoch=1 + min(finite, key=validation_loss.__getitem__) if finite else None,
    )


def expected_range(record: Record) -> tuple[float, float] | None:
    """Return the range of a run's test accuracy, None where none is stated for such a run."""
    fields = {name: record.recipe[name] for name in ("num_epochs", "seed")}
    is_default = record.recipe == recipe_to_dict(preset(record.variant, **fields))
    if not is_default or record.dataset["name"] != FASHION_MNIST:
        return None
    return EXPECTED_TEST_ACCURACY.get((record.variant, record.recipe["num_epochs"]))


def opening_epoch(gaps: Sequence[float]) -> int | None:
    """Return the first epoch, from 1, from which on every gap is above 0.02; None is never."""
    closed = [epoch for epoch, gap in enumerate(gaps, 1) if not gap > GAP_OPENS_ABOVE]
    opens = closed[-1] + 1 if closed else 1
    return opens if opens <= len(gaps) else None


def problems(comparison: Comparison) -> list[str]:
    """Return what did not hold: runs that failed and accuracies out of range."""
    found = []
    for run in comparison.runs:
        name = f"{run.engine}, {run.variant}"
        if run.reason is not None:
            found.append(f"{name} failed: {run.reason}")
        elif run.is_in_range is False and run.expected is not None:
            low, high = run.expected
            found.append(
                f"{name}: test accuracy {run.test_accuracy:.4f} is not in {low:.3f}–{high:.3f}"
            )
    return found


def comparison_from_json(fields: Any) -> Comparison:
    """Build a comparison from its fields, as `comparison.json` holds them.

    Raises:
        RunError: another schema, or fields that are missing, unknown or of the wrong type.
    """
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise RunError(f"a comparison of schema {SCHEMA} is expected")
    try:
        return built(Comparison, fields, "comparison", is_whole=True)
    except ValueError as error:
        raise RunError(str(error)) from error


Complete = tuple[Outcome, Run]
"""A run that has a result, and its cell."""


def _difference(first: Complete, second: Complete) -> Difference:
    names = ("test_accuracy", "test_loss", "validation_accuracy", "train_accuracy")
    (one_outcome, one), (two_outcome, two) = first, second
    ratio = None
    records = one_outcome.record, two_outcome.record
    cpus = {record.environment.get("cpu") for record in records if record}
    if one.device == two.device and len(cpus) == 1 and one.epoch_seconds and two.epoch_seconds:
        ratio = two.epoch_seconds / one.epoch_seconds
    answers = [np.argmax(outcome.logits, axis=1) for outcome in (one_outcome, two_outcome)]
    return Difference(
        variant=one.variant,
        first=one.engine,
        second=two.engine,
        **{name: change(getattr(one, name), getattr(two, name)) for name in names},
        epoch_seconds_ratio=ratio,
        agreement=float(np.mean(answers[0] == answers[1])),
    )


def _dropout_effect(base: Complete, dropout: Complete, class_names: Sequence[str]) -> DropoutEffect:
    (_, before), (_, after) = base, dropout

    def pair(name: str) -> tuple[Any, Any]:
        return getattr(before, name), getattr(after, name)

    recalls = [_recalls(outcome, class_names) for outcome, _ in (base, dropout)]
    order = np.argsort(-np.nan_to_num(recalls[1] - recalls[0]), kind="stable")
    befores, afters = map(_nullable, recalls)
    return DropoutEffect(
        engine=before.engine,
        **{name: pair(name) for name in ("test_accuracy", "test_loss", "gap_opens", "best_epoch")},
        accuracy_gap=(before.accuracy_gaps[-1], after.accuracy_gaps[-1]),
        loss_gap=(before.loss_gaps[-1], after.loss_gaps[-1]),
        recall=tuple((class_names[place], befores[place], afters[place]) for place in order),
    )


def _recalls(outcome: Outcome, class_names: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return the share of each class's images that were found, NaN for a class without any."""
    confusion = evaluate_logits(outcome.logits, outcome.labels, class_names).confusion
    counts = confusion.sum(axis=1)
    recalls = np.full(len(class_names), math.nan)
    np.divide(np.diag(confusion), counts, out=recalls, where=counts > 0)
    return recalls


def _nullable(values: np.ndarray[Any, Any]) -> tuple[float | None, ...]:
    return tuple(float(value) if math.isfinite(value) else None for value in values)


def change(before: float | None, after: float | None) -> float | None:
    """Return by how much a value has grown; None where one of the two is missing."""
    return None if before is None or after is None else after - before
