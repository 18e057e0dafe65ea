"""The certificate: what the runs over seeds say of each design."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from parity_tests.equivalence import (
    DIFFERENT,
    EQUIVALENT,
    MIN_SEEDS,
    UNDECIDED,
    Array,
    Judgement,
    churn,
    judge,
    judge_churn,
    judge_spreads,
    rejection_rate,
)
from parity_tests.seeds import COMPLETE, FAILED, Design, Plan, Row, matching, sides_of

TRIALS = 4_000
"""Simulated certificates; a rate of 0.9 is then known to 0.01."""
MOST_SEEDS = 500


@dataclass(frozen=True)
class Certificate:
    """What was found of one design."""

    design: str
    suspect: str
    reference: str
    variant: str
    num_epochs: int
    is_paired: bool
    is_planted: bool
    declared_seeds: int
    level: float
    machines: tuple[str, ...]
    """Machine classes; the two runs of a seed come from the same one."""
    versions: tuple[str, str]
    """Reference's and suspect's."""
    missing: int
    """Declared seeds that have not both runs."""
    failed: tuple[str, ...]
    """Runs that failed, with their reasons; one is enough that no certificate is given."""
    apart: int
    """Rows left out: without the other implementation's on the same machine class, or of other
    versions."""
    judgements: tuple[Judgement, ...]
    values: tuple[tuple[float, ...], tuple[float, ...]]
    """Test accuracy of each run judged, reference's and suspect's."""
    power: float | None
    """How often equal means would be certified with this many seeds of this spread."""
    seeds_needed: int | None
    """Seeds at which that is as often as the plan asks for."""
    verdict: str

    @property
    def holds(self) -> bool:
        """Return whether it says what it must: equivalent, or of a mutant anything else."""
        return (self.verdict == EQUIVALENT) != self.is_planted

    @property
    def sentence(self) -> str:
        """Return the answer in a sentence, with interval and n."""
        if self.failed:
            return f"{DIFFERENT}: {len(self.failed)} of the runs failed ({self.failed[0]})"
        if not self.judgements:
            return f"{UNDECIDED}: at least {MIN_SEEDS} seeds of each are needed"
        accuracy = self.judgements[0]
        low, high = (100 * value for value in accuracy.interval)
        sentence = (
            f"{accuracy.verdict} within {100 * accuracy.margin:.1f} points (difference "
            f"{100 * accuracy.difference:+.2f}, {100 - 200 * self.level:g} % interval "
            f"{low:+.2f} … {high:+.2f}, {accuracy.n} seeds)"
        )
        others = [item for item in self.judgements[1:] if item.verdict != EQUIVALENT]
        if self.missing:
            sentence = (
                f"{UNDECIDED}: {accuracy.n} of {self.declared_seeds} seeds; so far {sentence}"
            )
        if others:
            named = ", ".join(f"{item.name} {item.verdict}" for item in others[:4])
            more = f" and {len(others) - 4} more" if len(others) > 4 else ""
            sentence += f"; besides: {named}{more}"
        return sentence


def certify(plan: Plan, design: Design, rows: Sequence[Row]) -> Certificate:
    """Judge `design` by the rows that belong to it.

    A seed enters where both implementations have it on the same machine class. Of rows of several
    versions those with the most seeds are judged; all others are counted as `apart`.
    """
    sides = [
        [row for row in matching(rows, plan, engine, recipe) if row.seed < design.seeds]
        for engine, recipe in sides_of(plan, design)
    ]
    versions = _most_common_versions(*sides)
    chosen = [
        [row for row in side if row.versions == version]
        for side, version in zip(sides, versions, strict=True)
    ]
    both = _pairs(*chosen)
    failed = [
        f"{row.engine}, seed {row.seed}: {row.reason}"
        for side in chosen
        for row in side
        if row.status == FAILED
    ]
    pairs = [pair for pair in both if all(row.status == COMPLETE for row in pair)]
    judgements = judgements_of(plan, design, pairs) if len(pairs) >= MIN_SEEDS else ()
    accuracies = [tuple(pair[side].metrics["accuracy"] for pair in pairs) for side in (0, 1)]
    deviation = _deviation(accuracies, design.paired) if judgements else 0.0
    return Certificate(
        design=design.name,
        suspect=design.suspect,
        reference=plan.reference,
        variant=design.reference_recipe.variant,
        num_epochs=design.reference_recipe.num_epochs,
        is_paired=design.paired,
        is_planted=design.is_planted,
        declared_seeds=design.seeds,
        level=plan.level,
        machines=tuple(sorted({row.machine for pair in both for row in pair})),
        versions=versions,
        missing=design.seeds - len(both),
        failed=tuple(failed),
        apart=sum(map(len, sides)) - 2 * len(both),
        judgements=judgements,
        values=(accuracies[0], accuracies[1]),
        power=simulated_rate(plan, 0.0, deviation, len(pairs), is_paired=design.paired)
        if judgements
        else None,
        seeds_needed=seeds_for_power(plan, deviation, is_paired=design.paired)
        if judgements
        else None,
        verdict=_verdict(failed, judgements, design.seeds - len(both)),
    )


def judgements_of(
    plan: Plan, design: Design, pairs: Sequence[tuple[Row, Row]]
) -> tuple[Judgement, ...]:
    """Judge every declared quantity over the seeds of `pairs`; accuracy comes first."""
    names = list(pairs[0][0].metrics)
    found = []
    for name in names:
        values = [[pair[side].metrics[name] for pair in pairs] for side in (0, 1)]
        margin = plan.margins["recall" if name.startswith("recall ") else name]
        found.append(judge(name, *values, margin=margin, level=plan.level, is_paired=design.paired))
    accuracy = [[pair[side].metrics["accuracy"] for pair in pairs] for side in (0, 1)]
    if all(np.ptp(values) > 0 for values in accuracy):
        found.append(
            judge_spreads(
                "spread of accuracy", *accuracy, factor=plan.spread_factor, level=plan.level
            )
        )
    within = [
        churn(_predicted(first[side]), _predicted(second[side]))
        for first, second in zip(pairs[::2], pairs[1::2], strict=False)
        for side in (0, 1)
    ]
    between = [churn(*map(_predicted, pair)) for pair in pairs]
    if len(within) >= MIN_SEEDS:
        found.append(judge_churn(between, within, margin=plan.churn_margin, level=plan.level))
    return tuple(found)


def simulated_rate(
    plan: Plan, difference: float, deviation: float, n: int, *, is_paired: bool
) -> float:
    """Return how often `n` seeds are called equivalent whose true means differ by `difference`.

    Accuracies are drawn from the normal distribution, TRIALS times. `deviation` is that of the
    paired differences, or of each implementation's accuracies.
    """
    random = np.random.default_rng(n)
    first = np.zeros((TRIALS, n)) if is_paired else deviation * random.normal(size=(TRIALS, n))
    second = difference + deviation * random.normal(size=(TRIALS, n))
    return rejection_rate(
        first, second, margin=plan.margins["accuracy"], level=plan.level, is_paired=is_paired
    )


def seeds_for_power(plan: Plan, deviation: float, *, is_paired: bool) -> int | None:
    """Return the least seeds at which equal means are certified with the plan's power.

    By bisection over simulations; None where MOST_SEEDS are too few.
    """
    low, high = MIN_SEEDS - 1, MOST_SEEDS
    if simulated_rate(plan, 0.0, deviation, high, is_paired=is_paired) < plan.power:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = simulated_rate(plan, 0.0, deviation, middle, is_paired=is_paired) >= plan.power
        low, high = (low, middle) if enough else (middle, high)
    return high


def to_dict(certificate: Certificate) -> dict[str, Any]:
    """Return the certificate as plain values for JSON."""
    return {**dataclasses.asdict(certificate), "sentence": certificate.sentence}


def _pairs(reference: Iterable[Row], suspect: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Return one pair of runs a seed, each of one machine class, in the seeds' order."""
    first = {(row.seed, row.machine): row for row in reference}
    second = {(row.seed, row.machine): row for row in suspect}
    by_seed = {key[0]: (first[key], second[key]) for key in sorted(set(first) & set(second))}
    return [by_seed[seed] for seed in sorted(by_seed)]


def _most_common_versions(reference: Sequence[Row], suspect: Sequence[Row]) -> tuple[str, str]:
    """Return the versions of both that have the most seeds in common."""
    names = [sorted({row.versions for row in side}) or [""] for side in (reference, suspect)]
    return max(
        product(names[0], names[1]),
        key=lambda both: len(
            _pairs(
                (row for row in reference if row.versions == both[0]),
                (row for row in suspect if row.versions == both[1]),
            )
        ),
    )


def _deviation(accuracies: Sequence[Sequence[float]], is_paired: bool) -> float:
    first, second = map(np.asarray, accuracies)
    if is_paired:
        return float((second - first).std(ddof=1))
    return float(np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2))


def _predicted(row: Row) -> Array:
    assert row.predicted is not None  # a complete run's
    return row.predicted


def _verdict(failed: Sequence[str], judgements: Sequence[Judgement], missing: int) -> str:
    """Return the verdict; who looks before all declared seeds are there may stop at a lucky one."""
    verdicts = {item.verdict for item in judgements}
    if failed:
        return DIFFERENT
    if missing:
        return UNDECIDED
    if DIFFERENT in verdicts:
        return DIFFERENT
    return EQUIVALENT if verdicts == {EQUIVALENT} else UNDECIDED
