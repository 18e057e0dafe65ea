"""Asking another Python what it holds."""

import json
import os
from functools import cache
from typing import Any

from ladder.engines import EngineError, ran
from ladder.interpreters import Interpreter

OLDEST_PYTHON = (3, 11)
PROBE_SECONDS = 60.0
PROBE = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
modules, packages = json.loads(sys.argv[1])
def version_of(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None
print(json.dumps({
    "python": sys.version_info[:3],
    "missing": [name for name in modules if find_spec(name) is None],
    "versions": {name: version_of(name) for name in packages},
}))
"""


@cache
def probe(
    python: Interpreter, modules: tuple[str, ...], packages: tuple[str, ...]
) -> dict[str, Any] | str:
    """Return version, modules and packages of `python`, or why there are none."""
    environment = {**os.environ, **python.environment()}
    command = [python.path, "-c", PROBE, json.dumps([modules, packages])]
    try:
        done = ran(command, environment, PROBE_SECONDS)
    except EngineError as error:
        return str(error)
    try:
        found = json.loads(done.stdout)
        version = tuple(found["python"])
    except (ValueError, TypeError, KeyError):
        return "is not a working Python 3"
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return f"is Python {'.'.join(map(str, version))}, older than {oldest}"
    return dict(found)
