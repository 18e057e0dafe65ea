"""Models with calls that only what they do can tell apart."""

from typing import Any

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


def convolved() -> keras.Model:
    """Return gates of two causal convolutions, and maps cut out of features behind a norm."""
    x = keras.Input((6, 8))
    causal = {"kernel_size": 2, "padding": "causal", "dilation_rate": 2}
    y = layers.Conv1D(5, activation="tanh", name="signal", **causal)(x)
    y = y * layers.Conv1D(5, activation="sigmoid", name="gate", **causal)(x)
    y = layers.Dense(18, use_bias=False)(layers.GlobalAveragePooling1D()(y))
    y = layers.Reshape((3, 3, 2))(layers.LeakyReLU(0.2)(layers.BatchNormalization()(y)))
    y = layers.Conv2DTranspose(2, 3, strides=2, padding="same")(y)
    return keras.Model(x, layers.GlobalAveragePooling2D()(y**2))


def sharing() -> keras.Model:
    """Return attention of four heads over keys and values of two."""
    x = keras.Input((6, 8))
    q, k, v = (layers.Dense(n, name=name)(x) for n, name in ((8, "q"), (4, "k"), (4, "v")))
    k, v = (keras.ops.repeat(layers.Reshape((6, 2, 2))(t), 2, axis=2) for t in (k, v))
    scores = keras.ops.einsum("nqhd,nkhd->nhqk", layers.Reshape((6, 4, 2))(q), k) / 2**0.5
    y = keras.ops.einsum("nhqk,nkhd->nqhd", keras.ops.softmax(scores), v)
    return keras.Model(x, layers.Dense(8, name="o")(layers.Reshape((6, 8))(y)))


class Quantised(layers.Layer):
    """The nearest row of a book, through which gradients go straight."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.book = self.add_weight(shape=(shape[-1], 5), initializer="random_normal", name="book")

    def call(self, x: Any) -> Any:
        ops = keras.ops
        apart = ops.sum(self.book**2, 0) - 2 * ops.matmul(x, self.book)
        rows = ops.one_hot(ops.argmin(apart, -1), 5, dtype=x.dtype)
        return x + ops.stop_gradient(ops.matmul(rows, ops.transpose(self.book)) - x)


def quantised() -> keras.Model:
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(3)(Quantised()(layers.Dense(4)(x))))


def saturated() -> keras.Model:
    """Return a model that gives one class to all samples if weights are large."""
    x = keras.Input((6,))
    y = (30 * layers.Dense(8)(x)) ** 2
    return keras.Model(x, layers.Dense(3, activation="softmax")(y))


def stepping() -> keras.Model:
    """Return a recurrent layer under a mask, and one trunk for two heads."""
    x = keras.Input((5,), dtype="int32")
    y = layers.LSTM(4)(layers.Embedding(9, 3, mask_zero=True)(x))
    y = layers.Dense(6, activation="relu")(y)
    return keras.Model(x, [layers.Dense(2)(y), layers.Dense(1)(y)])


def highway() -> keras.Model:
    """Return layers of one shape that their activations alone tell apart."""
    x = keras.Input((6,))
    y, gate = layers.Dense(6, activation="relu")(x), layers.Dense(6, activation="sigmoid")(x)
    return keras.Model(x, layers.Dense(3)(y * gate + x * (1 - gate)))


def modulated() -> keras.Model:
    """Return scales and shifts of one condition, twice."""
    x, c = keras.Input((6,)), keras.Input((4,))
    y = x
    for _ in range(2):
        y = layers.ReLU()(layers.Dense(6)(y) * (1 + layers.Dense(6)(c)) + layers.Dense(6)(c))
    return keras.Model([x, c], layers.Dense(2)(y))


def pooled() -> keras.Model:
    """Return a maximum over zeros that are padded behind an activation with negative numbers."""
    x = keras.Input((7, 7, 2))
    y = layers.LeakyReLU(negative_slope=0.25)(layers.Conv2D(3, 1)(x))
    y = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(y))
    return keras.Model(x, layers.Conv2D(2, 1)(y))


def frozen() -> keras.Model:
    """Return a norm that is frozen, which in Keras keeps its moving statistics in training too."""
    x = keras.Input((6,))
    norm = layers.BatchNormalization()
    norm.trainable = False
    return keras.Model(x, layers.Dense(2)(norm(layers.Dense(5)(x))))


def shuffled() -> keras.Model:
    """Return maps whose channels are laid out in space by hand, behind a norm without a scale."""
    x = keras.Input((4, 5, 2))
    y = layers.BatchNormalization(scale=False)(layers.Conv2D(12, 1)(x))
    y = keras.ops.transpose(keras.ops.reshape(y, (-1, 4, 5, 2, 2, 3)), (0, 1, 3, 2, 4, 5))
    return keras.Model(x, keras.ops.reshape(y, (-1, 8, 10, 3)))


def detecting() -> keras.Model:
    """Return two heads of unequal size behind what TensorFlow rounds twice."""
    x = keras.Input((6, 6, 2))
    y = layers.LeakyReLU(negative_slope=0.15)(layers.Conv2D(3, 1)(x))
    y = layers.UpSampling2D(interpolation="bilinear")(y)
    box, found = layers.Conv2D(4, 1)(y), layers.Conv2D(1, 1, activation="sigmoid")(y)
    return keras.Model(x, [box, found])


def asking() -> keras.Model:
    """Return an attention whose queries are masked: what it gives there is zero."""
    x, y = keras.Input((4,), dtype="int32"), keras.Input((3, 5))
    query = layers.Dense(5)(layers.Embedding(7, 6, mask_zero=True)(x))
    return keras.Model([x, y], layers.Dense(2)(layers.Attention()([query, y])))
