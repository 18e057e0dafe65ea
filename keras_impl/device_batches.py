"""The shared batches, gathered on a GPU."""

from typing import Any

import keras
import numpy as np

from keras_impl.data import KerasBatches
from pipeline.batches import Batches
from pipeline.preprocess import rescale


class DeviceBatches(KerasBatches):
    """The same, gathered on JAX's or torch's device, in whose memory the whole set lies as bytes.

    On JAX in one compiled call: an operation each would take longer to launch than a step.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__(batches)
        self.images = keras.ops.convert_to_tensor(batches.data.images)
        self.labels = keras.ops.convert_to_tensor(batches.data.labels.astype("int32"))
        # All that bytes become: XLA would multiply by the reciprocal of 255, which rounds twice.
        self.rescaled = keras.ops.convert_to_tensor(
            rescale(np.arange(256, dtype=np.uint8), batches.dtype)
        )
        self.gather: Any = _gathered
        if keras.backend.backend() == "jax":
            import jax

            self.gather = jax.jit(_gathered, static_argnames="num_classes")

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        chosen = self.batches.positions(index).astype("int32")
        return self.gather(
            self.images, self.labels, self.rescaled, chosen, num_classes=self.batches.num_classes
        )


def _gathered(
    images: Any, labels: Any, rescaled: Any, chosen: Any, num_classes: int
) -> tuple[Any, Any]:
    taken = keras.ops.cast(keras.ops.take(images, chosen, axis=0), "int32")
    classes = keras.ops.take(labels, chosen, axis=0)
    one_hot = keras.ops.one_hot(classes, num_classes, dtype=rescaled.dtype)
    return keras.ops.take(rescaled, taken, axis=0), one_hot
