"""Engines, the Python interpreters that their programs run under, and what each of them holds.

An engine may need an interpreter of its own: no single environment holds every framework's CUDA
libraries. What another interpreter holds is asked of it in a process that imports no framework.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STARTED_AS, STARTED_BY = "ENGINE_PYTHON", "ENGINE_STARTED_BY"
"""Tell a process which interpreter it was meant to run under, and who started it.

`sys.executable` cannot tell it: where a wrapper or a pyenv shim was named, it is another path.
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
        from ladder.probe import probe

        answer = probe(self, tuple(modules), tuple(packages))
        if isinstance(answer, str):
            or_else = f": {self.cure}" if self.cure else "; name another Python, or none"
            raise InterpreterError(f"{self.named_by} {answer}{or_else}")
        return answer


def this_interpreter() -> Interpreter:
    """Return the interpreter of this process."""
    return Interpreter(sys.executable)


@dataclass(frozen=True)
class Engine:
    """One implementation, as a program that answers a question file with a trace file."""

    name: str
    program: tuple[str, ...]
    """Run as `python *program QUESTION TRACE`; for a module `("-m", "module")`."""
    packages: tuple[str, ...]
    """Import names without which it cannot run."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that the process needs."""
    float64_variables: Mapping[str, str] = field(default_factory=dict)
    """Further ones where float64 is asked for."""
    find_python: Callable[[], Interpreter] = this_interpreter
    """Returns the interpreter to run under; asked anew each time."""
    support: tuple[str, ...] = ()
    """Import names that its programs need besides."""

    def environment(self, precision: str = "32") -> dict[str, str]:
        """Return the variables that a process of this engine at `precision` needs."""
        extra = self.float64_variables if precision == "64" else {}
        return {**self.find_python().environment(), **self.variables, **extra}

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs Python with `arguments` under this engine's interpreter."""
        return [self.find_python().path, *arguments]

    def why_not(self) -> str | None:
        """Return why this engine cannot run here, or None where it can."""
        return self.find_python().why_not((*self.packages, *self.support))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
