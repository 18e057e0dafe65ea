"""The shared batches, as Keras takes them."""

from typing import Any

import keras
import numpy as np

from keras_impl.devices import for_each_device
from keras_impl.fast import on_gpu
from pipeline.batches import Batches
from pipeline.preprocess import rescale

Array = np.ndarray[Any, Any]


class KerasBatches(keras.utils.PyDataset):
    """The batches of a set: `fit`, `evaluate` and `predict` take it on every backend.

    `EpochStart` in `train.py` sets their epoch.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        return self.batches[index]


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


def batch_source(batches: Batches, plain: bool, num_devices: int = 1) -> Any:
    """Return batches for `fit`: a PyDataset, or on TensorFlow's fast path a tf.data.Dataset.

    Off TensorFlow, the fast path on a GPU gathers batches there; where several devices share them,
    batches come from the host, and TensorFlow takes them from the tf.data.Dataset in any case.

    On TensorFlow, Keras hands a PyDataset to `tf.data.Dataset.from_generator`, and TensorFlow's
    generator op sets malloc's trim threshold to 128 KiB for the whole process: every large
    buffer then goes back to the system and is faulted in again at the next step.

    tf.data's autotuning is off. There is nothing to tune, and when an iterator ends, TensorFlow
    often waits for the tuner's thread, which looks up after 10 ms, 20 ms, 40 ms, …: an epoch of
    4 s then takes 5.11 s.
    """
    is_one = num_devices == 1
    if keras.backend.backend() != "tensorflow" or (plain and is_one):
        on_device = on_gpu() and is_one and not plain
        return DeviceBatches(batches) if on_device else KerasBatches(batches)
    import tensorflow as tf

    dtype = tf.as_dtype(batches.dtype)
    image_shape = batches.data.images.shape[1:]

    def batch(index: Any) -> tuple[Any, Any]:
        images, one_hot = tf.numpy_function(lambda i: batches[int(i)], [index], [dtype, dtype])
        images.set_shape((None, *image_shape))
        one_hot.set_shape((None, batches.num_classes))
        return images, one_hot

    options = tf.data.Options()
    options.autotune.enabled = False
    # The order of an epoch is taken when its first batch is asked for, after `on_epoch_begin`.
    dataset = tf.data.Dataset.range(len(batches)).map(batch).prefetch(2).with_options(options)
    return dataset if is_one else for_each_device(dataset)
