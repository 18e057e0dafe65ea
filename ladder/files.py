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


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it onto `path`.

    Raises:
        OSError: the folder is missing, read-only or full; an earlier `path` is left as it was.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        _rename(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def put_in_place(written: Path, path: Path) -> None:
    """Flush the file `written`, which somebody else wrote beside `path`, and rename it onto that.

    Raises:
        OSError: the disk is full, or the folder is gone; an earlier `path` is left as it was.
    """
    descriptor = os.open(written, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _rename(written, path)


def is_unfinished(path: Path) -> bool:
    """Return whether `path` is what a killed process leaves of a file that it was writing."""
    return path.name.startswith(".") and PART in path.suffixes  # `.best.part.keras` is one too


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    write_whole(path, lambda file: _write_all(file, content))


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


def read_json(path: Path, max_bytes: int) -> Any:
    """Read what JSON itself, and this project, would write to `path`.

    Raises:
        OSError: it cannot be read.
        ValueError: larger than `max_bytes`, not JSON, nested too deeply, or with a name twice, a
            number that is not finite as a double, or half a character.
    """
    return parse_json(read_limited(path, max_bytes).decode())


def parse_json(text: str) -> Any:
    """Parse JSON; what Python takes beyond it is refused.

    Raises:
        ValueError: as `read_json`.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_number,
            parse_int=_integer,
            parse_constant=_number,
        )
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no character
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names a field twice")
    return found


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.20} is not a finite number")
    return value


def _integer(digits: str) -> int:
    _number(digits)  # so that it can be counted with as a double
    return int(digits)


def _write_all(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _rename(written: str | Path, path: Path) -> None:
    """Rename, and make it last through a power cut, so that renames keep their order."""
    os.replace(written, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
