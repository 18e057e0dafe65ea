"""Distribution tests for first weights: whether two engines draw from one distribution, and which.

Every test has its share of one false-alarm rate (Bonferroni), so that a true port fails by chance
less often than stated, however many parameters it has.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from ladder.arrays import Array, Arrays
from ladder.compare import Difference

FALSE_ALARMS = 1e-6
"""Probability that any test of a comparison rejects though both sides draw alike."""
FIT_LEVEL = 1e-4
"""p-value below which a named distribution is not said to fit."""
FLOAT32_ROUNDING = 1e-6
"""Share by which a draw may lie beyond a limit that was rounded on the way."""
MOST_TESTED = 2**17
"""Values of a parameter that a distribution test takes, evenly spaced where there are more."""
SPREAD_ERRORS = 8.0
"""Standard errors by which the spread of draws may miss a distribution's before all else."""
TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal distribution cut off at ±2."""

Draws = Mapping[str, Sequence[Array]]
"""Each parameter's first weights, one array a seed."""


@dataclass(frozen=True)
class DrawFinding:
    """One way in which two sides' first weights are not of one distribution."""

    where: str
    check: str
    """`missing`, `shape`, `finite`, `zeros`, `distribution`, `bound` or `seeds`."""
    note: str
    p_value: float = 0.0
    """Probability of such a difference between equal distributions; 0 where it is certain."""


def draws_of(arrays: Arrays) -> dict[str, list[Array]]:
    """Return the draws `own.<seed>.<parameter>` of a trace by parameter; `own.` may be gone."""
    found: dict[str, list[tuple[int, Array]]] = {}
    for key, array in arrays.items():
        seed, _, name = key.removeprefix("own.").partition(".")
        if seed.isdigit() and name:
            found.setdefault(name, []).append((int(seed), array))
    return {
        name: [array for _, array in sorted(draws, key=lambda draw: draw[0])]
        for name, draws in found.items()
    }


def compare_draws(
    left: Draws, right: Draws, false_alarms: float = FALSE_ALARMS
) -> list[DrawFinding]:
    """Return how the first weights of two sides differ in distribution; [] where they agree.

    Checks, for each parameter: the same shapes; exact zeros where the other side has zeros; a
    two-sample Kolmogorov–Smirnov test; the largest |w| of uniform draws; seeds that differ.

    Raises:
        ValueError: there is nothing to compare, or `false_alarms` is not between 0 and 1.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(
            f"`false_alarms` must be between 0 and 1; received false_alarms={false_alarms!r}"
        )
    names = sorted(set(left) | set(right))
    if not names:
        raise ValueError("no first weights to compare")
    level = false_alarms / (2 * len(names))
    found: list[DrawFinding] = []
    for name in names:
        ours, theirs = left.get(name), right.get(name)
        if not ours or not theirs:
            side = "left" if not ours else "right"
            found.append(DrawFinding(name, "missing", f"no draws on the {side}"))
        else:
            found += _compare_parameter(name, ours, theirs, level)
    return found


def compare_initialisation(left: Arrays, right: Arrays) -> list[Difference]:
    """Compare two sides' draws, `<seed>.<parameter>` with or without `own.` before it.

    Raises:
        ValueError: there is nothing to compare.
    """
    ours, theirs = draws_of(left), draws_of(right)
    return [
        Difference(
            finding.where,
            name_distribution(ours.get(finding.where, ()), kernel_of(finding.where, ours)),
            name_distribution(theirs.get(finding.where, ()), kernel_of(finding.where, theirs)),
            f"{finding.check}: {finding.note}; p = {finding.p_value:.1e}",
        )
        for finding in compare_draws(ours, theirs)
    ]


def _compare_parameter(
    name: str, left: Sequence[Array], right: Sequence[Array], level: float
) -> list[DrawFinding]:
    shapes = sorted({draw.shape for draw in (*left, *right)})
    if len(shapes) > 1:
        return [DrawFinding(name, "shape", f"shapes {', '.join(map(str, shapes))}")]
    ours, theirs = _pooled(left), _pooled(right)
    if ours.size == 0:
        return [DrawFinding(name, "shape", f"no values in shape {shapes[0]}")]
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return [DrawFinding(name, "finite", "holds values that are not finite")]
    if _is_constant(ours) or _is_constant(theirs):
        return _compare_constants(name, ours, theirs)
    few = _few(ours), _few(theirs)
    found = [_kolmogorov_smirnov(name, *few, level), _bound(name, *few, level)]
    found += [_repeated_seed(name, side, draws) for side, draws in _sides(left, right)]
    return [finding for finding in found if finding is not None]


def _sides(left: Sequence[Array], right: Sequence[Array]) -> list[tuple[str, Sequence[Array]]]:
    return [("left", left), ("right", right)]


def _pooled(draws: Sequence[Array]) -> Array:
    return np.concatenate([np.asarray(draw, np.float64).ravel() for draw in draws])


def _few(values: Array) -> Array:
    return values[:: -(-values.size // MOST_TESTED)]


def _is_constant(values: Array) -> bool:
    return bool((values == values[0]).all())


def _compare_constants(name: str, left: Array, right: Array) -> list[DrawFinding]:
    if _is_constant(left) and _is_constant(right) and left[0] == right[0]:
        return []
    words = " against ".join(
        f"{values[0]:g} everywhere" if _is_constant(values) else f"up to {np.abs(values).max():.4g}"
        for values in (left, right)
    )
    return [DrawFinding(name, "zeros", words)]


def _kolmogorov_smirnov(name: str, left: Array, right: Array, level: float) -> DrawFinding | None:
    # The exact distribution takes long for these sizes and does not always come to an end.
    test = stats.ks_2samp(left, right, method="asymp")
    if test.pvalue > level:
        return None
    note = f"standard deviations {left.std():.4g} and {right.std():.4g}; the distribution "
    note += f"functions part by {test.statistic:.3g}"
    return DrawFinding(name, "distribution", note, float(test.pvalue))


def _bound(name: str, left: Array, right: Array, level: float) -> DrawFinding | None:
    """Compare the largest |w| of uniform draws: of n below L, none reaches x with (x/L)ⁿ."""
    limit = max(np.abs(left).max(), np.abs(right).max())
    if any(uniform_p_value(values, limit) <= level for values in (left, right)):
        return None  # not uniform, or no longer: the test of the distribution speaks
    lower, side = min((float(np.abs(values).max()), values.size) for values in (left, right))
    chance = (lower / limit) ** side
    if chance > level:
        return None
    note = f"largest |w| {np.abs(left).max():.6g} and {np.abs(right).max():.6g} of uniform draws"
    return DrawFinding(name, "bound", note, chance)


def _repeated_seed(name: str, side: str, draws: Sequence[Array]) -> DrawFinding | None:
    if any(np.array_equal(one, two) for one, two in combinations(draws, 2)):
        return DrawFinding(name, "seeds", f"two seeds give the same draw on the {side}")
    return None


def uniform_p_value(values: Array, limit: float) -> float:
    """Return the p-value of values under U(−limit, limit)."""
    return float(stats.kstest(values, stats.uniform(-limit, 2 * limit).cdf, method="asymp").pvalue)


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a canonical kernel (H, W, in, out) or (in, out)."""
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


def kernel_of(name: str, draws: Draws) -> tuple[int, ...] | None:
    """Return the shape of the kernel of a parameter's layer, None where it has none."""
    kernel = draws.get(f"{name.rpartition('.')[0]}.kernel")
    return tuple(kernel[0].shape) if kernel else None


def distributions(kernel_shape: Sequence[int] | None) -> dict[str, tuple[str, float]]:
    """Return the usual first distributions by name, as (`uniform` | `normal` | `truncated`, scale).

    The scale is a limit for uniform, a standard deviation else. Sources: Glorot and Bengio
    (2010); He et al. (2015); Keras's and torch's documentation. Keras cuts its normal draws off
    at two standard deviations, torch does not.
    """
    plain = {
        "random uniform ±0.05": ("uniform", 0.05),
        "random normal 0.05": ("normal", 0.05),
        "standard normal": ("normal", 1.0),
    }
    if kernel_shape is None:
        return plain
    fan_in, fan_out = fans(kernel_shape)
    variances = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}
    scaled: dict[str, tuple[str, float]] = {}
    for name, variance in variances.items():
        scaled[f"{name}_uniform"] = ("uniform", math.sqrt(3 * variance))
        scaled[f"{name}_normal"] = ("truncated", math.sqrt(variance))
        scaled[f"{name}_normal, not truncated"] = ("normal", math.sqrt(variance))
    # kaiming_uniform with a = √5 comes to 1/√fan_in.
    torch_default = {"torch's default U(±1/√fan_in)": ("uniform", 1 / math.sqrt(fan_in))}
    return {**scaled, **torch_default, **plain}


def fitting_distributions(
    draws: Sequence[Array], kernel_shape: Sequence[int] | None = None
) -> list[str]:
    """Return the names of the usual distributions that draws fit, the best first.

    `kernel_shape` is the canonical shape of the layer's kernel, which the fans are taken from; for
    a kernel itself it may be left out.
    """
    values = _pooled(draws) if draws else np.zeros(0)
    if values.size == 0 or not np.isfinite(values).all():
        return []
    if _is_constant(values):
        names = {0.0: "zeros", 1.0: "ones"}
        return [names.get(float(values[0]), f"constant {values[0]:g}")]
    if kernel_shape is None and draws[0].ndim >= 2:
        kernel_shape = draws[0].shape
    values = _few(values)
    spread = float(values.std())
    fitting = {
        name: p_value
        for name, (form, scale) in distributions(kernel_shape).items()
        if _is_spread_alike(spread, values.size, form, scale)
        and (p_value := _p_value(values, form, scale)) > FIT_LEVEL
    }
    return sorted(fitting, key=lambda name: -fitting[name])


def name_distribution(
    draws: Sequence[Array], kernel_shape: Sequence[int] | None = None
) -> str | None:
    """Return the name of the usual distribution that draws fit best, None where none does."""
    return next(iter(fitting_distributions(draws, kernel_shape)), None)


def _is_spread_alike(spread: float, size: int, form: str, scale: float) -> bool:
    """Return whether a standard deviation can be a distribution's: quick, and most are out.

    Its standard error over σ is √((κ − 1) / 4n); κ, the kurtosis, is 3 for the normal
    distribution and less for the others.
    """
    expected = scale / math.sqrt(3) if form == "uniform" else scale
    return abs(spread / expected - 1) <= SPREAD_ERRORS / math.sqrt(2 * size)


def _p_value(values: Array, form: str, scale: float) -> float:
    if form == "uniform":
        if np.abs(values).max() > scale * (1 + FLOAT32_ROUNDING):
            return 0.0
        return uniform_p_value(values, scale)
    cdf: Callable[[Array], Array] = stats.norm(0, scale).cdf
    if form == "truncated":
        cdf = stats.truncnorm(-2, 2, scale=scale / TRUNCATED_STD).cdf
    return float(stats.kstest(values, cdf, method="asymp").pvalue)
