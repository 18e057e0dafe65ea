"""Models with calls that only what they do can tell apart."""

import keras
from keras import layers


def gated() -> keras.Model:
    """Return a layer of gated linear units."""
    x = keras.Input((6, 8))
    value, gate = layers.Dense(5)(x), layers.Dense(5, activation="sigmoid")(x)
    return keras.Model(x, layers.Dense(3)(value * gate))


def attending() -> keras.Model:
    """Return attention in single steps."""
    x = keras.Input((6, 8))
    q, k, v = (layers.Dense(8, name=name)(x) for name in ("query", "key", "value"))
    scores = keras.ops.softmax(keras.ops.matmul(q, keras.ops.transpose(k, (0, 2, 1))) / 8**0.5)
    return keras.Model(x, layers.Dense(3)(keras.ops.matmul(scores, v)))


def towers() -> keras.Model:
    """Return two towers that are joined."""
    x, y = keras.Input((8,)), keras.Input((8,))
    both = [layers.Dense(4, activation="relu")(each) for each in (x, y)]
    return keras.Model([x, y], layers.Dense(3)(layers.Concatenate()(both)))
