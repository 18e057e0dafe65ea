"""A benchmark's measurements as they come, so that one that was stopped goes on where it was."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import UsageError
from portproof.files import read_limited, write_text

PARTS = "measurements-so-far.json"
LOCK = ".lock"
MAX_BYTES = 16 * 1024 * 1024


class Session:
    """What has been measured in a folder, part by part, by one benchmark.

    `identity` is all that makes a benchmark another one: what was kept under another is dropped.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._path = folder / PARTS
        self._identity = json.loads(json.dumps(identity))
        self._parts: dict[str, Any] = self._read()
        self.num_kept = len(self._parts)

    def part(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return a part that was kept, or measure and keep it."""
        if name not in self._parts:
            self._parts[name] = measure()
            # A loss may be NaN, which this file, unlike the results, may hold.
            kept = {"identity": self._identity, "parts": self._parts}
            write_text(self._path, json.dumps(kept))
        return self._parts[name]

    def finish(self) -> None:
        """Forget the parts; the results hold them."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(read_limited(self._path, MAX_BYTES))
            if found["identity"] == self._identity:
                return dict(found["parts"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # none, or of no use: what is missing is measured again
        return {}


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it against a second benchmark.

    Raises:
        UsageError: another one is writing there, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"{folder} is in use by another benchmark") from error
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
