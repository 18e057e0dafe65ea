"""Keras reads the same files to exactly the same arrays."""

import numpy as np

from pipeline.datasets import load_dataset
from tests.programs import run_python

# Keras reads its home folder when it is first imported, so it gets a process of its own.
LOAD = """
import sys
import numpy as np
from keras.datasets import fashion_mnist
train, test = fashion_mnist.load_data()
np.savez(sys.argv[1], train_images=train[0], train_labels=train[1],
         test_images=test[0], test_labels=test[1])
"""


def test_keras_reads_the_same(real_data, packed_data, tmp_path):
    """From a cache that holds the four packed files; nothing is downloaded."""
    cache, answer = tmp_path / "datasets" / "fashion-mnist", tmp_path / "keras.npz"
    cache.mkdir(parents=True)
    for name, content in packed_data.items():
        (cache / f"{name}.gz").write_bytes(content)
    environ = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "tensorflow"}
    run_python("-c", LOAD, answer, env=environ, check=True)
    ours = load_dataset(real_data)
    with np.load(answer, allow_pickle=False) as theirs:
        assert len(theirs) == 4
        for part, array in theirs.items():
            np.testing.assert_array_equal(array, getattr(ours, part), strict=True)
