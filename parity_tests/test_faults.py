"""Each planted mistake is caught on its rung, at its place, and named by its cause.

Here a fault is looked for on its own rung, the contract and the architecture;
`scripts/prove.py --faults` climbs the whole ladder with each, the slow ones too.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from parity_tests.catalogue import FAULTS, TENSORFLOW, Fault
from parity_tests.planting import Outcome, alternating, plant
from parity_tests.standard import short_faults
from pipeline.engines import DEFAULT_ENGINES

OF_DEFAULT_PAIR = [fault for fault in FAULTS if fault.engine in DEFAULT_ENGINES]
SHORT = [
    *short_faults(OF_DEFAULT_PAIR),  # one for each rung
    next(fault for fault in OF_DEFAULT_PAIR if fault.is_harmless),
]
REST = [fault for fault in FAULTS if fault not in SHORT]


def named(fault):
    return f"{fault.engine}-{fault.name}"


@pytest.fixture(scope="module")
def outcome(climber, request):
    """Return a function that waits for a fault's outcome; two engines are at work at a time."""
    wanted = {
        item.callspec.params["fault"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    pool = ThreadPoolExecutor(2)
    planted: dict[Fault, Future[Outcome]] = {
        fault: pool.submit(plant, climber, fault, is_whole=False)
        for fault in alternating([fault for fault in FAULTS if fault in wanted])
    }
    yield lambda fault: planted[fault].result()
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "fault", [*SHORT, *(pytest.param(fault, marks=pytest.mark.slow) for fault in REST)], ids=named
)
def test_a_fault_is_caught_and_named(outcome, fault):
    assert list(outcome(fault).mistakes()) == []


def test_a_fault_of_each_rung_is_among_the_short_ones():
    assert {fault.rung for fault in SHORT} == {fault.rung for fault in FAULTS}


def test_a_fault_that_is_called_by_another_name_is_seen(climber):
    """The twin: the check above fails where catalogue and ladder do not agree."""
    right = next(fault for fault in FAULTS if fault.name == "torch-slope")
    found = plant(climber, right, is_whole=False)
    harmless = {"rung": "", "where": "", "cause": "", "difference": "", "is_harmless": True}
    for changes, words in (
        ({"rung": "data"}, "rung is contract, expected data"),
        ({"cause": "loss-sum"}, "cause is leaky-slope, expected loss-sum"),
        ({"where": "layers.conv1"}, "found first at layers.act1"),
        (harmless, "false alarm at rung contract"),
    ):
        wrong = replace(found, fault=replace(right, **changes))
        assert words in "; ".join(wrong.mistakes())


def test_a_fault_that_no_program_plants_gives_no_verdict(climber):
    unknown = Fault("unknown", TENSORFLOW, "contract", cause="loss-sum", mistake="none")
    (words,) = plant(climber, unknown, is_whole=False).mistakes()
    assert words.startswith("no verdict: ")
