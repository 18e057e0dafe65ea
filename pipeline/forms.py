"""How else people have a data set: IDX files by other names, npz, CSV, and folders of pictures.

Each reader returns None where a folder holds nothing of its form.
"""

import io
import math
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets import find_file
from pipeline.errors import UsageError
from pipeline.idx import (
    IDX_FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    IdxFile,
    check_shape,
    idx_digest,
    small_labels,
)
from pipeline.npz import read_member

Array = np.ndarray[Any, Any]

MAX_BYTES = 1024**3
MAX_LINE_BYTES = 16 * 1024**2
MAX_SIDE = 1024
NPZ_NAMES = ("x_train", "y_train", "x_test", "y_test")
PICTURE_FOLDERS = (("train", "training"), ("test", "testing"))
PICTURE_KINDS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
GREY_OR_COLOUR = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
WANTED = (
    "the four IDX files, an npz with x_train, y_train, x_test and y_test, a *train*.csv and a "
    "*test*.csv of label and pixels, or pictures in train/CLASS and test/CLASS"
)


RAW_FOLDERS = ("", "raw", "*/raw")
"""Where in a named folder the IDX files may lie: in torchvision's root, two below."""


@dataclass(frozen=True)
class Found:
    """What a form holds: images uint8 (N, H, W), labels integers (N,)."""

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    class_names: tuple[str, ...] | None = None


def idx_paths(place: Path) -> dict[IdxFile, Path]:
    """Return the IDX files in a folder or, as in torchvision's root, below it.

    Raises:
        UsageError: there are several sets.
    """
    best: list[dict[IdxFile, Path]] = [{}]
    for pattern in RAW_FOLDERS:
        for folder in sorted(place.glob(pattern)) if pattern else [place]:
            paths = _idx_paths_in(folder) if folder.is_dir() else {}
            if len(paths) > len(best[0]):
                best = [paths]
            elif paths and len(paths) == len(best[0]) and best[0][TRAIN_IMAGES].parent != place:
                best.append(paths)
    if len(best) > 1:
        folders = ", ".join(str(next(iter(paths.values())).parent) for paths in best)
        raise UsageError(f"{place} holds several data sets: name one of {folders}")
    return best[0]


def _idx_paths_in(folder: Path) -> dict[IdxFile, Path]:
    exact = {file: path for file in IDX_FILES if (path := find_file(folder, file))}
    if exact or not os.access(folder, os.R_OK | os.X_OK):
        return exact
    sets: dict[str, dict[IdxFile, Path]] = {}
    for path in sorted(folder.iterdir()):
        for file in IDX_FILES:
            if match := file.also_named.fullmatch(path.name):
                sets.setdefault(match[1], {}).setdefault(file, path)
    if len(sets) > 1:
        names = ", ".join(sorted(name.strip("-_") or "one without a name" for name in sets))
        raise UsageError(
            f"{folder} holds several data sets ({names}): put the four files of one in a folder of "
            "its own"
        )
    return next(iter(sets.values()), {})


def read_other_form(
    place: Path,
) -> tuple[dict[IdxFile, Array], list[str], tuple[str, ...] | None]:
    """Read a data set from a folder, or a file, that holds one of these forms.

    Returns the arrays, the SHA-256 that each would have as an IDX file, and the classes' names.

    Raises:
        UsageError: it holds none, or one that is damaged, too large, or not of grey square images.
    """
    found = next(filter(None, (read(place) for read in READERS)), None)
    if found is None:
        raise UsageError(f"{place} holds {what_lies_in(place)}; wanted: {WANTED}")
    arrays = {
        TRAIN_IMAGES: found.train_images,
        TRAIN_LABELS: small_labels(place, found.train_labels),
        TEST_IMAGES: found.test_images,
        TEST_LABELS: small_labels(place, found.test_labels),
    }
    for file, array in arrays.items():
        check_shape(place, array.shape)
        arrays[file] = np.ascontiguousarray(array)
        arrays[file].flags.writeable = False
    digests = [idx_digest(file, array) for file, array in arrays.items()]
    return arrays, digests, found.class_names


def what_lies_in(place: Path) -> str:
    """Return the first few names in a folder."""
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else [place.name]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return shown or "nothing"


def read_npz(path: Path) -> Found:
    """Read Keras's form, as in its mnist.npz; never a pickle.

    Raises:
        UsageError: it is damaged, too large, or holds other arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = [read_member(archive, name, MAX_BYTES) for name in NPZ_NAMES]
    except Exception as error:  # zipfile, zlib and NumPy each raise their own
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot read {path}: {reason}") from error
    for index, name in enumerate(NPZ_NAMES):
        num_dimensions, kinds, wanted = (
            (3, "uint8", "uint8 (N, H, W)") if name[0] == "x" else (1, "ui", "integers (N,)")
        )
        array = arrays[index]
        if array.ndim == num_dimensions + 1 and array.shape[-1] == 1:
            arrays[index] = array = array[..., 0]
        is_right = array.dtype.kind in kinds and (name[0] == "y" or array.dtype == np.uint8)
        if not is_right or array.ndim != num_dimensions:
            raise UsageError(f"{path}: {name} is {array.dtype} {array.shape}, not {wanted}")
    return Found(arrays[0], arrays[1], arrays[2], arrays[3])


def read_csv(path: Path) -> tuple[Array, Array]:
    """Read a line an image: its label, then its pixels, row by row; return images and labels.

    Raises:
        UsageError: unreadable, too large, or other than whole numbers of 0–255.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than the {MAX_BYTES:,} bytes allowed")
        with path.open("rb") as stream:
            first = stream.readline(MAX_LINE_BYTES)
        num_pixels = first.count(b",")
        side = math.isqrt(num_pixels)
        if side * side != num_pixels or not 1 <= side <= MAX_SIDE:
            raise UsageError(
                f"{path} has {num_pixels + 1} columns where a label and the pixels of a square "
                "image are wanted"
            )
        has_names = not first.lstrip()[:1].isdigit()
        with warnings.catch_warnings(action="error"):  # NumPy's of no data, and of fractions
            table = np.loadtxt(
                path, np.uint8, delimiter=",", skiprows=int(has_names), ndmin=2, comments=None
            )
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, OverflowError, Warning) as error:
        raise UsageError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if table.shape[1:] != (num_pixels + 1,) or not len(table):
        raise UsageError(f"{path} holds no images")
    return table[:, 1:].reshape(-1, side, side), table[:, 0]


def read_pictures(folder: Path, names: list[str]) -> tuple[Array, Array]:
    """Read the pictures in a folder for each class, as grey; return images and labels.

    Raises:
        UsageError: one cannot be read, or is of another size than the first.
    """
    images: list[Array] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        for path in sorted((folder / name).glob("[!.]*")):
            image = _read_picture(path)
            if image.shape != (images or [image])[0].shape:
                (height, width), (first_height, first_width) = image.shape, images[0].shape
                raise UsageError(
                    f"{path} has {width}×{height} pixels where others have "
                    f"{first_width}×{first_height}: all must have one size"
                )
            images.append(image)
            labels.append(label)
            if len(images) * image.size > MAX_BYTES:
                raise UsageError(f"{folder} holds more than the {MAX_BYTES:,} pixels allowed")
    if not images:
        raise UsageError(f"{folder} holds no pictures")
    return np.stack(images), np.asarray(labels)


def _npz_form(place: Path) -> Found | None:
    paths = [place] if place.is_file() else sorted(place.glob("*.npz"))
    return read_npz(paths[0]) if len(paths) == 1 and paths[0].suffix == ".npz" else None


def _csv_form(place: Path) -> Found | None:
    tables = [path for path in place.glob("*.csv") if place.is_dir()]
    train, test = ([path for path in tables if part in path.name] for part in ("train", "test"))
    if len(train) != 1 or len(test) != 1:
        return None
    return Found(*read_csv(train[0]), *read_csv(test[0]))


def _pictures_form(place: Path) -> Found | None:
    folders = [
        next((place / name for name in names if (place / name).is_dir()), None)
        for names in PICTURE_FOLDERS
    ]
    train, test = folders
    if train is None or test is None:
        return None
    names = _classes_in(train)
    if unknown := set(_classes_in(test)) - set(names):
        raise UsageError(f"{test} has the class {min(unknown)}, which {train} has not")
    return Found(*read_pictures(train, names), *read_pictures(test, names), tuple(names))


def _classes_in(folder: Path) -> list[str]:
    names = [path.name for path in folder.glob("[!.]*") if path.is_dir()]
    return sorted(names, key=lambda name: (int(name) if name.isdecimal() else math.inf, name))


def _read_picture(path: Path) -> Array:
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=PICTURE_KINDS) as image:
            if max(image.size) > MAX_SIDE:
                raise ValueError(f"it has more than {MAX_SIDE} pixels a side")
            if image.mode not in GREY_OR_COLOUR:
                raise ValueError(f"its levels are of the kind {image.mode}, not of 8 bits")
            return np.asarray(image.convert("L"))
    except Exception as error:  # Pillow's readers each raise their own
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot read the picture {path}: {reason}") from error


READERS: tuple[Callable[[Path], Found | None], ...] = (_npz_form, _csv_form, _pictures_form)
