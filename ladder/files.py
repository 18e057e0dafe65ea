"""Files that are whole or absent: written beside their final name, flushed, then renamed."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

PART = ".part"
CHUNK_BYTES = 1024 * 1024


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it onto `path`.

    Raises:
        OSError: the folder is missing, read-only or full; an earlier `path` is left as it was.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(name, 0o644)
        put_in_place(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def put_in_place(written: Path, path: Path) -> None:
    """Flush the file `written`, which somebody else wrote beside `path`, and rename it onto that.

    Raises:
        OSError: the disk is full, or the folder is gone; an earlier `path` is left as it was.
    """
    _flush(written)
    os.replace(written, path)
    _flush(path.parent)  # so that it lasts through a power cut, and renames keep their order


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_unfinished(path: Path) -> bool:
    """Return whether `path` is what a killed process leaves of a file that it was writing."""
    return path.name.startswith(".") and PART in path.suffixes  # `.best.part.keras` is one too


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    write_whole(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON.

    Raises:
        ValueError: `value` holds NaN or an infinity, for which JSON has no word.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def finite(value: Any) -> Any:
    """Return `value` with None for NaN and infinities, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Read `path`, refusing more than `max_bytes`.

    Raises:
        ValueError: the file is larger than `max_bytes`.
    """
    content = bytearray()
    with path.open("rb") as file:
        # Piece by piece: Python takes all the memory for what is asked of `read` at once.
        while piece := file.read(CHUNK_BYTES):
            content += piece
            if len(content) > max_bytes:
                raise ValueError(
                    f"{path} is larger than the {max_bytes:,} bytes allowed for its kind"
                )
    return bytes(content)
