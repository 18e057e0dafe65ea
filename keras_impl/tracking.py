"""Epochs for TensorBoard and MLflow, as Keras hands them over: a callback."""

import keras

from keras_impl.model import layers_of
from pipeline.record import Layer
from pipeline.tracking import Trackers


class TrackingCallback(keras.callbacks.Callback):
    """Give the trackers the network and each epoch's metrics.

    Keras's own TensorBoard callback imports TensorFlow on every backend, and TensorFlow crashes
    beside torch; it counts epochs from 0, and its tags are not Lightning's.
    """

    def __init__(self, trackers: Trackers) -> None:
        super().__init__()
        self.trackers = trackers

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Hand the built network over."""
        image = Layer("image", "Input", tuple(self.model.input_shape[1:]), 0)
        self.trackers.log_graph([image, *layers_of(self.model)])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Hand the epoch's metrics over."""
        self.trackers.log_epoch(epoch + 1, logs or {})
