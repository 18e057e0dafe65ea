"""The catalogue of mutants, and the checks of usual practice that it is held against."""

from pathlib import Path

import numpy as np
import pytest

from ladder.causes import KNOWN_CAUSES
from ladder.exchange import Trace
from parity_tests import differences
from parity_tests.catalogue import LIGHTNING, MUTANTS, RUNG_NAMES, TENSORFLOW, Mutant
from parity_tests.practice import (
    ACCURACY,
    CASE,
    CHECKS,
    has_expected_accuracy,
    judge,
    network_question,
    practice_recipe,
    training_question,
)
from reporting.comparison import EXPECTED_TEST_ACCURACY

CAUGHT = [mutant for mutant in MUTANTS if not mutant.is_harmless]


def test_what_a_decorator_says_is_what_is_held_against_the_ladder():
    """Read from the source, constants and several engines included."""
    (found,) = (each for each in MUTANTS if (each.engine, each.name) == (TENSORFLOW, "valid-pool"))
    assert found == Mutant(
        "valid-pool",
        TENSORFLOW,
        "architecture",
        "layers.pool3.output_shape.0",
        "unmatched kernel (1152, 128), bias",
        mistake="The pools have Keras's default padding, none",
        difference=differences.SAME_POOL,
    )


def test_no_mutant_stands_twice():
    assert len({(mutant.engine, mutant.name) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("rung", RUNG_NAMES)
def test_each_rung_is_the_first_to_catch_two(rung):
    assert sum(mutant.rung == rung for mutant in CAUGHT) >= 2


def test_each_cause_of_the_ladders_own_is_one_that_a_mutant_shows():
    assert {mutant.cause for mutant in CAUGHT} >= KNOWN_CAUSES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "theano"}, "`engine` must be one of keras-tensorflow, .*engine='theano'"),
        ({"variant": "wide"}, "`variant` must be one of base, dropout; received variant='wide'"),
        ({"rung": "roof"}, "`slip` must have a cause and one of the rungs .*rung='roof'"),
        ({"cause": ""}, "`slip` must have a cause .*cause=''"),
        ({"is_harmless": True}, "`slip` is harmless: it has no rung, cause or explanation"),
    ],
)
def test_a_mutant_that_does_not_fit_together_is_refused(changes, message):
    fields = {"rung": "layers", "cause": "loss-sum", "engine": LIGHTNING, **changes}
    with pytest.raises(ValueError, match=message):
        Mutant("slip", mistake="it slips", **fields)


# Usual practice.


def trace(**changes):
    """Return a small answer to a question of practice."""
    facts = {
        "parameters": 6,
        "layers": [{"name": "logits", "output_shape": [2], "parameters": 6}],
    }
    arrays = {
        "own.0.logits.kernel": np.zeros((2, 2), np.float32),
        f"logits.{CASE}": np.array([[0.25, -1.0]], np.float32),
        f"gradient.{CASE}.logits.kernel": np.array([[0.5, 0.0], [0.0, 0.5]], np.float32),
        f"gradient.{CASE}.input": np.zeros((1, 2), np.float32),
        f"gradient.{CASE}.loss": np.zeros((), np.float32),
    }
    for key, value in changes.items():
        name = key.replace("__", ".")
        (facts if name in facts else arrays)[name] = value
    arrays = {name: array for name, array in arrays.items() if array is not None}
    return Trace("keras", "id", {k: v for k, v in facts.items() if v is not None}, arrays)


LOGITS, KERNEL = f"logits__{CASE}", f"gradient__{CASE}__logits__kernel"


def test_equal_answers_pass_every_check():
    checks = judge(trace(), trace())
    assert tuple(checks) == CHECKS[:-1]
    assert CHECKS[-1] == ACCURACY
    assert all(checks.values())


@pytest.mark.parametrize(
    ("changes", "seen_by"),
    [
        ({"parameters": 5}, {"parameters"}),
        ({"layers": [{"name": "logits", "output_shape": [3], "parameters": 6}]}, {"shapes"}),
        ({"own__0__logits__kernel": np.zeros((2, 3), np.float32)}, {"shapes"}),
        ({LOGITS: np.array([[0.2505, -1.0]], np.float32)}, {"logits 1e-5"}),
        ({LOGITS: np.array([[0.27, -1.0]], np.float32)}, {"logits 1e-3", "logits 1e-5"}),
        ({LOGITS: np.array([0.25, -1.0], np.float32)}, {"logits 1e-3", "logits 1e-5"}),
        ({LOGITS: np.array([[np.nan, -1.0]], np.float32)}, {"logits 1e-3", "logits 1e-5"}),
        ({KERNEL: np.array([[0.5, 0.0], [0.0, 0.6]], np.float32)}, {"gradients 1e-5"}),
        ({KERNEL: np.full((2, 2), np.nan, np.float32)}, {"gradients 1e-5"}),
        ({f"gradient__{CASE}__input": np.ones((1, 2), np.float32)}, set()),
    ],
)
def test_a_difference_is_seen_by_the_checks_that_look_there(changes, seen_by):
    checks = judge(trace(), trace(**changes))
    assert {name for name, passes in checks.items() if passes is False} == seen_by
    assert None not in checks.values()


@pytest.mark.parametrize(
    ("changes", "not_made"),
    [
        ({"parameters": None}, {"parameters"}),
        ({"layers": None}, {"shapes"}),
        ({"own__0__logits__kernel": None}, {"shapes"}),
        ({LOGITS: None}, {"logits 1e-3", "logits 1e-5"}),
        ({KERNEL: None}, {"gradients 1e-5"}),
    ],
)
def test_a_check_that_cannot_be_made_does_not_pass(changes, not_made):
    for sides in ((trace(), trace(**changes)), (trace(**changes), trace())):
        checks = judge(*sides)
        assert {name for name, passes in checks.items() if passes is None} == not_made


def test_nan_on_both_sides_does_not_pass():
    broken = trace(**{LOGITS: np.full((1, 2), np.nan, np.float32)})
    assert judge(broken, broken)["logits 1e-3"] is False


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, False), (sum(EXPECTED_TEST_ACCURACY["base", 1]) / 2, True)]
)
def test_the_accuracy_is_held_against_the_tutorials(share, expected):
    classes = np.zeros(1000, np.int64)
    logits = np.zeros((1000, 2))
    logits[round(share * 1000) :, 1] = 1
    assert has_expected_accuracy(trace(trained_logits=logits), classes, "base") is expected


def test_an_accuracy_of_logits_that_are_missing_or_not_finite_does_not_pass():
    classes = np.zeros(2, np.int64)
    assert has_expected_accuracy(trace(), classes, "base") is None
    assert has_expected_accuracy(trace(trained_logits=np.zeros((3, 2))), classes, "base") is None
    broken = trace(trained_logits=np.full((2, 2), np.nan))
    assert has_expected_accuracy(broken, classes, "base") is False


@pytest.mark.parametrize("variant", ["base", "dropout"])
def test_practice_asks_in_float32_for_one_epoch(variant):
    recipe = practice_recipe(variant)
    images, classes = np.zeros((4, 28, 28, 1), np.uint8), np.zeros(4, np.int64)
    network, training = network_question(recipe, images, classes), training_question(recipe, Path())
    for question in (network, training):
        assert question.settings["recipe"]["precision"] == "32"
        assert question.settings["recipe"]["num_epochs"] == 1
    still = [name for name, array in network.arrays.items() if "bias" in name and not array.any()]
    assert still == ["weights.conv1.bias"]
