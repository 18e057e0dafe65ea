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
        is_packed = start.startswith(GZIP_MAGIC)
        if not file.is_images:
            unpacked = start if not is_packed else _start_of_packed(path)
            if int.from_bytes(unpacked[:4], "big") in INTEGER_LABELS_MAGIC:
                return _read_integers(path, is_packed)
        return _read_packed(path, file) if is_packed else _read_plain(path, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


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
    values.flags.writeable = False  # as a memory-mapped file's are
    return values.reshape(shape), idx_digest(file, values.reshape(shape))


def _start_of_packed(path: Path) -> bytes:
    with gzip.open(path, "rb") as stream:
        return stream.read(4)


def _read_integers(path: Path, is_packed: bool) -> tuple[Array, str]:
    """Read labels of type int32; the SHA-256 is that of the same labels in one byte each."""
    with gzip.open(path, "rb") if is_packed else path.open("rb") as stream:
        num_dimensions = int.from_bytes(stream.read(4), "big") & 0xFF
        sizes = stream.read(4 * num_dimensions)
        if len(sizes) < 4 * num_dimensions:
            raise UsageError(f"{path} is cut off within the header, after {4 + len(sizes)} bytes")
        shape = struct.unpack(f">{num_dimensions}I", sizes)
        check_shape(path, (shape[0], 4 * math.prod(shape[1:])))
        if 0 in shape:
            raise UsageError(f"{path} is empty: its header names 0 items")
        num_bytes = 4 * math.prod(shape)
        content = stream.read(num_bytes + 1)
    header_bytes = 4 + len(sizes)
    _check_length(path, header_bytes + len(content), header_bytes + num_bytes)
    values = np.frombuffer(content, ">i4").reshape(shape)
    labels = small_labels(path, values if num_dimensions == 1 else values[:, 0])
    labels.flags.writeable = False
    return labels, idx_digest(TRAIN_LABELS, labels)


def idx_digest(file: IdxFile, array: Array) -> str:
    """Return the SHA-256 of an IDX file with `array`, uint8."""
    digest = hashlib.sha256(struct.pack(f">{1 + array.ndim}I", file.magic, *array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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
    kind = "images" if file.is_images else "labels"
    if len(header) >= 4 and int.from_bytes(header[:4], "big") != file.magic:
        raise UsageError(
            f"{path} is not an IDX file of {kind}: its magic number is 0x{header[:4].hex()} "
            f"where 0x{file.magic:08x} is expected"
        )
    if len(header) < file.header_bytes:
        raise UsageError(f"{path} is cut off within the header, after {len(header)} bytes")
    shape = struct.unpack(f">{len(header) // 4 - 1}I", header[4:])
    check_shape(path, shape)
    return shape


def check_shape(path: Path, shape: tuple[int, ...]) -> None:
    """Check that (N, H, W) or (N,) is a shape that is read.

    Raises:
        UsageError: it is empty, too large, or not of square images.
    """
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
