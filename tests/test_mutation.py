"""What `python -m tests.mutation` plants, and where."""

from types import SimpleNamespace

import pytest

from proof.catalogue import FAULTS, LIGHTNING, TENSORFLOW
from proof.engine_room import EngineRoom
from tests import mutation


@pytest.mark.parametrize(
    ("engine", "mutated"),
    [(LIGHTNING, {LIGHTNING}), (TENSORFLOW, {TENSORFLOW, "keras-jax"})],
)
def test_a_mutant_is_in_its_implementation_on_each_backend(monkeypatch, engine, mutated):
    asked = []
    monkeypatch.setattr(EngineRoom, "ask", lambda self, *asking: asked.append(asking))
    room = mutation.MutatedRoom()
    room.mutant = next(fault for fault in FAULTS if fault.engine == engine)
    for name in (LIGHTNING, TENSORFLOW, "keras-jax"):
        room.ask(name, "question")
    expected = [room.mutant.name if name in mutated else "" for name, *_ in asked]
    assert [fault for *_, fault in asked] == expected
    room.ask(engine, "question", "another")  # a test's own
    assert asked[-1][-1] == "another"
    room.mutant = None
    room.ask(engine, "question")
    assert asked[-1][-1] == ""


def test_the_mutant_that_the_environment_names_is_planted(monkeypatch):
    planted = []
    programs = {"proof.faults.in_keras": {"one": lambda: planted.append("one")}}
    monkeypatch.setattr(
        mutation.importlib, "import_module", lambda name: SimpleNamespace(PLANTERS=programs[name])
    )
    monkeypatch.delenv(mutation.MUTANT, raising=False)
    mutation.plant_named()
    assert planted == []
    monkeypatch.setenv(mutation.MUTANT, "keras one")
    mutation.plant_named()
    assert planted == ["one"]


def test_the_first_test_that_fails_is_noted():
    seen = mutation.FirstFailure()
    for name, failed in (("a", False), ("b", True), ("c", True)):
        seen.pytest_runtest_logreport(SimpleNamespace(failed=failed, nodeid=name))
    assert seen.test == "b"
