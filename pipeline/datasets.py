"""The data set: where it lies, in which form, whether it is right, and what it holds."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from ladder.files import read_limited
from pipeline.errors import UsageError
from pipeline.idx import (
    IDX_FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    Array,
    IdxFile,
    read_idx,
)

DATA_VARIABLE = "FASHION_MNIST_DIR"
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
FETCH_COMMAND = "python scripts/fetch_data.py"

FASHION_MNIST = "fashion-mnist"
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
NUM_CLASSES = len(FASHION_MNIST_CLASSES)
DIGIT_CLASSES = tuple(str(label) for label in range(NUM_CLASSES))

CLASS_NAMES = "class_names.txt"
MAX_NAMES_BYTES = 64 * 1024


@dataclass(frozen=True)
class Dataset:
    """A data set as its files hold it; the arrays are read-only and may be memory-mapped."""

    folder: Path
    name: str
    """`fashion-mnist`, or for any other set its folder's name and the fingerprint's start."""
    fingerprint: str
    """SHA-256 over the four files' SHA-256, in hexadecimal; of another form, as IDX files."""
    class_names: tuple[str, ...]
    first_label: int
    """What the files call class 0."""
    train_images: Array
    """uint8 (N, H, W)."""
    train_labels: Array
    """uint8 (N,), from 0."""
    test_images: Array
    test_labels: Array


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the project's own folder for the data set, whether it exists or not."""
    base = environ.get("XDG_CACHE_HOME", "")
    app = "keras-lightning-parity"
    root = Path(base) / app if os.path.isabs(base) else platformdirs.user_cache_path(app)
    return root / "fashion-mnist"


def find_dataset(data_dir: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder to read: `data_dir`, `FASHION_MNIST_DIR`, or one of `usual_folders`.

    The first two are what the caller named and are taken as they are; the others count only
    where all four files are there.

    Raises:
        UsageError: a folder that was named is missing, or there is no data set anywhere.
    """
    named = data_dir or (Path(environ[DATA_VARIABLE]) if environ.get(DATA_VARIABLE) else None)
    if named is not None:
        flag = "--data-dir" if data_dir else DATA_VARIABLE
        return _existing_folder(named.expanduser(), flag)
    for folder in usual_folders(environ):
        if all(find_file(folder, file) for file in IDX_FILES):
            return folder
    raise UsageError(
        f"the data set is not here: run `{FETCH_COMMAND}`, or name a folder with the four IDX "
        f"files by `--data-dir` or {DATA_VARIABLE}"
    )


def usual_folders(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return where Fashion-MNIST may lie: our cache, Debian's, torchvision's, Keras's folders."""
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    keras = Path(environ.get("KERAS_HOME") or home / ".keras") / "datasets" / "fashion-mnist"
    roots = (Path("data"), Path(), home / "data", home)
    torchvision = (root / "FashionMNIST" / "raw" for root in roots)
    return (cache_dir(environ), DEBIAN_DIR, *torchvision, keras)


def find_dataset_again(recorded: Mapping[str, Any], data_dir: Path | None) -> Path:
    """Return the folder of the data that a run's record describes: `data_dir`, or the one recorded.

    Where that is gone, or the record is too old to name one, it is looked for as for a new run.

    Raises:
        UsageError: as `find_dataset`.
    """
    folder = recorded.get("folder")
    if data_dir is None and isinstance(folder, str) and os.path.exists(folder):
        return Path(folder)
    return find_dataset(data_dir)


def find_file(folder: Path, file: IdxFile) -> Path | None:
    """Return the path of `file` in `folder`, plain or `.gz`, None where neither is there."""
    for path in (folder / file.name, folder / f"{file.name}.gz"):
        if os.path.lexists(path):
            return path
    return None


def load_dataset(folder: Path) -> Dataset:
    """Read and check the data set in `folder`: four IDX files, plain or `.gz`, or another form.

    A file `class_names.txt` beside it, one a line, names the classes.

    Raises:
        UsageError: a file is missing, damaged or not what its name says, or the files don't
            belong together; in the cache and in Debian's folder, also a set that is not
            Fashion-MNIST.
    """
    try:
        return _load(folder)
    except UsageError as error:
        if remedy := _remedy(folder):
            raise UsageError(f"{error}; {remedy}") from error
        raise


def _load(place: Path) -> Dataset:
    if place.is_dir() and not os.access(place, os.R_OK | os.X_OK):
        raise UsageError(f"cannot read {place}: permission denied")
    paths = {file: path for file in IDX_FILES if (path := find_file(place, file))}
    if len(paths) < len(IDX_FILES):
        from pipeline.forms import idx_paths

        paths = idx_paths(place)
    if not paths:
        from pipeline.forms import read_other_form

        folder = place
        arrays, digests, names = read_other_form(place)
    else:
        folder, names = next(iter(paths.values())).parent, None
        arrays, digests = {}, []
        for file in IDX_FILES:
            if file not in paths:
                raise UsageError(f"{folder} holds neither {file.name} nor {file.name}.gz")
            arrays[file], digest = read_idx(paths[file], file)
            digests.append(digest)
    _check_fit(folder, arrays)
    foreign = [
        file for file, digest in zip(IDX_FILES, digests, strict=True) if digest != file.sha256
    ]
    if foreign and _remedy(folder):
        path = find_file(folder, foreign[0])
        raise UsageError(f"{path} is not Fashion-MNIST's (SHA-256 of the unpacked file)")
    fingerprint = hashlib.sha256("".join(digests).encode()).hexdigest()
    names = named_classes(folder) or names or (None if foreign else FASHION_MNIST_CLASSES)
    first, names = _classes(folder, names, arrays[TRAIN_LABELS], arrays[TEST_LABELS])
    return Dataset(
        folder=folder,
        name=(
            f"idx-set {folder.resolve().name} (sha256 {fingerprint[:12]})"
            if foreign
            else FASHION_MNIST
        ),
        fingerprint=fingerprint,
        class_names=names,
        first_label=first,
        train_images=arrays[TRAIN_IMAGES],
        train_labels=_from_zero(arrays[TRAIN_LABELS], first),
        test_images=arrays[TEST_IMAGES],
        test_labels=_from_zero(arrays[TEST_LABELS], first),
    )


def _check_fit(folder: Path, arrays: dict[IdxFile, Array]) -> None:
    """Check that each image has its label, and that all images are of one size."""
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        if len(arrays[images]) != len(arrays[labels]):
            raise UsageError(
                f"{folder}: {images.name} holds {len(arrays[images]):,} images "
                f"but {labels.name} {len(arrays[labels]):,} labels"
            )
    train, test = arrays[TRAIN_IMAGES].shape[1:], arrays[TEST_IMAGES].shape[1:]
    if train != test:
        raise UsageError(
            f"{folder}: training and test images must be of one size; "
            f"received {train[0]}×{train[1]} and {test[0]}×{test[1]}"
        )


def named_classes(folder: Path) -> tuple[str, ...] | None:
    """Return the lines of `class_names.txt`, None where there is none.

    Raises:
        UsageError: unreadable, too large, or with two classes of one name.
    """
    path = (folder if folder.is_dir() else folder.parent) / CLASS_NAMES
    if not path.exists():
        return None
    try:
        lines = read_limited(path, MAX_NAMES_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names) or not all(map(str.isprintable, names)):
        raise UsageError(f"{path} must name each class in a line, each by another name")
    return names


def _classes(
    folder: Path, names: tuple[str, ...] | None, train_labels: Array, test_labels: Array
) -> tuple[int, tuple[str, ...]]:
    """Return the first label and the classes' names; without names, those of digits or numbers.

    Raises:
        UsageError: more labels than names, or a test label that no training image has.
    """
    low, high = int(train_labels.min()), int(train_labels.max())
    if names is None and high < NUM_CLASSES:
        low, names = 0, DIGIT_CLASSES
    elif names is None:
        low = min(low, 1)
        names = tuple(str(label) for label in range(low, high + 1))
    elif high < len(names):
        low = 0
    last = low + len(names) - 1
    for file, labels in ((TRAIN_LABELS, train_labels), (TEST_LABELS, test_labels)):
        wrong = np.flatnonzero((labels < low) | (labels > last))
        if len(wrong):
            raise UsageError(
                f"{folder}: labels in {file.name} must be within {low}–{last}; received "
                f"{labels[wrong[0]]} at position {wrong[0]} ({CLASS_NAMES} may name more classes)"
            )
    return low, names


def _from_zero(labels: Array, first: int) -> Array:
    if first == 0:
        return labels
    shifted = labels - np.uint8(first)
    shifted.flags.writeable = False
    return shifted


def _existing_folder(folder: Path, flag: str) -> Path:
    try:
        if folder.is_dir() or (folder.is_file() and folder.suffix == ".npz"):
            return folder
        problem = "is not a folder" if folder.exists() else "does not exist"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise UsageError(f"the data folder {folder} ({flag}) {problem}")


def _remedy(folder: Path) -> str | None:
    """Return how to mend a folder that the project fills or Debian does; None for any other."""
    if folder.absolute() == DEBIAN_DIR:
        return "reinstall Debian's package dataset-fashion-mnist"
    is_cache = folder.absolute() == cache_dir().absolute()
    return f"run `{FETCH_COMMAND}` to replace it" if is_cache else None
