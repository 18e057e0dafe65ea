"""Which of the catalogue's mutants the short suite catches: `python -m tests.mutation`.

Each is planted in the production code that a part of `make test` runs, and the part is run until a
test fails: first the parity tests, whose engines stay warm; where they pass, the tests of the
implementation that holds the mutant. Those that start a trainer's script are left out: a mutant is
planted in a process, and a script starts its own. Outcomes are kept in `--output` as they come;
the same call goes on from there.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proof import engine_room
from proof.catalogue import FAULTS, Fault
from proof.engine_room import EngineRoom

MUTANT = "MUTANT"
"""Environment variable: the mutant in this process, where this module is a pytest plugin."""
QUIET = ("-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no", "-W", "ignore")
# The quickest first of those that can see most.
PARITY = [
    f"parity_tests/test_{name}.py"
    for name in ("architecture", "logits", "ladder_climbs", "data", "initialisation")
]


def implementation_of(engine: str) -> str:
    return engine.partition("-")[0]


class MutatedRoom(EngineRoom):
    """Engines of which one implementation holds a mutant, on each of its backends."""

    mutant: Fault | None = None

    def ask(self, engine, question, fault=""):
        mutant = self.mutant
        is_mutated = mutant and implementation_of(mutant.engine) == implementation_of(engine)
        return super().ask(engine, question, fault or (mutant.name if is_mutated else ""))


class FirstFailure:
    """Notes the first test that failed."""

    test = ""

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.test:
            self.test = report.nodeid


def caught_by_parity(room: MutatedRoom, mutant: Fault | None) -> str:
    """Return the first parity test that fails with `mutant`, or an empty string."""
    room.mutant, seen = mutant, FirstFailure()
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*QUIET, *PARITY], plugins=[seen])
    return seen.test


def caught_by_implementation(mutant: Fault) -> str:
    """Return the first test of the mutant's implementation that fails, or an empty string."""
    half = implementation_of(mutant.engine)
    line = [sys.executable, "-m", "pytest", "-p", "tests.mutation", *QUIET, "-rfE", f"tests/{half}"]
    environment = {**os.environ, MUTANT: f"{half} {mutant.name}"}
    done = subprocess.run(
        [*line, "-k", "not script"], env=environment, capture_output=True, text=True, check=False
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode not in (0, 1) and not failed:
        return f"pytest ended with {done.returncode}"
    return failed[0].split()[1] if failed else ""


def plant_named() -> None:
    """Plant the mutant that the environment names, if any, in this process."""
    if named := os.environ.get(MUTANT):
        half, name = named.split()
        importlib.import_module(f"proof.faults.in_{half}").PLANTERS[name]()


def pytest_configure() -> None:
    plant_named()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/mutation.json"))
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    with MutatedRoom() as room:
        # What parity_tests/conftest.py starts, and ends with each session.
        engine_room.EngineRoom = lambda **_: contextlib.nullcontext(room)
        if failed := caught_by_parity(room, None):
            sys.exit(f"without a mutant {failed} fails")
        for mutant in FAULTS:
            name = f"{mutant.engine} {mutant.name}"
            if name not in kept:
                caught = caught_by_parity(room, mutant) or caught_by_implementation(mutant)
                kept[name] = {"caught_by": caught, "is_harmless": mutant.is_harmless}
                arguments.output.write_text(json.dumps(kept, indent=1))
                print(f"{len(kept)}/{len(FAULTS)} {name}: {caught or 'not caught'}", flush=True)
    real = {name: each["caught_by"] for name, each in kept.items() if not each["is_harmless"]}
    missed = [name for name, test in real.items() if not test]
    print(f"{len(real) - len(missed)} of {len(real)} mutants are caught; not: {', '.join(missed)}")
    alarms = [name for name, each in kept.items() if each["is_harmless"] and each["caught_by"]]
    print(f"of {len(kept) - len(real)} harmless changes raise an alarm: {', '.join(alarms)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
