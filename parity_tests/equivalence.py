"""Do two implementations learn equally well? Tests over seeds that can say yes, no, and neither.

Equivalence is shown by two one-sided tests (Schuirmann 1987): the null hypothesis is that the means
differ by the margin or more, so few or scattered seeds give no certificate. The interval shown with
a verdict at level α is the one with confidence 1 − 2α, which lies within the margin exactly where
both tests reject (up to the bootstrap's own approximation, which is shown beside it).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, Any]

EQUIVALENT, DIFFERENT, UNDECIDED = "equivalent", "not equivalent", "undecided"
RESAMPLES = 9_999
NUM_BINS = 15
"""Bins of the calibration error, the number of Guo et al. 2017."""
MIN_SEEDS = 3
"""Below it a spread means nothing."""


@dataclass(frozen=True)
class Judgement:
    """What the seeds say of one quantity."""

    name: str
    margin: float
    """Largest difference of means that is called equal, in the quantity's own unit."""
    n: int
    """Seeds of each implementation; of the smaller group where they are not paired."""
    means: tuple[float, float]
    deviations: tuple[float, float]
    """Standard deviations over seeds, n − 1 in the denominator."""
    difference: float
    """Mean of the suspect minus mean of the reference."""
    interval: tuple[float, float]
    """Of the difference, from Student's t, with confidence 1 − 2 · level."""
    bootstrap: tuple[float, float]
    """The same by the bias-corrected, accelerated bootstrap."""
    p_value: float
    """The larger of the two one-sided tests'; below the level the two are equivalent."""
    verdict: str


def judge(
    name: str,
    reference: Sequence[float],
    suspect: Sequence[float],
    *,
    margin: float,
    level: float,
    is_paired: bool,
) -> Judgement:
    """Judge whether the means of two samples over seeds, each (n,), differ by less than `margin`.

    `is_paired`: the same position is the same seed, and so the same first weights and order.
    'not equivalent' needs an interval that lies outside the margin wholly; all between is
    'undecided'.

    Raises:
        ValueError: fewer than three seeds, pairs that are none, or a value that is not finite.
    """
    first, second = (np.asarray(values, np.float64) for values in (reference, suspect))
    _check(name, first, second, is_paired)
    difference = float(second.mean() - first.mean())
    p_value = float(_p_value(first, second, margin, is_paired))
    interval = _interval(first, second, 1 - 2 * level, is_paired)
    if p_value < level:
        verdict = EQUIVALENT
    elif interval[0] >= margin or interval[1] <= -margin:
        verdict = DIFFERENT
    else:
        verdict = UNDECIDED
    return Judgement(
        name=name,
        margin=margin,
        n=min(len(first), len(second)),
        means=(float(first.mean()), float(second.mean())),
        deviations=(float(first.std(ddof=1)), float(second.std(ddof=1))),
        difference=difference,
        interval=interval,
        bootstrap=_bootstrap(first, second, 1 - 2 * level, is_paired),
        p_value=p_value,
        verdict=verdict,
    )


def judge_spreads(
    name: str, reference: Sequence[float], suspect: Sequence[float], *, factor: float, level: float
) -> Judgement:
    """Judge whether standard deviations over seeds differ by less than `factor`.

    Brown and Forsythe's way of making spreads out of means: what is compared are the distances
    from each sample's median, and the logarithm of the ratio of their means.

    Raises:
        ValueError: as `judge`; or a sample does not spread at all.
    """
    first, second = (np.asarray(values, np.float64) for values in (reference, suspect))
    _check(name, first, second, is_paired=False)
    distances = [np.abs(values - np.median(values)) for values in (first, second)]
    if any(not distance.any() for distance in distances):
        raise ValueError(f"{name}: the values of one implementation are all the same")
    # The logarithm of a ratio of means by the delta method: a mean of distances over their mean is
    # 1, and its relative scatter is the scatter of the mean's logarithm.
    relative = [distance / distance.mean() for distance in distances]
    shift = math.log(distances[1].mean() / distances[0].mean())
    judged = judge(
        name,
        relative[0],
        relative[1] + shift,
        margin=math.log(factor),
        level=level,
        is_paired=False,
    )
    return replace(
        judged,
        means=(float(first.std(ddof=1)), float(second.std(ddof=1))),
        deviations=(math.nan, math.nan),
    )


def judge_churn(
    between: Sequence[float], within: Sequence[float], *, margin: float, level: float
) -> Judgement:
    """Judge whether two implementations disagree no more than two seeds of one do.

    `between` are shares of test images on which the two implementations' predictions differ, one a
    pair of runs; `within` the same for pairs of runs of one implementation. One-sided: to disagree
    less is no fault.

    Raises:
        ValueError: as `judge`.
    """
    judged = judge("churn", within, between, margin=margin, level=level, is_paired=False)
    first, second = np.asarray(within), np.asarray(between)
    p_value = float(
        stats.ttest_ind(second - margin, first, equal_var=False, alternative="less").pvalue
    )
    if p_value < level:
        verdict = EQUIVALENT
    else:
        verdict = DIFFERENT if judged.interval[0] >= margin else UNDECIDED
    return replace(judged, p_value=p_value, verdict=verdict)


def churn(first: Array, second: Array) -> float:
    """Return the share of samples whose predicted classes, each (N,), differ."""
    if first.shape != second.shape:
        raise ValueError(f"predictions of shapes {first.shape} and {second.shape}")
    return float(np.mean(first != second))


def calibration_error(probabilities: Array, labels: Array, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error of probabilities (N, C) against labels (N,), in [0, 1].

    The mean, over samples, of the distance between accuracy and mean confidence in each one's bin;
    bins are of equal width, closed on the right (Guo et al. 2017, equation 3).
    """
    confidence = probabilities.max(axis=1)
    is_correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=is_correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def rejection_rate(
    first: Array, second: Array, *, margin: float, level: float, is_paired: bool
) -> float:
    """Return how often the two one-sided tests say 'equivalent' of many samples, each (trials, n).

    Drawn with a difference of exactly the margin this is the size, which must not exceed the level;
    drawn with none it is the power.
    """
    return float(np.mean(_p_value(first, second, margin, is_paired) < level))


def _p_value(first: Array, second: Array, margin: float, is_paired: bool) -> Array:
    """Return the larger p-value of the two tests for samples (…, n); shape (…)."""
    difference = second.mean(-1) - first.mean(-1)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no spread: settled below
        if is_paired:
            still = np.ptp(second - first, axis=-1) == 0
            above = stats.ttest_1samp(second - first, -margin, axis=-1, alternative="greater")
            below = stats.ttest_1samp(second - first, margin, axis=-1, alternative="less")
        else:
            still = (np.ptp(first, axis=-1) == 0) & (np.ptp(second, axis=-1) == 0)
            welch = {"axis": -1, "equal_var": False}
            above = stats.ttest_ind(second + margin, first, alternative="greater", **welch)
            below = stats.ttest_ind(second - margin, first, alternative="less", **welch)
    certain = np.where(np.abs(difference) < margin, 0.0, 1.0)
    return np.where(still, certain, np.maximum(above.pvalue, below.pvalue))


def _interval(
    first: Array, second: Array, confidence: float, is_paired: bool
) -> tuple[float, float]:
    """Return Student's interval (Welch's where seeds are not paired) of the difference of means."""
    difference = float(second.mean() - first.mean())
    samples = (second - first,) if is_paired else (first, second)
    if all(np.ptp(sample) == 0 for sample in samples):
        return difference, difference
    test = (
        stats.ttest_1samp(second - first, 0)
        if is_paired
        else stats.ttest_ind(second, first, equal_var=False)
    )
    found = test.confidence_interval(confidence)
    return float(found.low), float(found.high)


def _bootstrap(
    first: Array, second: Array, confidence: float, is_paired: bool
) -> tuple[float, float]:
    """Return the BCa interval of the difference of means."""
    samples = (second - first,) if is_paired else (second, first)
    if all(np.ptp(sample) == 0 for sample in samples):
        difference = float(second.mean() - first.mean())
        return difference, difference

    def statistic(*parts: Array, axis: int = -1) -> Array:
        means = [part.mean(axis=axis) for part in parts]
        return means[0] if is_paired else means[0] - means[1]

    with warnings.catch_warnings():  # of few different values; the interval is then NaN
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            samples,
            statistic,
            confidence_level=confidence,
            n_resamples=RESAMPLES,
            method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return float(found.low), float(found.high)


def _check(name: str, first: Array, second: Array, is_paired: bool) -> None:
    if min(len(first), len(second)) < MIN_SEEDS:
        raise ValueError(
            f"{name}: at least {MIN_SEEDS} seeds are needed; "
            f"received {len(first)} and {len(second)}"
        )
    if is_paired and len(first) != len(second):
        raise ValueError(f"{name}: {len(first)} and {len(second)} values are no pairs")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(f"{name}: a value is not finite")
