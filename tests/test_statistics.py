import numpy as np
import pytest
from scipy import stats

from ladder.compare import Difference
from ladder.statistics import (
    FALSE_ALARMS,
    compare_draws,
    compare_initialisation,
    draws_of,
    fans,
    fitting_distributions,
    name_distribution,
)

SHAPE = (3, 3, 8, 16)
FAN_IN, FAN_OUT = fans(SHAPE)
GLOROT = np.sqrt(6 / (FAN_IN + FAN_OUT))


def uniform(limit, seed=0, shape=SHAPE, count=4, dtype=np.float32):
    draw = np.random.default_rng(seed)
    return [draw.uniform(-limit, limit, shape).astype(dtype) for _ in range(count)]


def normal(std, seed=0):
    return [np.random.default_rng([seed, i]).normal(0, std, SHAPE) for i in range(4)]


def truncated(std, seed=0):
    inner = std / 0.87962566103423978
    return [stats.truncnorm.rvs(-2, 2, scale=inner, size=SHAPE, random_state=i) for i in range(4)]


def checks(left, right):
    found = compare_draws({"a.kernel": left}, {"a.kernel": right})
    return [finding.check for finding in found]


def test_draws_of_one_distribution_pass():
    for seed in range(20):
        assert checks(uniform(GLOROT, seed), uniform(GLOROT, seed + 100)) == []
        assert checks(normal(0.1, seed), normal(0.1, seed + 100)) == []


@pytest.mark.parametrize(
    "right",
    [uniform(1.2 * GLOROT), uniform(0.8 * GLOROT), normal(GLOROT / np.sqrt(3)),
     [draw + 0.02 for draw in uniform(GLOROT)]],
)  # fmt: skip
def test_another_width_form_or_mean_is_caught(right):
    assert "distribution" in checks(uniform(GLOROT, 5), right)


def test_a_slightly_larger_limit_is_caught_by_the_bound():
    assert checks(uniform(GLOROT), uniform(1.01 * GLOROT, 3)) == ["bound"]


def test_zeros_must_be_zeros():
    zeros = [np.zeros(16)] * 4
    assert checks(zeros, zeros) == []
    assert checks(zeros, uniform(0.1, shape=(16,))) == ["zeros"]
    assert checks(uniform(0.1, shape=(16,)), zeros) == ["zeros"]
    assert checks(zeros, [np.full(16, 0.1)] * 4) == ["zeros"]


def test_seeds_must_differ():
    one = uniform(GLOROT)
    assert checks(one, [one[0]] * 4).count("seeds") == 1


def test_shapes_missing_ones_and_nan_are_caught():
    one = uniform(GLOROT)
    assert checks(one, uniform(GLOROT, shape=(3, 3, 16, 8))) == ["shape"]
    assert checks(one, []) == ["missing"]
    assert checks(one, [np.full(SHAPE, np.nan)] * 4) == ["finite"]
    assert checks([np.zeros((0, 2))], [np.zeros((0, 2))]) == ["shape"]


def test_nothing_and_impossible_rates_are_errors():
    with pytest.raises(ValueError, match="no first weights to compare"):
        compare_draws({}, {})
    with pytest.raises(ValueError, match="received false_alarms=0"):
        compare_draws({"a": uniform(1)}, {"a": uniform(1)}, 0)


def test_false_alarms_keep_to_their_rate():
    # At a rate of 0.2 over both tests of one parameter, 100 true pairs rarely give 40 alarms.
    alarms = 0
    for seed in range(100):
        left, right = (uniform(1.0, [seed, side], (20, 20), 2) for side in (0, 1))
        alarms += bool(compare_draws({"a": left}, {"a": right}, 0.2))
    assert 0 < alarms < 40
    assert FALSE_ALARMS == 1e-6


@pytest.mark.parametrize(("name", "draws"), [
    ("glorot_uniform", uniform(GLOROT)),
    ("he_uniform", uniform(np.sqrt(6 / FAN_IN))),
    ("lecun_uniform", uniform(np.sqrt(3 / FAN_IN))),
    ("torch's default U(±1/√fan_in)", uniform(1 / np.sqrt(FAN_IN))),
    ("glorot_normal", truncated(np.sqrt(2 / (FAN_IN + FAN_OUT)))),
    ("glorot_normal, not truncated", normal(np.sqrt(2 / (FAN_IN + FAN_OUT)))),
    ("he_normal", truncated(np.sqrt(2 / FAN_IN))),
    ("random normal 0.05", normal(0.05)),
    ("random uniform ±0.05", uniform(0.05)),
    ("zeros", [np.zeros(SHAPE)]),
    ("ones", [np.ones(SHAPE)]),
    ("constant 0.1", [np.full(SHAPE, 0.1)]),
    (None, [np.arange(np.prod(SHAPE), dtype=float).reshape(SHAPE)]),
    (None, [np.full(SHAPE, np.inf)]),
    (None, []),
])  # fmt: skip
def test_the_distribution_is_named(name, draws):
    assert name_distribution(draws) == name


def test_a_biass_distribution_goes_by_its_layers_kernel():
    bias = uniform(1 / np.sqrt(FAN_IN), shape=(200,))
    assert fitting_distributions(bias, SHAPE)[0] == "torch's default U(±1/√fan_in)"


def test_fans_go_by_the_last_two_axes():
    assert fans((5, 7)) == (5, 7)
    assert (FAN_IN, FAN_OUT) == (72, 144)


def test_traces_are_compared_whole():
    arrays = {
        side: {f"own.{seed}.a.kernel": draw for seed, draw in enumerate(uniform(limit, limit_seed))}
        for side, limit, limit_seed in (("left", GLOROT, 0), ("right", 1 / np.sqrt(FAN_IN), 1))
    }
    assert list(draws_of(arrays["left"])) == ["a.kernel"]
    assert compare_initialisation(arrays["left"], arrays["left"]) == []
    (found,) = compare_initialisation(arrays["left"], arrays["right"])
    assert isinstance(found, Difference)
    assert (found.where, found.left) == ("a.kernel", "glorot_uniform")
    assert found.right == "torch's default U(±1/√fan_in)"
    bare = {name.removeprefix("own."): draw for name, draw in arrays["left"].items()}
    assert draws_of(bare).keys() == {"a.kernel"}
