"""Plant a porting mistake in the Keras half, then answer; see `portproof.serve`.

A leaf program: it patches its own processes and nothing imports it. Production code has no hooks
for it.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras

import keras_impl.data
import keras_impl.model
import keras_impl.trace
import keras_impl.train
import pipeline.batches
from portproof.serve import serve


def keras_slope() -> None:
    """LeakyReLU with Keras's default slope."""
    patch_layer("LeakyReLU", lambda slope, name: keras.layers.LeakyReLU(name=name))


def valid_pool() -> None:
    """Pool without padding: 7x7 becomes 3x3."""
    patch_layer("MaxPooling2D", lambda size, padding, name: pool(size, name=name))


def softmax_output() -> None:
    """End in a softmax, which the loss then takes for logits."""

    def dense(units: int, name: str) -> keras.Layer:
        activation = "softmax" if name == "logits" else None
        return keras.layers.Dense(units, activation=activation, name=name)

    patch_layer("Dense", dense)


def he_init() -> None:
    """Draw the dense kernels from He's distribution."""
    patch_layer(
        "Dense",
        lambda units, name: keras.layers.Dense(units, kernel_initializer="he_uniform", name=name),
    )


def shuffled_batches() -> None:
    """Leave `fit` its default, which shuffles a PyDataset's batches once more."""
    real = keras.Model.fit

    def fit(self: keras.Model, *arguments: Any, shuffle: bool, **options: Any) -> Any:
        return real(self, *arguments, **options)

    keras.Model.fit = fit


def dropped_batch() -> None:
    """Round the number of batches down."""
    pipeline.batches.Batches.__len__ = (  # type: ignore[method-assign]
        lambda self: len(self.data) // self.batch_size
    )


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        keras_slope, valid_pool, softmax_output, he_init, shuffled_batches, dropped_batch,
    )
}  # fmt: skip

pool = keras.layers.MaxPooling2D


def patch_layer(name: str, make: Callable[..., Any]) -> None:
    """Let the model's module build `name` with `make`."""
    layers = SimpleNamespace(**{**vars(keras.layers), name: make})
    keras_impl.model.keras = SimpleNamespace(**{**vars(keras), "layers": layers})  # type: ignore[assignment]


if __name__ == "__main__":
    serve(lambda fault: FAULTS[fault](), keras_impl.trace.main)
