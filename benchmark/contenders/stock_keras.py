"""What a newcomer to Keras writes for this network: arrays in memory and `fit`.

A program that is measured: it shares no code with the project on purpose.
`stock_keras.py --data-dir D --epochs N`, the backend by `KERAS_BACKEND`; prints JSON.
"""

import argparse
import gzip
import json
import resource
import sys
import time
from pathlib import Path

import keras
import numpy as np
from sklearn.model_selection import train_test_split


def computing_device() -> str:
    """Return the device of the loaded backend: `cpu` or `gpu`."""
    backend = keras.backend.backend()
    framework = sys.modules[backend]
    if backend == "jax":
        return "cpu" if framework.default_backend() == "cpu" else "gpu"
    if backend == "tensorflow":
        return "gpu" if framework.config.list_logical_devices("GPU") else "cpu"
    kind = keras.ops.zeros(1).device.type
    return "gpu" if kind == "cuda" else str(kind)


class EpochClock(keras.callbacks.Callback):
    """Seconds until all is built, of the first step, and of each epoch with its validation."""

    async_safe = True  # or JAX and torch would wait for each step, for the clock's sake

    def __init__(self) -> None:
        super().__init__()
        self.measured = {"epoch_seconds": [], "history": []}

    def on_train_begin(self, logs=None):
        """Note that the first step is about to be taken."""
        self.measured["built_at"] = time.time()
        self.built = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Note the first step."""
        self.measured.setdefault("first_step_seconds", time.perf_counter() - self.built)

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stop the clock."""
        self.measured["epoch_seconds"].append(time.perf_counter() - self.began)
        self.measured["history"].append({name: float(value) for name, value in logs.items()})
        print("epoch", flush=True)  # to whoever measures energy


def read_idx(folder: Path, name: str, header: int) -> np.ndarray:
    """Return the bytes of an IDX file after its header."""
    path = folder / name
    packed = folder / f"{name}.gz"
    content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    return np.frombuffer(content, np.uint8, offset=header)


def read_set(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images in [0, 1] and one-hot labels of a set."""
    images = read_idx(folder, f"{name}-images-idx3-ubyte", 16).reshape(-1, 28, 28, 1)
    labels = read_idx(folder, f"{name}-labels-idx1-ubyte", 8)
    return images.astype("float32") / 255, keras.utils.to_categorical(labels)


def build_model() -> keras.Model:
    """Build the tutorial's network."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, padding="same"),
            layers.LeakyReLU(0.1),
            layers.MaxPooling2D(2, padding="same"),
            layers.Conv2D(64, 3, padding="same"),
            layers.LeakyReLU(0.1),
            layers.MaxPooling2D(2, padding="same"),
            layers.Conv2D(128, 3, padding="same"),
            layers.LeakyReLU(0.1),
            layers.MaxPooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(128),
            layers.LeakyReLU(0.1),
            layers.Dense(10, activation="softmax"),
        ]
    )


def main() -> None:
    """Train and print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "gpu"))  # the environment sees to it
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    arguments = parser.parse_args()
    if arguments.precision == "bf16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    images, labels = read_set(arguments.data_dir, "train")
    train_images, val_images, train_labels, val_labels = train_test_split(
        images, labels, test_size=0.2, random_state=13
    )
    model, clock = build_model(), EpochClock()
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        train_images,
        train_labels,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_data=(val_images, val_labels),
        verbose=0,
        callbacks=[clock],
    )
    tested = model.evaluate(*read_set(arguments.data_dir, "t10k"), verbose=0, return_dict=True)
    measured = clock.measured
    measured["device"] = computing_device()
    measured["test_accuracy"] = float(tested["accuracy"])
    measured["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump(measured, sys.stdout)


if __name__ == "__main__":
    main()
