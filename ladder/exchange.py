"""Questions and the traces that answer them: files that engines meet in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladder.arrays import Arrays, as_json, digest, read_arrays, write_arrays
from ladder.reading import built, parse_json

SCHEMA = 1


@dataclass(frozen=True)
class Question:
    """What engines are asked; equal questions have equal identities."""

    asks: tuple[str, ...]
    """Which parts of a trace are wanted; an engine refuses one it does not know."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Plain values: the recipe, where the data lie, seeds."""
    arrays: Arrays = field(default_factory=dict)
    """First weights and inputs."""

    @property
    def identity(self) -> str:
        """SHA-256 over everything that is asked."""
        return digest(self.arrays, as_json([list(self.asks), self.settings]))


@dataclass(frozen=True)
class Trace:
    """One engine's answer to one question."""

    engine: str
    question: str
    """The question's identity."""
    facts: Mapping[str, Any]
    """Plain values: layer tables, metrics, digests of the batches fed."""
    arrays: Arrays


def write_question(path: Path, question: Question) -> None:
    """Write a question."""
    words = {"asks": list(question.asks), "settings": dict(question.settings)}
    write_arrays(path, question.arrays, _envelope("question", words))


def read_question(path: Path) -> Question:
    """Read a question.

    Raises:
        ValueError: not a question, damaged, or of another schema.
    """
    arrays, metadata = read_arrays(path)
    kinds = {"asks": list[str], "settings": dict}
    words = _open_envelope(path, "question", metadata, kinds)
    return Question(tuple(words["asks"]), words["settings"], arrays)


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace."""
    words = {"engine": trace.engine, "question": trace.question, "facts": dict(trace.facts)}
    write_arrays(path, trace.arrays, _envelope("trace", words))


def read_trace(path: Path, question: Question) -> Trace:
    """Read an engine's answer to `question`.

    Raises:
        ValueError: not a trace, damaged, of another schema, or an answer to another question.
    """
    arrays, metadata = read_arrays(path)
    words = _open_envelope(path, "trace", metadata, {"engine": str, "question": str, "facts": dict})
    if words["question"] != question.identity:
        raise ValueError(f"{path} answers another question")
    return Trace(words["engine"], words["question"], words["facts"], arrays)


def _envelope(kind: str, words: dict[str, Any]) -> dict[str, str]:
    return {"portproof": as_json({"kind": kind, "schema": SCHEMA, **words})}


def _open_envelope(
    path: Path, kind: str, metadata: dict[str, str], keys: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        words = parse_json(metadata["portproof"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a {kind}") from error
    if not isinstance(words, dict) or words.get("kind") != kind or not set(keys) <= set(words):
        raise ValueError(f"{path} is not a {kind}")
    for name, wanted in keys.items():
        built(wanted, words[name], f"{path} is not a {kind}: its `{name}`")
    if words.get("schema") != SCHEMA or isinstance(words["schema"], bool | float):
        raise ValueError(f"{path} has schema {words.get('schema')!r}; this version reads {SCHEMA}")
    return words
