"""IDX files: their four names, and reading one with limits.

The IDX format is described at the end of http://yann.lecun.com/exdb/mnist/: a big-endian magic
number, the sizes of all dimensions, then the values, of type uint8 or, in some labels, int32.
"""

import gzip
import hashlib
import math
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.errors import UsageError

Array = np.ndarray[Any, Any]

IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801
INTEGER_LABELS_MAGIC = (0x00000C01, 0x00000C02)
"""Labels as int32, (N,) or, as QMNIST's, the first column of (N, columns)."""
MAX_CLASSES = 256
GZIP_MAGIC = b"\x1f\x8b"
FOREIGN_CONTENT = (
    (rb"\s*<(!doctype|html|\?xml)", "a web page, not data: download the file itself"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not data: run `git lfs pull`"),
)
MAX_IMAGE_SIDE = 1024
MAX_UNPACKED_BYTES = 1024**3
# Deflate packs at most 1,032 bytes into one: a smaller file cannot hold what its header says.
MAX_DEFLATE_RATIO = 1032


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
    def is_images(self) -> bool:
        """Return whether it holds images, not labels."""
        return self.magic == IMAGES_MAGIC

    @property
    def also_named(self) -> re.Pattern[str]:
        """A pattern of the file's names elsewhere: unzipped by Kaggle, EMNIST's, QMNIST's."""
        part = "train" if self.name.startswith("train") else "(?:t10k|test)"
        kind = "images[-.]idx3-ubyte" if self.is_images else "labels[-.](?:idx1-ubyte|idx2-int)"
        return re.compile(rf"(|.*[-_]){part}-{kind}(?:\.gz)?")


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


def read_idx(path: Path, file: IdxFile) -> tuple[Array, str]:
    """Read one IDX file; return its values, uint8 and read-only, and its SHA-256.

    Labels of type int32 become uint8, and have the SHA-256 of the same labels in one byte each.

    Raises:
        UsageError: unreadable, or not an IDX file of the kind and length that it should be.
    """
    try:
        if not path.is_file():
            raise UsageError(f"{path} is not a file")
        with path.open("rb") as stream:
            start = stream.read(256)
        for pattern, what in FOREIGN_CONTENT:
            if re.match(pattern, start, re.IGNORECASE):
                raise UsageError(f"{path} is {what}")
        values = (
            _read_packed(path, file) if start.startswith(GZIP_MAGIC) else _read_plain(path, file)
        )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if values.dtype != np.uint8:
        values = small_labels(path, values.reshape(len(values), -1)[:, 0])
        values.flags.writeable = False
    return values, idx_digest(file, values)


def _read_plain(path: Path, file: IdxFile) -> Array:
    with path.open("rb") as stream:
        dtype, shape = _read_header(path, stream, file)
        offset = stream.tell()
        num_bytes = dtype.itemsize * math.prod(shape)
        _check_length(path, os.fstat(stream.fileno()).st_size, offset + num_bytes)
        return np.asarray(np.memmap(stream, dtype, mode="r", offset=offset, shape=shape))


def _read_packed(path: Path, file: IdxFile) -> Array:
    with gzip.open(path, "rb") as stream:
        dtype, shape = _read_header(path, stream, file)
        num_bytes = dtype.itemsize * math.prod(shape)
        if num_bytes > path.stat().st_size * MAX_DEFLATE_RATIO:
            values = f"{math.prod(shape):,} values"
            raise UsageError(f"{path} is too short for the {values} its header names")
        content = stream.read(num_bytes + 1)
    header_bytes = 4 + 4 * len(shape)
    _check_length(path, header_bytes + len(content), header_bytes + num_bytes)
    return np.frombuffer(content, dtype).reshape(shape)


def idx_digest(file: IdxFile, array: Array) -> str:
    """Return the SHA-256 of an IDX file with `array`, uint8."""
    digest = hashlib.sha256(struct.pack(f">{1 + array.ndim}I", file.magic, *array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_header(
    path: Path, stream: BinaryIO | gzip.GzipFile, file: IdxFile
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return type and shape, (N, H, W), (N,) or (N, columns), that a file's header names."""
    start = stream.read(4)
    magic = int.from_bytes(start, "big")
    is_integer = not file.is_images and magic in INTEGER_LABELS_MAGIC
    if len(start) == 4 and magic != file.magic and not is_integer:
        raise UsageError(
            f"{path} is not an IDX file of {'images' if file.is_images else 'labels'}: its magic "
            f"number is 0x{magic:08x} where 0x{file.magic:08x} is expected"
        )
    num_dimensions = magic & 0xFF
    sizes = stream.read(4 * num_dimensions)
    if len(start) < 4 or len(sizes) < 4 * num_dimensions:
        raise UsageError(
            f"{path} is cut off within the header, after {len(start) + len(sizes)} bytes"
        )
    shape = struct.unpack(f">{num_dimensions}I", sizes)
    dtype = np.dtype(">i4" if is_integer else np.uint8)
    check_shape(path, shape, dtype.itemsize)
    return dtype, shape


def check_shape(path: Path, shape: tuple[int, ...], item_bytes: int = 1) -> None:
    """Check that (N, H, W), (N,) or (N, columns) is a shape that is read.

    Raises:
        UsageError: it is empty, too large, or not of square images.
    """
    if shape[0] == 0 or (len(shape) < 3 and 0 in shape):
        raise UsageError(f"{path} is empty: its header names 0 items")
    if len(shape) == 3 and (shape[1] != shape[2] or not 1 <= shape[1] <= MAX_IMAGE_SIDE):
        raise UsageError(
            f"{path}: images must be square with 1 to {MAX_IMAGE_SIDE} pixels a side; "
            f"received {shape[1]}×{shape[2]}"
        )
    num_bytes = item_bytes * math.prod(shape)
    if num_bytes > MAX_UNPACKED_BYTES:
        raise UsageError(
            f"{path}: its header names {num_bytes:,} bytes, "
            f"more than the {MAX_UNPACKED_BYTES:,} allowed"
        )


def _check_length(path: Path, received: int, expected: int) -> None:
    if received < expected:
        raise UsageError(
            f"{path} is cut off: it holds {received:,} bytes where its header names {expected:,}"
        )
    if received > expected:
        raise UsageError(f"{path} is longer than the {expected:,} bytes that its header names")


def small_labels(path: Path, labels: Array) -> Array:
    """Return labels as uint8.

    Raises:
        UsageError: one does not fit.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= MAX_CLASSES))
    if len(wrong):
        raise UsageError(
            f"{path}: labels must lie within 0–{MAX_CLASSES - 1}; "
            f"received {labels[wrong[0]]} at position {wrong[0]}"
        )
    return labels.astype(np.uint8)
