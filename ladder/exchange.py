"""The files that engines meet in: named arrays with a few words, stored as safetensors."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ladder.files import parse_json, write_bytes

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

SCHEMA = 1
MAX_BYTES = 4 * 1024**3


def write_arrays(path: Path, arrays: Arrays, metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays, any shapes, with words about them; whole or not at all."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_bytes(path, save(contiguous, metadata=dict(metadata or {})))


def read_arrays(path: Path, max_bytes: int = MAX_BYTES) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the words of a safetensors file.

    Raises:
        ValueError: missing, larger than `max_bytes`, truncated, or not safetensors.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise ValueError(f"{path} is larger than the {max_bytes:,} bytes allowed")
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            words = file.metadata() or {}
        for name, array in arrays.items():
            if array.dtype.kind == "V":  # bfloat16 and its like, where ml_dtypes is loaded
                raise TypeError(f"{name} is {array.dtype}, which NumPy itself lacks")
        return arrays, words
    except (OSError, SafetensorError, TypeError) as error:
        raise ValueError(f"cannot read {path} as safetensors: {error}") from error


def digest(arrays: Arrays, words: str) -> str:
    """Return the SHA-256 of words and named arrays, in hexadecimal digits."""
    sha256 = hashlib.sha256(words.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        sha256.update(_json([name, array.dtype.str, array.shape]).encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def check_shapes(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Check that `arrays` are exactly those named in `shapes`, in these shapes.

    Raises:
        ValueError: an entry is missing, extra or misshapen; each is named.
    """
    problems = [f"missing {name}" for name in shapes if name not in arrays]
    problems += [f"unexpected {name}" for name in arrays if name not in shapes]
    problems += [
        f"{name} has shape {arrays[name].shape}, expected {tuple(shape)}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != tuple(shape)
    ]
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}")


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
        return digest(self.arrays, _json([list(self.asks), self.settings]))


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
    words = _open_envelope(path, "question", metadata, {"asks": list, "settings": dict})
    if not all(isinstance(asked, str) for asked in words["asks"]):
        raise ValueError(f"{path} is not a question: its `asks` must be words")
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
    return {"portproof": _json({"kind": kind, "schema": SCHEMA, **words})}


def _open_envelope(
    path: Path, kind: str, metadata: dict[str, str], keys: Mapping[str, type]
) -> dict[str, Any]:
    try:
        words = parse_json(metadata["portproof"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a {kind}") from error
    if not isinstance(words, dict) or words.get("kind") != kind or not set(keys) <= set(words):
        raise ValueError(f"{path} is not a {kind}")
    for name, wanted in keys.items():
        if not isinstance(words[name], wanted):
            raise ValueError(f"{path} is not a {kind}: its `{name}` has the wrong type")
    if words.get("schema") != SCHEMA or isinstance(words["schema"], bool | float):
        raise ValueError(f"{path} has schema {words.get('schema')!r}; this version reads {SCHEMA}")
    return words


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)
