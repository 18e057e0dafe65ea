import dataclasses
import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets import IDX_FILES, Dataset, find_dataset, load_dataset
from pipeline.drawn import draw_dataset, idx_bytes
from pipeline.errors import UsageError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (file.name for file in IDX_FILES)
NOWHERE = {"XDG_CACHE_HOME": "/nonexistent"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw_dataset(tmp_path / "shapes", 20, 10)
    return tmp_path / "shapes"


@pytest.fixture(scope="module")
def fashion_mnist(real_data: Path) -> Dataset:
    return load_dataset(real_data)


def pack(folder: Path, name: str, trailing: bytes = b"") -> Path:
    """Replace a file by its gzip, with bytes behind it."""
    plain = folder / name
    packed = folder / f"{name}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()) + trailing)
    plain.unlink()
    return packed


def rewrite(folder: Path, name: str, start: int, content: bytes) -> None:
    path = folder / name
    whole = bytearray(path.read_bytes())
    whole[start : start + len(content)] = content
    path.write_bytes(whole)


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


def spoil_checksum(packed: Path) -> None:
    content = packed.read_bytes()
    packed.write_bytes(content[:-8] + bytes(4) + content[-4:])


def big_endian(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def test_fashion_mnist_is_what_is_published(fashion_mnist: Dataset) -> None:
    assert fashion_mnist.name == "fashion-mnist"
    assert fashion_mnist.class_names[0] == "T-shirt/top"
    assert fashion_mnist.class_names[9] == "Ankle boot"
    assert fashion_mnist.train_images.shape == (60_000, 28, 28)
    assert fashion_mnist.test_images.shape == (10_000, 28, 28)
    pixels = fashion_mnist.train_images / np.float32(255)
    assert round(float(pixels.mean(dtype=np.float64)), 4) == 0.2860
    assert round(float(pixels.std(dtype=np.float64)), 4) == 0.3530
    assert np.bincount(fashion_mnist.train_labels).tolist() == [6_000] * 10
    assert np.bincount(fashion_mnist.test_labels).tolist() == [1_000] * 10


def test_arrays_are_uint8_and_read_only(fashion_mnist: Dataset, drawn_data: Path) -> None:
    for dataset in (fashion_mnist, load_dataset(drawn_data)):
        for part in ("train_images", "train_labels", "test_images", "test_labels"):
            array = getattr(dataset, part)
            assert array.dtype == np.uint8
            assert not array.flags.writeable


def test_plain_and_packed_files_give_the_same(folder: Path) -> None:
    plain = load_dataset(folder)
    for name in (TRAIN_IMAGES, TEST_LABELS):
        pack(folder, name)
    packed = load_dataset(folder)
    for field in dataclasses.fields(Dataset):
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(packed, field.name))


def test_a_foreign_set_is_named_as_what_it_is(folder: Path) -> None:
    dataset = load_dataset(folder)
    assert re.fullmatch(r"idx-set shapes \(sha256 [0-9a-f]{12}\)", dataset.name)
    assert dataset.fingerprint.startswith(dataset.name[-13:-1])
    assert dataset.class_names == tuple("0123456789")


def test_one_changed_pixel_changes_name_and_fingerprint(
    tmp_path: Path, real_data: Path, fashion_mnist: Dataset
) -> None:
    for file in IDX_FILES[1:]:
        source = datasets.find_file(real_data, file)
        assert source is not None
        (tmp_path / source.name).symlink_to(source)
    images = fashion_mnist.train_images.copy()
    images[0, 0, 0] ^= 1
    (tmp_path / TRAIN_IMAGES).write_bytes(idx_bytes(datasets.IMAGES_MAGIC, images))
    changed = load_dataset(tmp_path)
    assert changed.name.startswith("idx-set ")
    assert changed.fingerprint != fashion_mnist.fingerprint


def test_images_of_another_size_are_read(tmp_path: Path) -> None:
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        (tmp_path / images).write_bytes(idx_bytes(0x803, np.zeros((3, 32, 32), np.uint8)))
        (tmp_path / labels).write_bytes(idx_bytes(0x801, np.zeros(3, np.uint8)))
    assert load_dataset(tmp_path).train_images.shape == (3, 32, 32)


BAD_FILES = {
    "missing": (
        lambda folder: (folder / TEST_LABELS).unlink(),
        rf"holds neither {TEST_LABELS} nor {TEST_LABELS}\.gz",
    ),
    "a folder": (
        lambda folder: (
            (folder / TEST_LABELS).rename(folder / "aside"),
            (folder / TEST_LABELS).mkdir(),
        ),
        rf"{TEST_LABELS} is not a file",
    ),
    "dangling link": (
        lambda folder: (
            (folder / TEST_LABELS).rename(folder / "aside"),
            (folder / TEST_LABELS).symlink_to("gone"),
        ),
        rf"{TEST_LABELS} is not a file",
    ),
    "no byte": (
        lambda folder: (folder / TRAIN_IMAGES).write_bytes(b""),
        rf"{TRAIN_IMAGES} is cut off within the header, after 0 bytes",
    ),
    "half a header": (
        lambda folder: (folder / TRAIN_IMAGES).write_bytes(big_endian(0x803, 20)),
        rf"{TRAIN_IMAGES} is cut off within the header, after 8 bytes",
    ),
    "foreign": (
        lambda folder: (folder / TRAIN_IMAGES).write_bytes(b"\x89PNG" + bytes(100)),
        r"not an IDX file of images: its magic number is 0x89504e47 where 0x00000803",
    ),
    "labels where images belong": (
        lambda folder: (folder / TRAIN_IMAGES).write_bytes((folder / TRAIN_LABELS).read_bytes()),
        r"not an IDX file of images: its magic number is 0x00000801",
    ),
    "images where labels belong": (
        lambda folder: (folder / TEST_LABELS).write_bytes((folder / TEST_IMAGES).read_bytes()),
        r"not an IDX file of labels: its magic number is 0x00000803",
    ),
    "cut off": (
        lambda folder: cut(folder / TRAIN_IMAGES, 1),
        r"is cut off: it holds 15,695 bytes where its header names 15,696",
    ),
    "too long": (
        lambda folder: (folder / TRAIN_LABELS).write_bytes(
            (folder / TRAIN_LABELS).read_bytes() + b"\0"
        ),
        rf"{TRAIN_LABELS} is longer than the 28 bytes that its header names",
    ),
    "empty": (
        lambda folder: (folder / TEST_LABELS).write_bytes(big_endian(0x801, 0)),
        rf"{TEST_LABELS} is empty",
    ),
    "a huge count": (
        lambda folder: rewrite(folder, TRAIN_IMAGES, 4, big_endian(2**32 - 1)),
        r"names 3,367,254,359,280 bytes, more than the 1,073,741,824 allowed",
    ),
    "a huge count, packed": (
        lambda folder: (
            rewrite(folder, TRAIN_LABELS, 4, big_endian(2**29)),
            pack(folder, TRAIN_LABELS),
        ),
        r"too short for the 536,870,912 values its header names",
    ),
    "not square": (
        lambda folder: rewrite(folder, TRAIN_IMAGES, 8, big_endian(14, 56)),
        r"must be square with 1 to 1024 pixels a side; received 14×56",
    ),
    "two sizes": (
        lambda folder: (folder / TEST_IMAGES).write_bytes(
            idx_bytes(0x803, np.zeros((10, 14, 14), np.uint8))
        ),
        r"must be of one size; received 28×28 and 14×14",
    ),
    "fewer labels": (
        lambda folder: (folder / TRAIN_LABELS).write_bytes(
            idx_bytes(0x801, np.zeros(19, np.uint8))
        ),
        rf"{TRAIN_IMAGES} holds 20 images but {TRAIN_LABELS} 19 labels",
    ),
    "a label of 10": (
        lambda folder: rewrite(folder, TEST_LABELS, 8 + 3, b"\x0a"),
        rf"labels in {TEST_LABELS} must be within 0–9; received 10 at position 3",
    ),
    "packed and cut off": (
        lambda folder: cut(pack(folder, TRAIN_IMAGES), 20),
        r"\.gz is not a whole gzip file: Compressed file ended",
    ),
    "packed and cut off before packing": (
        lambda folder: (cut(folder / TRAIN_IMAGES, 100), pack(folder, TRAIN_IMAGES)),
        r"\.gz is cut off: it holds 15,596 bytes where its header names 15,696",
    ),
    "packed, with more behind it": (
        lambda folder: pack(folder, TRAIN_IMAGES, trailing=b"garbage"),
        r"\.gz is not a whole gzip file",
    ),
    "packed, with another gzip behind it": (
        lambda folder: pack(folder, TRAIN_IMAGES, trailing=gzip.compress(bytes(10**6))),
        r"\.gz is longer than the 15,696 bytes",
    ),
    "packed and damaged": (
        lambda folder: spoil_checksum(pack(folder, TRAIN_IMAGES)),
        r"\.gz is not a whole gzip file: CRC check failed",
    ),
    "not packed at all": (
        lambda folder: (folder / TRAIN_IMAGES).rename(folder / f"{TRAIN_IMAGES}.gz"),
        r"\.gz is not a whole gzip file: Not a gzipped file",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line(name: str, folder: Path) -> None:
    damage, message = BAD_FILES[name]
    damage(folder)
    with pytest.raises(UsageError, match=message) as raised:
        load_dataset(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_an_unreadable_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the refusal is planted.
    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=f"cannot read .*{TRAIN_IMAGES}: Permission denied"):
        load_dataset(folder)


def test_named_folders_come_first(tmp_path: Path, drawn_data: Path) -> None:
    environ = {**NOWHERE, "FASHION_MNIST_DIR": str(tmp_path)}
    assert find_dataset(drawn_data, environ) == drawn_data
    assert find_dataset(None, environ) == tmp_path


def test_a_named_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "gone"
    with pytest.raises(UsageError, match=r"gone \(--data-dir\) does not exist"):
        find_dataset(missing, NOWHERE)
    with pytest.raises(UsageError, match=r"gone \(FASHION_MNIST_DIR\) does not exist"):
        find_dataset(None, {**NOWHERE, "FASHION_MNIST_DIR": str(missing)})
    missing.write_text("a file")
    with pytest.raises(UsageError, match=r"gone \(--data-dir\) is not a folder"):
        find_dataset(missing, NOWHERE)


def test_the_cache_comes_before_debian(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path), "FASHION_MNIST_DIR": ""}
    cache = datasets.cache_dir(environ)
    monkeypatch.setattr(datasets, "DEBIAN_DIR", folder)
    cache.mkdir(parents=True)
    (cache / TRAIN_IMAGES).write_bytes(b"a part of the set does not count")
    assert find_dataset(None, environ) == folder
    draw_dataset(cache, 20, 10)
    assert find_dataset(None, environ) == cache


def test_no_data_set_anywhere_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_DIR", tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"run `python scripts/fetch_data\.py`, or name a folder"):
        find_dataset(None, NOWHERE)


def test_only_fashion_mnist_may_lie_in_the_cache_and_in_debians_folder(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    draw_dataset(datasets.cache_dir(), 20, 10)
    remedy = r"is not Fashion-MNIST's .*; run `python scripts/fetch_data\.py` to replace it"
    with pytest.raises(UsageError, match=f"{TRAIN_IMAGES} {remedy}"):
        load_dataset(datasets.cache_dir())
    monkeypatch.setattr(datasets, "DEBIAN_DIR", folder)
    with pytest.raises(UsageError, match="reinstall Debian's package"):
        load_dataset(folder)


def test_the_drawn_set_is_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "again", 20, 10)
    for file in IDX_FILES:
        assert (tmp_path / "again" / file.name).read_bytes() == (folder / file.name).read_bytes()
    draw_dataset(tmp_path / "other", 20, 10, seed=1)
    other = (tmp_path / "other" / TRAIN_IMAGES).read_bytes()
    assert other != (folder / TRAIN_IMAGES).read_bytes()
    assert np.bincount(load_dataset(folder).train_labels).tolist() == [2] * 10


def test_a_drawn_set_needs_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`num_test` must be at least 1; received num_test=0"):
        draw_dataset(tmp_path, 10, 0)
