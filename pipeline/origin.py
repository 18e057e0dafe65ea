"""What results come from: code, versions and the processor's clock."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import psutil

from pipeline.engines import ENGINES, SHARED_PACKAGES
from pipeline.environment import PACKAGES, ROOT, describe_machine, package_versions


@cache
def code_digest(rooms: tuple[str, ...]) -> str:
    """Return a digest of the sources in `rooms` and of the versions that the engines use."""
    digest = hashlib.sha256(json.dumps(versions_in_use(), sort_keys=True).encode())
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def origin_of(command: str, **of: Any) -> dict[str, Any]:
    """Return where results come from: the command, what they are `of`, machine and versions."""
    return {"command": command, **of, "machine": describe_machine(), "packages": versions_in_use()}


def told_commit(machine: Mapping[str, Any]) -> str:
    """Return the commit that `describe_machine` found, `; commit 0123456789ab`, or nothing."""
    found = str(machine.get("commit") or "")
    return f"; commit {found[:12]}{'+' if found.endswith('+') else ''}" if found else ""


def cpu_mhz() -> dict[str, float | None] | None:
    """Return the processor's present clock and the highest it says it has; None where unknown."""
    try:
        found = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError, RuntimeError, ValueError):
        return None  # psutil raises each of these on some machine
    return {"current": found.current, "max": found.max or None} if found else None


def engine_versions(engine: str) -> dict[str, str | None]:
    """Return the packages' versions where `engine` runs, None for those that are missing there.

    Raises:
        InterpreterError: its interpreter cannot be asked.
    """
    return ENGINES[engine].find_python().versions(PACKAGES)


def versions_in_use(engines: Iterable[str] = ENGINES) -> dict[str, str | None]:
    """Return the packages' versions, each as it is where the engines run that use it.

    Where engines use different versions of a package, all are named. An engine that cannot run is
    passed over; packages that no engine uses are those of this process.
    """
    found: dict[str, dict[str, None]] = {name: {} for name in PACKAGES}
    for name in engines:
        engine = ENGINES[name]
        if engine.why_not() is None:
            there = engine_versions(name)
            for package in (*engine.packages, *SHARED_PACKAGES):
                found[package][there[package] or "unknown"] = None
    here = package_versions()
    return {name: " and ".join(found[name]) or here[name] for name in PACKAGES}
