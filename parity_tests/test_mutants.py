"""Each planted mistake is caught on its rung, at its place, and named by its cause.

The ladder is climbed up to there; `scripts/prove.py --mutants` writes what was found.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from parity_tests.catalogue import MUTANTS, TENSORFLOW, Mutant
from parity_tests.planting import Outcome, alternating, plant
from parity_tests.standard import short_mutants
from pipeline.engines import DEFAULT_ENGINES

OF_DEFAULT_PAIR = [mutant for mutant in MUTANTS if mutant.engine in DEFAULT_ENGINES]
SHORT = [
    *short_mutants(OF_DEFAULT_PAIR),  # one for each rung
    next(mutant for mutant in OF_DEFAULT_PAIR if mutant.is_harmless),
]
REST = [mutant for mutant in MUTANTS if mutant not in SHORT]


def named(mutant):
    return f"{mutant.engine}-{mutant.name}"


@pytest.fixture(scope="module")
def outcome(climber, request):
    """Return a function that waits for a mutant's outcome; two engines are at work at a time."""
    wanted = {
        item.callspec.params["mutant"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    pool = ThreadPoolExecutor(2)
    planted: dict[Mutant, Future[Outcome]] = {
        mutant: pool.submit(plant, climber, mutant)
        for mutant in alternating([mutant for mutant in MUTANTS if mutant in wanted])
    }
    yield lambda mutant: planted[mutant].result()
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "mutant",
    [*SHORT, *(pytest.param(mutant, marks=pytest.mark.slow) for mutant in REST)],
    ids=named,
)
def test_a_mutant_is_caught_and_named(outcome, mutant):
    assert list(outcome(mutant).mistakes()) == []


def test_a_mutant_of_each_rung_is_among_the_short_ones():
    assert {mutant.rung for mutant in SHORT} == {mutant.rung for mutant in MUTANTS}


def test_a_mutant_that_is_called_by_another_name_is_seen(climber):
    """The twin: the check above fails where catalogue and ladder do not agree."""
    right = next(mutant for mutant in MUTANTS if mutant.name == "torch-slope")
    found = plant(climber, right)
    harmless = {"rung": "", "where": "", "cause": "", "difference": "", "is_harmless": True}
    for changes, words in (
        ({"rung": "data"}, "rung is layers, expected data"),
        ({"cause": "loss-sum"}, "cause is Leaky ReLU with slope 0.1"),
        ({"where": "forced.conv1"}, "found first at forced.pool1"),
        (harmless, "false alarm at rung layers"),
    ):
        wrong = replace(found, mutant=replace(right, **changes))
        assert words in "; ".join(wrong.mistakes())


def test_a_mutant_that_no_program_plants_gives_no_verdict(climber):
    unknown = Mutant("unknown", TENSORFLOW, "layers", cause="loss-sum", mistake="none")
    (words,) = plant(climber, unknown).mistakes()
    assert words.startswith("no verdict: ")
