"""Classifying a person's own pictures with one run, or with several side by side."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.preprocess import resize
from trained.photos import Photo, PhotoError, find_pictures, read_photo
from trained.run_folder import TrainedRun, predict

Array = np.ndarray[Any, Any]
MOST_PICTURES = 24
"""Pictures that are drawn into one figure."""
MOST_NAMES = 3
"""Classes that are named for each picture."""
SIDES = ("left", "top", "right", "bottom")
"""Of what was taken as the object, in JSON, as shares of the picture's width and height."""
MOST_LEFT_OUT = 5
"""Files that are named of those which a folder holds beside its pictures."""


@dataclass(frozen=True)
class Failure:
    """A file that could not be classified, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Guesses:
    """What one run says of the pictures."""

    run: TrainedRun
    probabilities: Array
    """float64 (N, classes)."""

    def most_likely(self, picture: int) -> list[tuple[str, float]]:
        """Return the most likely classes of a picture with their probabilities, likeliest first."""
        order = np.argsort(-self.probabilities[picture], kind="stable")[:MOST_NAMES]
        names, row = self.run.class_names, self.probabilities[picture]
        return [(names[place], float(row[place])) for place in order]


def read_photos(
    paths: Sequence[Path], background: str = "auto"
) -> tuple[list[Photo], list[Failure], list[Path]]:
    """Read all pictures that `paths` name; a bar on stderr, where that is a terminal, counts them.

    Only the first have their originals kept, which are drawn. The last of what is returned are
    the files of folders that are no pictures.
    """
    from rich.console import Console
    from rich.progress import track

    photos: list[Photo] = []
    found, left_out = find_pictures(paths)
    failures = [
        Failure(path, "no pictures in this folder")
        for path in paths
        if path.is_dir() and not any(path in picture.parents for picture in found)
    ]
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    console = Console(stderr=True)
    for path in track(found, "reading", console=console, disable=not is_terminal, transient=True):
        try:
            photo = read_photo(path, background)
        except PhotoError as error:
            failures.append(Failure(path, str(error)))
            continue
        photos.append(photo if len(photos) < MOST_PICTURES else replace(photo, original=None))
    return photos, failures, left_out


def classify(photos: Sequence[Photo], run: TrainedRun) -> Guesses:
    """Return what a run says of the pictures.

    Raises:
        RunError: its engine cannot run here or failed.
    """
    from scipy.special import softmax

    logits = predict(run, seen_by(run, photos)[..., np.newaxis])
    return Guesses(run, softmax(logits.astype(np.float64), axis=1))


def seen_by(run: TrainedRun, photos: Iterable[Photo]) -> Array:
    """Return the pictures at the run's image size, uint8 (N, H, W)."""
    return resize(np.stack([photo.cutout.seen for photo in photos]), run.recipe.image_size)


def remarks(photos: Sequence[Photo], left_out: Sequence[Path]) -> Iterable[str]:
    """Yield what a person should know of pictures that were classified, and what was left out."""
    for photo in photos:
        for note in photo.notes:
            yield f"{printable(photo.path)}: {note}"
    if left_out:
        names = [printable(path) for path in left_out[:MOST_LEFT_OUT]]
        more = len(left_out) - len(names)
        yield (f"left out, no pictures: {', '.join(names)}{f' and {more:,} more' if more else ''}")


def lines_of(photos: Sequence[Photo], guesses: Sequence[Guesses]) -> Iterable[str]:
    """Yield for each picture a line, or with several runs one and a line for each run."""
    width = max((len(guess.run.name) for guess in guesses), default=0)
    for number, photo in enumerate(photos):
        words = [
            ", ".join(f"{name} {100 * share:.1f} %" for name, share in guess.most_likely(number))
            for guess in guesses
        ]
        if len(guesses) == 1:
            yield f"{printable(photo.path)}: {words[0]}"
            continue
        yield printable(photo.path)
        for guess, said in zip(guesses, words, strict=True):
            yield f"  {guess.run.name:{width}}  {said}"


def to_json(
    photos: Sequence[Photo],
    failures: Sequence[Failure],
    left_out: Sequence[Path],
    guesses: Sequence[Guesses],
) -> dict[str, Any]:
    """Return runs, each picture's class and probabilities by each run, failures, and the rest."""
    return {
        "runs": [
            {
                "run": str(guess.run.folder),
                "engine": guess.run.record.engine,
                "variant": guess.run.recipe.variant,
                "image_size": guess.run.recipe.image_size,
                "class_names": list(guess.run.class_names),
            }
            for guess in guesses
        ],
        "images": [
            {
                "file": str(photo.path),
                "object": dict(zip(SIDES, photo.cutout.box, strict=True)),
                "notes": list(photo.notes),
                "predictions": [
                    {
                        "class": guess.most_likely(n)[0][0],
                        "probabilities": dict(
                            zip(guess.run.class_names, guess.probabilities[n].tolist(), strict=True)
                        ),
                    }
                    for guess in guesses
                ],
            }
            for n, photo in enumerate(photos)
        ],
        "failures": [{"file": str(found.path), "reason": found.reason} for found in failures],
        "left_out": [str(path) for path in left_out],
    }


def printable(path: Path | str) -> str:
    """Return a file's name without what would steer the terminal or cannot be encoded."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(path)
    )
