"""Layers of a user's own, whose weights a module has as those of its layers."""

from typing import Any

import keras
from keras import layers, ops


class GraphConvolution(layers.Layer):
    def build(self, shapes: Any) -> None:
        self.w = self.add_weight(shape=(4, 8), name="w")
        self.b = self.add_weight(shape=(8,), name="b")

    def call(self, inputs: Any) -> Any:
        nodes, edges = inputs
        return ops.matmul(edges, ops.matmul(nodes, self.w)) + self.b


def graph() -> keras.Model:
    nodes, edges = keras.Input((5, 4)), keras.Input((5, 5))
    x = ops.relu(GraphConvolution()([nodes, edges]))
    return keras.Model([nodes, edges], layers.Dense(3)(x))


class Convolution(layers.Layer):
    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(3, 2, 3, 4), name="kernel")

    def call(self, x: Any) -> Any:
        return ops.conv(x, self.kernel, padding="valid")


def convolution() -> keras.Model:
    x = keras.Input((8, 8, 3))
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(Convolution()(x))))


class Scaled(layers.Layer):
    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(), name="scale")
        self.table = self.add_weight(shape=(7, 6), name="table")

    def call(self, x: Any) -> Any:
        return ops.exp(self.scale) * x + ops.take(self.table, [6, 0, 3], axis=0)


def scaled() -> keras.Model:
    x = keras.Input((3, 6))
    return keras.Model(x, layers.Dense(2)(Scaled()(x)))


def patches() -> keras.Model:
    x = keras.Input((8, 6, 3))
    cut = ops.reshape(ops.image.extract_patches(x, (4, 2)), (-1, 6, 24))
    return keras.Model(x, layers.Dense(2)(ops.tanh(layers.Dense(5)(cut))))


def normed() -> keras.Model:
    """Features that were flattened are normed before a dense layer reads them."""
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Flatten()(layers.MaxPooling2D()(layers.Conv2D(3, 3, padding="same")(x)))
    x = ops.tanh(layers.BatchNormalization(epsilon=1e-3, momentum=0.9)(x))
    return keras.Model(inputs, layers.Dense(4)(x))


def summarised() -> keras.Model:
    """Reads the last state of sequences, which a module may have with its steps first."""
    x = keras.Input((6, 3))
    return keras.Model(x, layers.Dense(2)(layers.GRU(4)(x)))


def filmed() -> keras.Model:
    """Return a recurrent convolution over frames of one channel, and a norm over all of them."""
    x = keras.Input((3, 4, 4, 1))
    y = layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True)(x)
    y = layers.BatchNormalization(epsilon=1e-5, momentum=0.9)(y)
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling3D()(y)))
