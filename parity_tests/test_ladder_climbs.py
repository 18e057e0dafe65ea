"""The true pair on the whole ladder; `make prove` climbs with every engine and variant."""

import dataclasses

import pytest

from parity_tests.catalogue import MUTANTS
from parity_tests.climbs import KINKS, REFERENCE, Route
from parity_tests.planting import other_engine, route_of

SHORT = [("keras-tensorflow", Route("base")), ("keras-tensorflow", Route("dropout"))]
PAIRS = [
    *SHORT,
    pytest.param("keras-torch", Route("base"), marks=pytest.mark.slow),
    pytest.param("keras-tensorflow", Route("dropout", plain=True), marks=pytest.mark.slow),
    pytest.param("keras-tensorflow", Route("base", "32"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("engine", "route"), PAIRS, ids=lambda value: getattr(value, "title", value)
)
def test_two_engines_are_the_same_computation(climber, engine, route):
    verdict = climber.climb(REFERENCE, engine, route)
    assert verdict.passed, verdict.first_failure
    statuses = {rung.name: rung.status for rung in verdict.rungs}
    is_base = route.variant == "base"
    assert statuses.pop("dropout") == ("skipped" if is_base else "passed")
    assert set(statuses.values()) == {"passed"}


def whole(mutant):
    return dataclasses.replace(route_of(mutant), rungs=())


def test_the_short_climbs_are_those_in_which_the_catalogue_plants_its_mutants():
    """So they see all that it is seen to catch, but for mutants of other backends."""
    short = {(frozenset({REFERENCE, engine}), route) for engine, route in SHORT}
    others = {
        mutant.name
        for mutant in MUTANTS
        if (frozenset({mutant.engine, other_engine(mutant.engine)}), whole(mutant)) not in short
    }
    assert others == {"clipped-probabilities", "float32-promotion", "no-x64", "shuffled-batches"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras-torch", "keras-jax"])
def test_the_keras_backends_are_the_same_computation(climber, engine):
    rungs = ("architecture", "layers", "logits", "gradients")
    verdict = climber.climb("keras-tensorflow", engine, Route("base", rungs=rungs))
    assert verdict.passed, verdict.first_failure
    explained = {rung.name for rung in verdict.rungs if rung.status == "explained"}
    assert explained == ({"gradients"} if engine == "keras-jax" else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    "parting",
    [("gradients",), ("gradients", "optimizer", "training", "evaluation")],
    ids="-".join,
)
def test_jax_parts_by_the_slope_at_zero_and_by_nothing_else(climber, parting):
    rungs = ("architecture", *parting)
    verdict = climber.climb(REFERENCE, "keras-jax", Route("base", rungs=rungs))
    assert verdict.passed, verdict.first_failure
    explained = {rung.name for rung in verdict.rungs if rung.status == "explained"}
    assert explained == set(parting)
    assert verdict.rung("gradients").reason.startswith(KINKS)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras-torch", "keras-jax"])
def test_the_keras_backends_drop_what_the_others_do(climber, engine):
    verdict = climber.climb(REFERENCE, engine, Route("dropout", rungs=("dropout",)))
    assert verdict.passed, verdict.first_failure


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_there_is_no_false_alarm(climber, seed):
    verdict = climber.climb(REFERENCE, "keras-tensorflow", Route("dropout", seed=seed))
    assert verdict.passed, verdict.first_failure


@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["one-slope", "detached-block", "unweighted-metrics"])
def test_the_float32_lane_catches_mutants_too(climber, mutant):
    rungs = ("architecture", "layers", "gradients", "training", "evaluation")
    verdict = climber.climb("keras-tensorflow", REFERENCE, Route("base", "32", rungs=rungs), mutant)
    expected = {"one-slope": "layers", "detached-block": "gradients"}.get(mutant, "evaluation")
    assert verdict.first_failure is not None
    assert verdict.first_failure.name == expected
