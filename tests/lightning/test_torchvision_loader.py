"""torchvision reads the same files to exactly the same arrays."""

import gzip

import numpy as np
from torchvision.datasets import FashionMNIST

from pipeline.datasets import load_dataset


def test_torchvision_reads_the_same(real_data, packed_data, tmp_path):
    """From a folder as torchvision lays it out: the unpacked files in FashionMNIST/raw."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in packed_data.items():
        (raw / name).write_bytes(gzip.decompress(content))
    ours = load_dataset(real_data)
    assert list(ours.class_names) == FashionMNIST.classes
    for part in ("train", "test"):
        theirs = FashionMNIST(str(tmp_path), train=part == "train", download=False)
        images, labels = theirs.data.numpy(), theirs.targets.numpy()
        np.testing.assert_array_equal(images, getattr(ours, f"{part}_images"), strict=True)
        np.testing.assert_array_equal(labels, getattr(ours, f"{part}_labels"))
