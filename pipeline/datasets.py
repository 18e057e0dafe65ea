"""The data set: where its four IDX files lie, whether they are right, and what they hold.

The IDX format is described at the end of http://yann.lecun.com/exdb/mnist/: a big-endian magic
number, the sizes of all dimensions, then the values, here all of type uint8.
"""

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import platformdirs

from pipeline.errors import UsageError

Array = np.ndarray[Any, Any]

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

IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
MAX_IMAGE_SIDE = 1024
MAX_UNPACKED_BYTES = 1024**3
# Deflate packs at most 1,032 bytes into one: a smaller file cannot hold what its header says.
MAX_DEFLATE_RATIO = 1032
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class IdxFile:
    """One of the four files: its name without `.gz`, and Fashion-MNIST's own SHA-256."""

    name: str
    magic: int
    num_bytes: int
    """Size of Fashion-MNIST's own file, unpacked."""
    sha256: str
    """Of the unpacked file; the packed bytes differ from source to source."""

    @property
    def header_bytes(self) -> int:
        """Return the size of magic number and dimensions; the magic's last byte counts these."""
        return 4 + 4 * (self.magic & 0xFF)


TRAIN_IMAGES = IdxFile(
    "train-images-idx3-ubyte",
    IMAGES_MAGIC,
    47_040_016,
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
)
TRAIN_LABELS = IdxFile(
    "train-labels-idx1-ubyte",
    LABELS_MAGIC,
    60_008,
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
)
TEST_IMAGES = IdxFile(
    "t10k-images-idx3-ubyte",
    IMAGES_MAGIC,
    7_840_016,
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
)
TEST_LABELS = IdxFile(
    "t10k-labels-idx1-ubyte",
    LABELS_MAGIC,
    10_008,
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
IDX_FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


@dataclass(frozen=True)
class Dataset:
    """A data set as its files hold it; the arrays are read-only and may be memory-mapped."""

    folder: Path
    name: str
    """`fashion-mnist`, or for any other IDX set its folder's name and the fingerprint's start."""
    fingerprint: str
    """SHA-256 over the four files' SHA-256, in hexadecimal."""
    class_names: tuple[str, ...]
    train_images: Array
    """uint8 (N, H, W)."""
    train_labels: Array
    """uint8 (N,)."""
    test_images: Array
    test_labels: Array


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the project's own folder for the data set, whether it exists or not."""
    base = environ.get("XDG_CACHE_HOME", "")
    app = "keras-lightning-parity"
    root = Path(base) / app if os.path.isabs(base) else platformdirs.user_cache_path(app)
    return root / "fashion-mnist"


def find_dataset(data_dir: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder to read: `data_dir`, `FASHION_MNIST_DIR`, the cache, or Debian's.

    The first two are what the caller named and are taken as they are; the last two count only
    where all four files are there.

    Raises:
        UsageError: a folder that was named is missing, or there is no data set anywhere.
    """
    named = data_dir or (Path(environ[DATA_VARIABLE]) if environ.get(DATA_VARIABLE) else None)
    if named is not None:
        flag = "--data-dir" if data_dir else DATA_VARIABLE
        return _existing_folder(named.expanduser(), flag)
    for folder in (cache_dir(environ), DEBIAN_DIR):
        if all(find_file(folder, file) for file in IDX_FILES):
            return folder
    raise UsageError(
        f"the data set is not here: run `{FETCH_COMMAND}`, or name a folder with the four IDX "
        f"files by `--data-dir` or {DATA_VARIABLE}"
    )


def find_file(folder: Path, file: IdxFile) -> Path | None:
    """Return the path of `file` in `folder`, plain or `.gz`, None where neither is there."""
    for path in (folder / file.name, folder / f"{file.name}.gz"):
        if os.path.lexists(path):
            return path
    return None


def load_dataset(folder: Path) -> Dataset:
    """Read and check the four IDX files in `folder`, each plain or `.gz`.

    Raises:
        UsageError: a file is missing, damaged or not what its name says, or the files don't
            belong together; in the cache and in Debian's folder, also a set that is not
            Fashion-MNIST.
    """
    try:
        return _load(folder)
    except UsageError as error:
        if not _is_ours(folder):
            raise
        raise UsageError(f"{error}; {_remedy(folder)}") from error


def read_idx(path: Path, file: IdxFile) -> tuple[Array, str]:
    """Read one IDX file; return its values, uint8 and read-only, and its SHA-256.

    Raises:
        UsageError: unreadable, or not an IDX file of the kind and length that it should be.
    """
    try:
        if not path.is_file():
            raise UsageError(f"{path} is not a file")
        if path.suffix == ".gz":
            return _read_packed(path, file)
        return _read_plain(path, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _load(folder: Path) -> Dataset:
    arrays, digests = {}, []
    for file in IDX_FILES:
        arrays[file], digest = read_idx(_require_file(folder, file), file)
        digests.append(digest)
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        _check_pair(folder, images, arrays[images], labels, arrays[labels])
    _check_sizes(folder, arrays[TRAIN_IMAGES], arrays[TEST_IMAGES])
    foreign = [
        file for file, digest in zip(IDX_FILES, digests, strict=True) if digest != file.sha256
    ]
    if foreign and _is_ours(folder):
        path = find_file(folder, foreign[0])
        raise UsageError(f"{path} is not Fashion-MNIST's (SHA-256 of the unpacked file)")
    fingerprint = hashlib.sha256("".join(digests).encode()).hexdigest()
    return Dataset(
        folder=folder,
        name=_foreign_name(folder, fingerprint) if foreign else FASHION_MNIST,
        fingerprint=fingerprint,
        class_names=DIGIT_CLASSES if foreign else FASHION_MNIST_CLASSES,
        train_images=arrays[TRAIN_IMAGES],
        train_labels=arrays[TRAIN_LABELS],
        test_images=arrays[TEST_IMAGES],
        test_labels=arrays[TEST_LABELS],
    )


def _existing_folder(folder: Path, flag: str) -> Path:
    try:
        if folder.is_dir():
            return folder
        problem = "is not a folder" if folder.exists() else "does not exist"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise UsageError(f"the data folder {folder} ({flag}) {problem}")


def _require_file(folder: Path, file: IdxFile) -> Path:
    path = find_file(folder, file)
    if path is None and folder.is_dir() and not os.access(folder, os.X_OK):
        raise UsageError(f"cannot read {folder}: permission denied")
    if path is None:
        raise UsageError(f"{folder} holds neither {file.name} nor {file.name}.gz")
    return path


def _is_ours(folder: Path) -> bool:
    """Tell whether only Fashion-MNIST itself may lie in `folder`."""
    return folder.absolute() in (cache_dir().absolute(), DEBIAN_DIR)


def _remedy(folder: Path) -> str:
    if folder.absolute() == DEBIAN_DIR:
        return "reinstall Debian's package dataset-fashion-mnist"
    return f"run `{FETCH_COMMAND}` to replace it"


def _foreign_name(folder: Path, fingerprint: str) -> str:
    return f"idx-set {folder.resolve().name} (sha256 {fingerprint[:12]})"


def _read_plain(path: Path, file: IdxFile) -> tuple[Array, str]:
    with path.open("rb") as stream:
        shape = _read_header(path, stream, file)
        expected = file.header_bytes + math.prod(shape)
        _check_length(path, os.fstat(stream.fileno()).st_size, expected)
        mapped = np.memmap(stream, np.uint8, mode="r", offset=file.header_bytes, shape=shape)
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return np.asarray(mapped), digest


def _read_packed(path: Path, file: IdxFile) -> tuple[Array, str]:
    with gzip.open(path, "rb") as stream:
        shape = _read_header(path, stream, file)
        num_bytes = math.prod(shape)
        if num_bytes > path.stat().st_size * MAX_DEFLATE_RATIO:
            raise UsageError(f"{path} is too short for the {num_bytes:,} values its header names")
        values = np.empty(num_bytes, np.uint8)
        filled = _fill(stream, values.data)
        longer = len(stream.read(1))
    _check_length(path, file.header_bytes + filled + longer, file.header_bytes + num_bytes)
    digest = hashlib.sha256(struct.pack(f">{1 + len(shape)}I", file.magic, *shape))
    digest.update(values.data)
    values.flags.writeable = False  # as a memory-mapped file's are
    return values.reshape(shape), digest.hexdigest()


def _fill(stream: BinaryIO | gzip.GzipFile, buffer: memoryview) -> int:
    """Read until `buffer` is full or `stream` ends; return how many bytes were read."""
    filled = 0
    while filled < len(buffer):
        chunk = stream.read(min(CHUNK_BYTES, len(buffer) - filled))
        if not chunk:
            break
        buffer[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return filled


def _read_header(path: Path, stream: BinaryIO | gzip.GzipFile, file: IdxFile) -> tuple[int, ...]:
    """Return the shape, (N, H, W) or (N,), that the header at the start of `stream` names."""
    header = stream.read(file.header_bytes)
    kind = "images" if file.magic == IMAGES_MAGIC else "labels"
    if len(header) >= 4 and int.from_bytes(header[:4], "big") != file.magic:
        raise UsageError(
            f"{path} is not an IDX file of {kind}: its magic number is 0x{header[:4].hex()} "
            f"where 0x{file.magic:08x} is expected"
        )
    if len(header) < file.header_bytes:
        raise UsageError(f"{path} is cut off within the header, after {len(header)} bytes")
    shape = struct.unpack(f">{len(header) // 4 - 1}I", header[4:])
    _check_shape(path, shape)
    return shape


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    if shape[0] == 0:
        raise UsageError(f"{path} is empty: its header names 0 items")
    if len(shape) == 3 and (shape[1] != shape[2] or not 1 <= shape[1] <= MAX_IMAGE_SIDE):
        raise UsageError(
            f"{path}: images must be square with 1 to {MAX_IMAGE_SIDE} pixels a side; "
            f"received {shape[1]}×{shape[2]}"
        )
    if math.prod(shape) > MAX_UNPACKED_BYTES:
        raise UsageError(
            f"{path}: its header names {math.prod(shape):,} bytes, "
            f"more than the {MAX_UNPACKED_BYTES:,} allowed"
        )


def _check_length(path: Path, received: int, expected: int) -> None:
    if received < expected:
        raise UsageError(
            f"{path} is cut off: it holds {received:,} bytes where its header names {expected:,}"
        )
    if received > expected:
        raise UsageError(f"{path} is longer than the {expected:,} bytes that its header names")


def _check_pair(
    folder: Path, images_file: IdxFile, images: Array, labels_file: IdxFile, labels: Array
) -> None:
    if len(images) != len(labels):
        raise UsageError(
            f"{folder}: {images_file.name} holds {len(images):,} images "
            f"but {labels_file.name} {len(labels):,} labels"
        )
    if labels.max() >= NUM_CLASSES:
        position = int(np.argmax(labels >= NUM_CLASSES))
        raise UsageError(
            f"{folder}: labels in {labels_file.name} must be within 0–{NUM_CLASSES - 1}; "
            f"received {labels[position]} at position {position}"
        )


def _check_sizes(folder: Path, train_images: Array, test_images: Array) -> None:
    train, test = train_images.shape[1:], test_images.shape[1:]
    if train != test:
        raise UsageError(
            f"{folder}: training and test images must be of one size; "
            f"received {train[0]}×{train[1]} and {test[0]}×{test[1]}"
        )
