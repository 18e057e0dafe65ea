import dataclasses
import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import datasets
from pipeline.datasets import Dataset, find_dataset, load_dataset
from pipeline.drawn import draw_dataset, idx_bytes, write_first_images, write_idx_set
from pipeline.errors import UsageError
from pipeline.idx import IDX_FILES, IMAGES_MAGIC

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (file.name for file in IDX_FILES)
NOWHERE = {"XDG_CACHE_HOME": "/nonexistent"}


@pytest.fixture
def folder(tmp_path):
    draw_dataset(tmp_path / "shapes", 20, 10)
    return tmp_path / "shapes"


@pytest.fixture(scope="module")
def fashion_mnist(real_data):
    return load_dataset(real_data)


def pack(folder, name):
    """Replace a file by its gzip."""
    plain = folder / name
    packed = folder / f"{name}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return packed


def big_endian(*numbers):
    return struct.pack(f">{len(numbers)}I", *numbers)


def test_fashion_mnist_is_what_is_published(fashion_mnist):
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


def test_arrays_are_uint8_and_read_only(fashion_mnist, drawn_data):
    for dataset in (fashion_mnist, load_dataset(drawn_data)):
        for part in ("train_images", "train_labels", "test_images", "test_labels"):
            array = getattr(dataset, part)
            assert array.dtype == np.uint8
            assert not array.flags.writeable


def test_plain_and_packed_files_give_the_same(folder):
    plain = load_dataset(folder)
    for name in (TRAIN_IMAGES, TEST_LABELS):
        pack(folder, name)
    packed = load_dataset(folder)
    for field in dataclasses.fields(Dataset):
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(packed, field.name))


def test_a_foreign_set_is_named_as_what_it_is(folder):
    dataset = load_dataset(folder)
    assert re.fullmatch(r"idx-set shapes \(sha256 [0-9a-f]{12}\)", dataset.name)
    assert dataset.fingerprint.startswith(dataset.name[-13:-1])
    assert dataset.class_names == tuple("0123456789")


def test_one_changed_pixel_changes_name_and_fingerprint(tmp_path, real_data, fashion_mnist):
    for file in IDX_FILES[1:]:
        source = datasets.find_file(real_data, file)
        assert source is not None
        (tmp_path / source.name).symlink_to(source)
    images = fashion_mnist.train_images.copy()
    images[0, 0, 0] ^= 1
    (tmp_path / TRAIN_IMAGES).write_bytes(idx_bytes(IMAGES_MAGIC, images))
    changed = load_dataset(tmp_path)
    assert changed.name.startswith("idx-set ")
    assert changed.fingerprint != fashion_mnist.fingerprint


def test_images_of_another_size_are_read(tmp_path):
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        (tmp_path / images).write_bytes(idx_bytes(0x803, np.zeros((3, 32, 32), np.uint8)))
        (tmp_path / labels).write_bytes(idx_bytes(0x801, np.zeros(3, np.uint8)))
    assert load_dataset(tmp_path).train_images.shape == (3, 32, 32)


IMAGES, LABELS = idx_bytes(0x803, np.zeros((20, 28, 28), np.uint8)), bytes(range(10)) * 2
PACKED = f"{TRAIN_IMAGES}.gz"
BAD_FILES = {
    "no byte": (TRAIN_IMAGES, b"", "is cut off within the header, after 0 bytes"),
    "half a header": (
        TRAIN_IMAGES, big_endian(0x803, 20), "is cut off within the header, after 8 bytes",
    ),
    "foreign": (
        TRAIN_IMAGES, b"\x89PNG" + bytes(100),
        "not an IDX file of images: its magic number is 0x89504e47 where 0x00000803",
    ),
    "labels where images belong": (
        TRAIN_IMAGES, big_endian(0x801, 20) + LABELS, "images: its magic number is 0x00000801",
    ),
    "images where labels belong": (
        TEST_LABELS, IMAGES, "not an IDX file of labels: its magic number is 0x00000803",
    ),
    "cut off": (
        TRAIN_IMAGES, IMAGES[:-1],
        "is cut off: it holds 15,695 bytes where its header names 15,696",
    ),
    "too long": (
        TRAIN_LABELS, big_endian(0x801, 20) + LABELS + b"\0",
        rf"{TRAIN_LABELS} is longer than the 28 bytes that its header names",
    ),
    "empty": (TEST_LABELS, big_endian(0x801, 0), rf"{TEST_LABELS} is empty"),
    "a huge count": (
        TRAIN_IMAGES, big_endian(0x803, 2**32 - 1) + IMAGES[8:],
        "names 3,367,254,359,280 bytes, more than the 1,073,741,824 allowed",
    ),
    "a huge count, packed": (
        f"{TRAIN_LABELS}.gz", gzip.compress(big_endian(0x801, 2**29) + LABELS),
        "too short for the 536,870,912 values its header names",
    ),
    "not square": (
        TRAIN_IMAGES, big_endian(0x803, 20, 14, 56) + IMAGES[16:],
        "must be square with 1 to 1024 pixels a side; received 14×56",
    ),
    "two sizes": (
        TEST_IMAGES, idx_bytes(0x803, np.zeros((10, 14, 14), np.uint8)),
        "must be of one size; received 28×28 and 14×14",
    ),
    "fewer labels": (
        TRAIN_LABELS, big_endian(0x801, 19) + LABELS[:19],
        rf"{TRAIN_IMAGES} holds 20 images but {TRAIN_LABELS} 19 labels",
    ),
    "a label of 10": (
        TEST_LABELS, big_endian(0x801, 10) + b"\0\1\2\x0a" + bytes(6),
        rf"labels in {TEST_LABELS} must be within 0–9; received 10 at position 3 ",
    ),
    "packed and cut off": (
        PACKED, gzip.compress(IMAGES)[:-20], "is not a whole gzip file: Compressed file ended",
    ),
    "packed and cut off before packing": (
        PACKED, gzip.compress(IMAGES[:-100]), "holds 15,596 bytes where its header names 15,696",
    ),
    "packed, with more behind it": (
        PACKED, gzip.compress(IMAGES) + b"garbage", r"\.gz is not a whole gzip file",
    ),
    "packed, with another gzip behind it": (
        PACKED, gzip.compress(IMAGES) + gzip.compress(bytes(10**6)),
        r"\.gz is longer than the 15,696 bytes",
    ),
    "packed and damaged": (
        PACKED, gzip.compress(IMAGES)[:-8] + bytes(4) + gzip.compress(IMAGES)[-4:],
        r"\.gz is not a whole gzip file: CRC check failed",
    ),
    "a web page": (
        PACKED, b"\n<!DOCTYPE html><html>404</html>",
        r"\.gz is a web page, not data: download the file itself",
    ),
    "a pointer": (
        TRAIN_LABELS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 60008\n",
        "is a pointer of Git LFS, not data: run `git lfs pull`",
    ),
    "a class without a name": (
        "class_names.txt", b"circle\nring\n",
        r"must be within 0–1; received \d at position \d+ \(class_names.txt may name more",
    ),
    "two classes of a name": (
        "class_names.txt", b"ring\nring\n",
        "class_names.txt must name each class in a line, each by another name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line(case, folder):
    name, content, message = BAD_FILES[case]
    if name.endswith(".gz"):
        (folder / name.removesuffix(".gz")).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        load_dataset(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_files_that_are_missing_or_no_files_are_refused(folder):
    labels = folder / TEST_LABELS
    labels.rename(folder / "aside")
    with pytest.raises(UsageError, match=rf"holds neither {TEST_LABELS} nor {TEST_LABELS}\.gz"):
        load_dataset(folder)
    labels.mkdir()
    with pytest.raises(UsageError, match=rf"{TEST_LABELS} is not a file"):
        load_dataset(folder)
    labels.rmdir()
    labels.symlink_to("gone")
    with pytest.raises(UsageError, match=rf"{TEST_LABELS} is not a file"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            ["emnist-letters-{}", "emnist-balanced-{}", "emnist-letters-{}", "emnist-letters-{}"],
            r"holds several data sets \(emnist-balanced, emnist-letters\)",
        ),
        (
            ["MNIST/raw/{}", "KMNIST/raw/{}", "MNIST/raw/{}", "KMNIST/raw/{}"],
            "holds several data sets: name one of .*KMNIST/raw, .*MNIST/raw",
        ),
    ],
)
def test_several_sets_in_a_folder_are_named(folder, places, message):
    names = {
        file.name: place.format(file.name) for file, place in zip(IDX_FILES, places, strict=True)
    }
    if "raw" in places[0]:
        for root in ("MNIST", "KMNIST"):
            draw_dataset(folder / root / "raw", 20, 10)
    with pytest.raises(UsageError, match=message):
        load_dataset(moved(folder, names))


def test_an_unreadable_file_is_refused(folder, monkeypatch):
    # Root may read everything, so the refusal is planted.
    def refuse(*_arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=f"cannot read .*{TRAIN_IMAGES}: Permission denied"):
        load_dataset(folder)


def test_the_drawn_set_is_the_same_every_time(folder, tmp_path):
    draw_dataset(tmp_path / "again", 20, 10)
    for file in IDX_FILES:
        assert (tmp_path / "again" / file.name).read_bytes() == (folder / file.name).read_bytes()
    draw_dataset(tmp_path / "other", 20, 10, seed=1)
    other = (tmp_path / "other" / TRAIN_IMAGES).read_bytes()
    assert other != (folder / TRAIN_IMAGES).read_bytes()
    assert np.bincount(load_dataset(folder).train_labels).tolist() == [2] * 10


def test_the_first_images_come_over_again_where_there_are_fewer(tmp_path):
    draw_dataset(tmp_path / "whole", 20, 10)
    whole = load_dataset(tmp_path / "whole")
    for count in (15, 45):
        write_first_images(whole, tmp_path / str(count), count, 10)
        first = load_dataset(tmp_path / str(count))
        assert len(first.train_labels) == count
        assert (first.train_images[:15] == whole.train_images[:15]).all()
        assert (first.train_labels[20:40] == whole.train_labels[: max(count - 20, 0)][:20]).all()


def moved(folder, names):
    """Move the four files of a set; return their folder."""
    for name, other in names.items():
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(folder / other)
    return folder


NAMES_ELSEWHERE = {
    "unzipped by Kaggle": lambda name: name.replace("-idx", ".idx"),
    "EMNIST": lambda name: f"emnist-letters-{name.replace('t10k', 'test')}",
    "torchvision": lambda name: f"FashionMNIST/raw/{name}",
    "torchvision's EMNIST": lambda name: f"EMNIST/raw/emnist-digits-{name.replace('t10k', 'test')}",
}


@pytest.mark.parametrize("place", NAMES_ELSEWHERE)
@pytest.mark.parametrize("is_packed", [False, True])
def test_idx_files_are_found_by_their_names_elsewhere(folder, place, is_packed):
    wanted = load_dataset(folder)
    names = {file.name: NAMES_ELSEWHERE[place](file.name) for file in IDX_FILES}
    if is_packed:
        for name in list(names):
            pack(folder, name)
        names = {f"{name}.gz": f"{other}.gz" for name, other in names.items()}
    found = load_dataset(moved(folder, names))
    assert found.fingerprint == wanted.fingerprint
    np.testing.assert_array_equal(found.train_images, wanted.train_images)


def test_a_file_is_read_by_its_content_not_its_name(folder):
    wanted = load_dataset(folder)
    (folder / TRAIN_IMAGES).rename(folder / f"{TRAIN_IMAGES}.gz")
    pack(folder, TEST_IMAGES).rename(folder / TEST_IMAGES)
    assert load_dataset(folder).fingerprint == wanted.fingerprint


def test_letters_are_labelled_from_one_and_qmnists_labels_are_columns(tmp_path):
    labels = (np.arange(52) % 26 + 1).astype(np.uint8)
    images = np.arange(52, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    write_idx_set(tmp_path, images, labels, images, labels)
    letters = load_dataset(tmp_path)
    assert (letters.first_label, letters.class_names) == (1, tuple(map(str, range(1, 27))))
    assert letters.train_labels.tolist() == (labels - 1).tolist()
    columns = np.zeros((52, 8), ">i4")
    columns[:, 0] = labels
    header = struct.pack(">3I", 0x0C02, 52, 8)
    for name in (TRAIN_LABELS, TEST_LABELS):
        (tmp_path / name).write_bytes(header + columns.tobytes())
    assert load_dataset(tmp_path).fingerprint == letters.fingerprint
    (tmp_path / "class_names.txt").write_text("\n".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    assert load_dataset(tmp_path).class_names[25] == "Z"
    columns[7, 0] = 300
    (tmp_path / TEST_LABELS).write_bytes(header + columns.tobytes())
    with pytest.raises(UsageError, match="within 0–255; received 300 at position 7"):
        load_dataset(tmp_path)
    (tmp_path / TEST_LABELS).write_bytes((header + columns.tobytes())[:-1])
    with pytest.raises(UsageError, match="is cut off"):
        load_dataset(tmp_path)


def write_npz(folder, dataset):
    np.savez_compressed(
        folder / "mnist.npz", x_train=dataset.train_images, y_train=dataset.train_labels,
        x_test=dataset.test_images, y_test=dataset.test_labels.astype(np.int64)[:, None],
    )  # fmt: skip


def write_csv(folder, dataset):
    for name, images, labels in (
        ("fashion-mnist_train.csv", dataset.train_images, dataset.train_labels),
        ("fashion-mnist_test.csv", dataset.test_images, dataset.test_labels),
    ):
        rows = np.column_stack([labels, images.reshape(len(images), -1)])
        names = ",".join(["label", *(f"pixel{n}" for n in range(1, 785))])
        has_names = "train" in name
        np.savetxt(folder / name, rows, "%d", ",", header=names if has_names else "", comments="")


def write_pictures(folder, dataset):
    for part, images, labels in (
        ("training", dataset.train_images, dataset.train_labels),
        ("testing", dataset.test_images, dataset.test_labels),
    ):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / part / str(label) / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    (folder / "training" / ".DS_Store").write_text("")


@pytest.mark.parametrize("write", [write_npz, write_csv, write_pictures])
def test_other_forms_hold_the_same_set(write, folder, tmp_path):
    wanted, place = load_dataset(folder), tmp_path / "other"
    place.mkdir()
    write(place, wanted)
    found = load_dataset(place)
    assert found.class_names == wanted.class_names
    for images, labels in (("train_images", "train_labels"), ("test_images", "test_labels")):
        order, other = (
            sorted((int(label), image.tobytes()) for image, label in
                   zip(getattr(each, images), getattr(each, labels), strict=True))
            for each in (wanted, found)
        )  # fmt: skip
        assert order == other
    if write is not write_pictures:  # which are sorted by class
        assert found.fingerprint == wanted.fingerprint
    if write is write_npz:
        assert load_dataset(find_dataset(place / "mnist.npz", NOWHERE)).name.startswith("idx-set")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.parquet": b"PAR1"}, r"holds train.parquet; wanted: the four IDX files, an npz"),
        ({}, "holds nothing; wanted: the four IDX files"),
        ({"a.npz": b"PK\3\4"}, r"cannot read .*a\.npz: File is not a zip file"),
        ({"train.csv": b"0,1,2\n", "test.csv": b"0,1\n"}, "has 3 columns where a label and the"),
        ({"train.csv": b"0,256\n", "test.csv": b"0,1\n"}, r"cannot read .*train\.csv: .*256"),
        ({"train.csv": b"0,-1\n", "test.csv": b"0,1\n"}, r"cannot read .*train\.csv: .*-1"),
        ({"train.csv": b"0,0.5\n", "test.csv": b"0,1\n"}, r"cannot read .*train\.csv: .*0\.5"),
        ({"train/a/x.png": b"no", "test/a/x.png": b"no"}, "cannot read the picture .*x.png: "),
        ({"train/a/x": b"", "test/b/x": b""}, "test has the class b, which .*train has not"),
    ],
)
def test_what_is_no_set_is_said_in_a_line(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        load_dataset(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_pickle_in_an_npz_is_refused(tmp_path):
    arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.array([{}]))
    np.savez(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(UsageError, match=r"cannot read .*mnist\.npz"):
        load_dataset(tmp_path)
