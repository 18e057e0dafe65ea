"""Answering for a user's own model, which is named `module:function`."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ladder.exchange import Question, Trace, write_trace
from ladder.subject import ASKS, Subject, answer_subject


def load_reference(reference: str) -> Callable[[], Any]:
    """Return the function that `module:function` names, looked for from the working folder.

    Raises:
        ValueError: not of that form, or there is no such module or function.
    """
    name, _, function = reference.partition(":")
    if not name or not function:
        raise ValueError(f"a model is named `module:function`; received {reference!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(name), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"cannot find {reference}: {error}") from error


def answer_reference(
    engine: str, question: Question, build: Callable[[], Subject], trace_path: Path
) -> int:
    """Answer `question` about what `build` returns; return 0, or 2 where it cannot be asked."""
    unknown = [ask for ask in question.asks if ask not in ASKS]
    if unknown:
        print(f"{engine} cannot answer {unknown[0]!r}", file=sys.stderr)
        return 2
    facts, arrays = answer_subject(question, build())
    write_trace(trace_path, Trace(engine, question.identity, facts, arrays))
    return 0
