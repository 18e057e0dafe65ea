"""Commands, seeds, machines and versions."""

import shlex
from typing import Any

from reporting.evidence import Evidence
from reporting.wording import Fields, plain_items, versions


def made(evidence: Evidence) -> list[Fields]:
    """Return, for each source of the page, its command, seed, machine and versions."""
    sources = []
    for run in evidence.runs:
        environment = dict(run.record.environment)
        packages = environment.pop("packages", {})
        sources.append(
            {
                "title": run.name,
                "command": shlex.join(str(word) for word in run.record.command),
                "items": [
                    ("seed", str(run.record.recipe.get("seed", "–"))),
                    ("first weights", str(run.record.recipe.get("init", "–"))),
                    *plain_items(environment),
                ],
                "packages": versions(packages),
            }
        )
    if evidence.ladder is not None:
        origin = evidence.ladder.origin
        sources.append(_result_source("Parity", origin.command, origin.machine, origin.packages))
    if evidence.faults is not None:
        found = evidence.faults
        sources.append(_result_source("Mutants", found.command, found.machine, found.packages))
    if evidence.benchmark is not None:
        environment = dict(evidence.benchmark.environment)
        packages = environment.pop("packages", {})
        command = evidence.benchmark.command
        sources.append(_result_source("Benchmark", command, environment, packages))
    if evidence.certificates is not None:
        machine = dict(evidence.certificates.machine)
        sources.append(_result_source("Seeds", evidence.certificates.command, machine, {}))
    return sources


def _result_source(title: str, command: str, machine: Fields, packages: Any) -> Fields:
    return {
        "title": title,
        "command": command,
        "items": plain_items(machine),
        "packages": versions(packages),
    }
