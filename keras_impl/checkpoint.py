"""Reading a training state, and only a whole one."""

from pathlib import Path

import keras

from keras_impl.train import SEAL
from keras_impl.weights import load_training_state
from ladder.arrays import digest, read_arrays


def restore_training_state(model: keras.Model, path: Path) -> int:
    """Load a saved training state into a compiled model, and return how many epochs it has seen.

    Raises:
        ValueError: it is missing, damaged, or of another network.
    """
    state, words = read_arrays(path)
    epochs, _, checksum = words.get(SEAL, "").partition(", ")
    if checksum != digest(state, epochs):
        raise ValueError("it is damaged: its content has another checksum")
    load_training_state(model, state)
    if not (epochs.isascii() and epochs.isdecimal()):
        raise ValueError(f"it says that it has seen {epochs!r} epochs")
    return int(epochs)
