"""Commands, seeds, machines and versions."""

import shlex

from reporting.evidence import Evidence
from reporting.wording import NONE, Fields, plain_items, versions


def made(evidence: Evidence) -> list[Fields]:
    """Return, for each source of the page, its command, seed, machine and versions."""
    sources = []
    for run in evidence.runs:
        recipe, command = run.record.recipe, shlex.join(map(str, run.record.command))
        seed = ("seed", str(recipe.get("seed", NONE)))
        init = ("first weights", str(recipe.get("init", NONE)))
        sources.append(_source(run.name, command, run.record.environment, seed, init))
    if evidence.ladder is not None:
        origin = evidence.ladder.origin
        machine = {**origin.machine, "packages": origin.packages}
        sources.append(_source("Parity", origin.command, machine))
    if evidence.faults is not None:
        machine = {**evidence.faults.machine, "packages": evidence.faults.packages}
        sources.append(_source("Mutants", evidence.faults.command, machine))
    if evidence.benchmark is not None:
        benchmark = evidence.benchmark
        sources.append(_source("Benchmark", benchmark.command, benchmark.environment))
    if evidence.certificates is not None:
        seeds = evidence.certificates
        sources.append(_source("Seeds", seeds.command, {"packages": {}, **seeds.machine}))
    return sources


def _source(title: str, command: str, environment: Fields, *items: tuple[str, str]) -> Fields:
    packages = environment.get("packages", {})
    machine = {name: value for name, value in environment.items() if name != "packages"}
    return {
        "title": title,
        "command": command,
        "items": [*items, *plain_items(machine)],
        "packages": versions(packages),
    }
