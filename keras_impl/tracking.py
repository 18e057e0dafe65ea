"""Epochs for TensorBoard and MLflow, as Keras hands them over: a callback."""

import keras

from pipeline.event_files import Layer
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
        self.trackers.log_graph(layers_of(self.model))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Hand the epoch's metrics over."""
        self.trackers.log_epoch(epoch + 1, logs or {})


def layers_of(model: keras.Sequential) -> list[Layer]:
    """Return the built layers; shapes are NHWC."""
    layers = [Layer("image", "Input", tuple(model.input_shape))]
    return layers + [
        Layer(layer.name, type(layer).__name__, tuple(layer.output.shape)) for layer in model.layers
    ]
