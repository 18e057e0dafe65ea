"""torchvision reads the same files to exactly the same arrays."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from pipeline.datasets import Dataset, load_dataset


@pytest.fixture(scope="module")
def ours(real_data: Path) -> Dataset:
    return load_dataset(real_data)


@pytest.fixture(scope="module")
def torchvision_root(
    packed_data: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as torchvision lays it out: the unpacked files in FashionMNIST/raw."""
    root = tmp_path_factory.mktemp("torchvision")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in packed_data.items():
        (raw / name).write_bytes(gzip.decompress(content))
    return root


@pytest.mark.parametrize("part", ["train", "test"])
def test_torchvision_reads_the_same(part: str, ours: Dataset, torchvision_root: Path) -> None:
    theirs = FashionMNIST(str(torchvision_root), train=part == "train", download=False)
    images, labels = theirs.data.numpy(), theirs.targets.numpy()
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, getattr(ours, f"{part}_images"), strict=True)
    np.testing.assert_array_equal(labels, getattr(ours, f"{part}_labels"))


def test_class_names_are_torchvisions(ours: Dataset) -> None:
    assert list(ours.class_names) == FashionMNIST.classes


def test_a_swapped_pixel_would_be_seen(ours: Dataset, torchvision_root: Path) -> None:
    theirs = FashionMNIST(str(torchvision_root), train=False, download=False)
    planted = theirs.data.numpy().copy()
    planted[-1, -1, -1] ^= 1
    with pytest.raises(AssertionError, match="Mismatched elements: 1 /"):
        np.testing.assert_array_equal(planted, ours.test_images)
