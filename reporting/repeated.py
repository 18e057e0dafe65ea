"""What follows from repeated measurements: medians, spreads, and paired ratios with intervals."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9_999


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles, of `n` processes."""

    median: float
    lower: float
    upper: float
    n: int


@dataclass(frozen=True)
class Ratio:
    """How many times faster, the median over rounds, with a bootstrap interval where n > 1."""

    median: float
    low: float | None
    high: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of `values`.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    lower, median, upper = np.percentile(values, (25, 50, 75))
    return Spread(float(median), float(lower), float(upper), len(values))


def paired_ratio(baseline: Sequence[float], seconds: Sequence[float]) -> Ratio:
    """Return baseline over seconds, paired by round: above 1 is faster.

    Raises:
        ValueError: the two have other lengths, or none.
    """
    ratios = [base / own for base, own in zip(baseline, seconds, strict=True)]
    if not ratios:
        raise ValueError("no values")
    median = statistics.median(ratios)
    if len(ratios) == 1:
        return Ratio(median, None, None, 1)
    interval = stats.bootstrap(
        (ratios,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Ratio(median, float(interval.low), float(interval.high), len(ratios))
