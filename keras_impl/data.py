"""The shared batches, as Keras takes them."""

from typing import Any

import keras

from keras_impl.fast import on_gpu
from pipeline.batches import Batches


class KerasBatches(keras.utils.PyDataset):
    """The batches of a set: `fit`, `evaluate` and `predict` take it on every backend.

    `EpochStart` in `train.py` sets their epoch.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.batches[index]


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
        if plain or not is_one or not on_gpu():
            return KerasBatches(batches)
        from keras_impl.device_batches import DeviceBatches

        return DeviceBatches(batches)
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
    if is_one:
        return dataset
    from keras_impl.devices import for_each_device

    return for_each_device(dataset)
