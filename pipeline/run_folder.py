"""A folder that one process at a time works in, above all a run's."""

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ladder.files import is_unfinished
from pipeline.errors import RunError, UsageError
from pipeline.record import LOG, RECIPE

LOCK = ".lock"
EARLY_FILES = {LOCK, LOG, RECIPE}
"""What a run has written before its first record; a kill in these seconds leaves only these."""


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Make `folder` and hold it against a second process that does the same; `what` is done there.

    Raises:
        UsageError: another one is writing there.
        RunError: it can't be written to, or not any more.
    """
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with unlocked(folder, what):
            yield


@contextmanager
def unlocked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder that is there.

    Raises:
        UsageError: another process does.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"{folder} is in use by another {what}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # nobody reads stdout any more
        raise
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error


@contextmanager
def claimed(run_dir: Path, resume: bool, is_named: bool) -> Iterator[Path]:
    """Hold the run folder against a second run; leave it as it was if the call was wrong.

    Raises:
        UsageError: as `held`, or it is not empty and no run is resumed.
        RunError: as `held`.
    """
    with _written(run_dir):
        created = not is_named or not run_dir.exists()
        if not is_named:
            run_dir = _made(run_dir)
        if not resume and not (run_dir / LOCK).exists():  # not a run's: don't even lock it
            _require_empty(run_dir)
    with held(run_dir, "run"):
        was_empty = False
        try:
            for left in filter(is_unfinished, run_dir.rglob(".*")):  # of a run that was killed
                left.unlink()
            if not resume:
                _require_empty(run_dir)
                was_empty = True
            yield run_dir
        except UsageError:
            if created:
                shutil.rmtree(run_dir, ignore_errors=True)
            elif was_empty:
                _empty(run_dir)
            raise


def _made(run_dir: Path) -> Path:
    """Make a folder for a new run, with a number behind its name where another run has that."""
    for number in itertools.count(1):
        folder = run_dir if number == 1 else run_dir.with_name(f"{run_dir.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not os.path.lexists(folder):  # what is in the way is a part of its path
                raise
    raise AssertionError("there is always another number")


def _empty(run_dir: Path) -> None:
    for path in run_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink()


def is_early(paths: Iterable[Path]) -> bool:
    """Return whether `paths` are all that a run leaves which was ended before its first record."""
    names = {path.name for path in paths if not is_unfinished(path)}
    return LOCK in names and (names == {LOCK} or RECIPE in names) and names <= EARLY_FILES


def _require_empty(run_dir: Path) -> None:
    found = list(run_dir.iterdir()) if run_dir.is_dir() else []
    if found and not is_early(found):
        raise UsageError(
            f"{run_dir} is not empty; choose another --run-dir, or add --resume to go on in it"
        )
