"""What Keras's layers are, as facts that frameworks share."""

from typing import Any

import keras
import numpy as np

from ladder.arrays import Array
from ladder.subject import Facts, snake_case


def layer_row(layer: keras.Layer) -> Facts:
    """Return a layer's row of the table; an unknown kind is named by its class."""
    return {
        "name": layer.name,
        "kind": kind_of(layer),
        "output_shape": list(layer.output.shape[1:]),
        "parameters": sum(int(np.prod(variable.shape)) for variable in weights_of(layer)),
    }


_KINDS = {
    keras.layers.Conv2D: "convolution",
    keras.layers.LeakyReLU: "leaky_relu",
    keras.layers.ReLU: "relu",
    keras.layers.Softmax: "softmax",
    keras.layers.MaxPooling2D: "max_pool",
    keras.layers.AveragePooling2D: "average_pool",
    keras.layers.Dropout: "dropout",
    keras.layers.Flatten: "flatten",
    keras.layers.Dense: "dense",
}


def kind_of(layer: keras.Layer) -> str:
    """Return a layer's kind; a subclass is what its parent is, and an unknown one its class."""
    if isinstance(layer, keras.layers.Activation):
        return str(layer.activation.__name__)
    known = [_KINDS[parent] for parent in type(layer).__mro__ if parent in _KINDS]
    return known[0] if known else snake_case(type(layer).__name__)


def weights_of(layer: keras.Layer) -> list[keras.Variable]:
    """Return parameters; counters and masks are integers."""
    return [variable for variable in layer.weights if "float" in variable.dtype]


def call(layer: keras.Layer, values: Any, training: bool) -> Any:
    """Call a layer in a mode; most take no such argument."""
    takes_it = layer._call_has_training_arg
    return layer(values, training=training) if takes_it else layer(values)


def numpy_of(values: Any) -> Array:
    """Return a copy of a backend's tensor."""
    return np.array(keras.ops.convert_to_numpy(values))
