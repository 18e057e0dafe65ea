"""Named arrays with a few words, stored as safetensors."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ladder.files import write_bytes

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

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


def under(prefix: str, arrays: Arrays) -> dict[str, Array]:
    """Return the arrays whose names begin with `prefix` and a dot, by what follows the dot."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)
    }


def digest(arrays: Arrays, words: str) -> str:
    """Return the SHA-256 of words and named arrays, in hexadecimal digits."""
    sha256 = hashlib.sha256(words.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        sha256.update(as_json([name, array.dtype.str, array.shape]).encode())
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


def as_json(value: Any) -> str:
    """Return JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
