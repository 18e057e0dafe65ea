"""Work in a folder, kept part by part, so that what was stopped goes on where it was."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladder.files import read_limited, write_text
from ladder.reading import read_json
from pipeline.errors import RunError
from pipeline.run_folder import held

MAX_BYTES = 64 * 1024 * 1024


class Session:
    """What has been done of one piece of work, in a file that is there until all of it is.

    `identity` is all that makes it another piece of work: what was kept under another is dropped.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._identity = json.loads(json.dumps(identity))
        found = self._read()
        self.was_begun = found is not None
        self._parts: dict[str, Any] = found or {}
        self.num_kept = len(self._parts)

    def begin(self) -> None:
        """Note that the work has begun; needed only where no part is kept."""
        self._write()

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        """Return a part that was kept, or do the work for it and keep it."""
        if name not in self._parts:
            self.keep(name, work())
        return self._parts[name]

    def kept(self, name: str) -> Any:
        """Return a part that was kept, None where it was not."""
        return self._parts.get(name)

    def keep(self, name: str, part: Any) -> None:
        """Keep a part: plain values, also NaN, which this file, unlike results, may hold."""
        self._parts[name] = part
        self._write()

    def finish(self) -> None:
        """Forget the parts; the results hold them."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_text(self._path, json.dumps({"identity": self._identity, "parts": self._parts}))

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(read_limited(self._path, MAX_BYTES))
            if found["identity"] == self._identity and isinstance(found["parts"], dict):
                return found["parts"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # none, or of no use: what is missing is done again
        return None


def read_kept(path: Path) -> dict[str, Any]:
    """Read the JSON object that an earlier call has left in `path`.

    Raises:
        RunError: it is damaged.
    """
    try:
        found = read_json(path, MAX_BYTES)
        if not isinstance(found, dict):
            raise ValueError("it must hold a JSON object")
    except (OSError, ValueError) as error:
        raise RunError(f"cannot go on from {path}: {error}; remove it to begin anew") from error
    return found


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Make `folder` and hold it against a second process that does the same; `what` is done there.

    Raises:
        UsageError: another one is writing there.
        RunError: it can't be written to, or not any more.
        KeyboardInterrupt: from within; how to go on is added.
    """
    with held(folder, what):
        try:
            yield
        except KeyboardInterrupt as error:
            raise type(error)("to go on: the same call") from None
