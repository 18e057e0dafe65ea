"""Python interpreters that programs of an engine run under, and what each of them holds.

An engine may need an interpreter of its own: no single environment holds every framework's CUDA
libraries. What another interpreter holds is asked of it in a process that imports no framework.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OLDEST_PYTHON = (3, 11)
STARTED_AS, STARTED_BY = "ENGINE_PYTHON", "ENGINE_STARTED_BY"
"""Tell a process which interpreter it was meant to run under, and who started it.

`sys.executable` cannot tell it: where a wrapper or a pyenv shim was named, it is another path.
"""
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
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""What to install for a module, where the names differ."""
PROJECT = Path(__file__).resolve().parent.parent


class InterpreterError(ValueError):
    """An interpreter cannot be used; the message is a line that says what to do."""


@dataclass(frozen=True)
class Interpreter:
    """A Python to run an engine's programs under."""

    path: str
    """Absolute, symbolic links kept: a virtual environment's Python is one."""
    named_by: str = ""
    """Where it comes from, for people; empty for the interpreter of this process."""
    cure: str = ""
    """What makes a broken one whole; empty to install what is missing with its pip."""

    @property
    def is_this(self) -> bool:
        """Return whether this process runs under it."""
        return self.path in (sys.executable, os.environ.get(STARTED_AS))

    def environment(self) -> dict[str, str]:
        """Return the variables that a process under it needs, so that it finds this project."""
        if self.is_this:
            return {}
        variables = {STARTED_AS: self.path, STARTED_BY: sys.executable}
        if "site-packages" not in PROJECT.parts:  # whose other packages are not that Python's
            paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
            variables["PYTHONPATH"] = os.pathsep.join(paths)
        return variables

    def why_not(self, modules: Sequence[str]) -> str | None:
        """Return why programs that import `modules` cannot run under it, or None where they can."""
        if self.is_this:
            missing = [name for name in modules if find_spec(name) is None]
            return f"not installed: {', '.join(missing)}" if missing else None
        try:
            missing = self._asked(modules=modules)["missing"]
        except InterpreterError as error:
            return str(error)
        if not missing:
            return None
        packages = " ".join(DISTRIBUTIONS.get(name, name) for name in missing)
        cure = self.cure or f"{self.path} -m pip install {packages}"
        return f"{self.named_by} lacks {', '.join(missing)}: {cure}"

    def versions(self, packages: Sequence[str]) -> dict[str, str | None]:
        """Return the version of each installed package, None where it is missing.

        Raises:
            InterpreterError: it cannot be asked.
        """
        if self.is_this:
            return {package: _version(package) for package in packages}
        return dict(self._asked(packages=packages)["versions"])

    def _asked(self, modules: Sequence[str] = (), packages: Sequence[str] = ()) -> dict[str, Any]:
        answer = _probe(self.path, tuple(modules), tuple(packages))
        if isinstance(answer, str):
            raise InterpreterError(f"{self.named_by} {answer}{self._or_else()}")
        return answer

    def _or_else(self) -> str:
        return f": {self.cure}" if self.cure else "; name another Python, or none"


def this_interpreter() -> Interpreter:
    """Return the interpreter of this process."""
    return Interpreter(sys.executable)


@cache
def _probe(path: str, modules: tuple[str, ...], packages: tuple[str, ...]) -> dict[str, Any] | str:
    """Return version, modules and packages of the Python at `path`, or why there are none."""
    environment = {**os.environ, **Interpreter(path).environment()}
    try:
        done = subprocess.run(
            [path, "-c", PROBE, json.dumps([modules, packages])],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"gave no answer in {PROBE_SECONDS:g} s"
    except OSError as error:
        return f"cannot be started ({error.strerror})"
    try:
        found = json.loads(done.stdout)
        python = tuple(found["python"])
    except (ValueError, TypeError, KeyError):
        return "is not a working Python 3"
    if python < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return f"is Python {'.'.join(map(str, python))}, older than {oldest}"
    return dict(found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
