"""Small Keras models for tests/test_check.py, run in processes of their own."""

from functools import partial

import keras
import numpy as np
from keras import layers, ops
from portproof.adapter import Adapter, register


def residual():
    """A residual block, subclassed, with operations of `keras.ops`."""

    class Residual(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = layers.Conv2D(8, 3, padding="same", use_bias=False)
            self.norm = layers.BatchNormalization(epsilon=1e-5, momentum=0.9)
            self.second = layers.Conv2D(8, 3, strides=2, padding="same")
            self.short = layers.Conv2D(8, 1, strides=2, activation="relu")
            self.head = layers.Dense(4)

        def call(self, x, training=None):
            y = ops.relu(self.norm(self.first(x), training=training))
            y = ops.relu(self.second(y) + self.short(x))
            return self.head(ops.mean(y, axis=(1, 2)))

    return Residual()


def channels_first():
    """A network whose every layer has its channels behind the samples."""
    images = keras.Input((3, 8, 8))
    x = layers.Conv2D(4, 3, data_format="channels_first", activation="relu")(images)
    x = layers.BatchNormalization(axis=1, epsilon=1e-5, momentum=0.9)(x)
    x = layers.GroupNormalization(2, axis=1, epsilon=1e-5)(x)
    return keras.Model(images, layers.Dense(5)(layers.Flatten()(x)))


def skipping():
    """What an activation takes is used again."""
    values = keras.Input((6,))
    x = layers.Dense(5)(values)
    return keras.Model(values, layers.Dense(2)(layers.Add()([x, layers.ReLU()(x)])))


def encoder():
    """Token embedding, one encoder block, mean, head."""
    tokens = keras.Input((7,), dtype="int64")
    x = layers.Embedding(11, 8)(tokens)
    y = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = layers.LayerNormalization(epsilon=1e-5)(layers.Add()([x, layers.Dropout(0.1)(y)]))
    y = layers.Dense(8)(layers.Dense(16, activation="gelu")(x))
    x = layers.LayerNormalization(epsilon=1e-5)(layers.Add()([x, layers.Dropout(0.1)(y)]))
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def recurrent():
    """Both directions, twice, then a GRU's last state; two outputs."""
    x = steps = keras.Input((9, 5))
    for units in (4, 3):
        x = layers.Bidirectional(layers.LSTM(units, return_sequences=True))(x)
    x = layers.GRU(6)(x)
    return keras.Model(steps, [layers.Dense(2)(x), layers.Dense(1, activation="sigmoid")(x)])


def convolutions():
    """Grouped, dilated, depthwise, separable and transposed convolutions."""
    images = keras.Input((12, 12, 4))
    x = layers.Conv2D(8, 3, padding="same", groups=2, dilation_rate=2)(images)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = layers.MaxPooling2D(2)(layers.GroupNormalization(4)(x))
    x = layers.SeparableConv2D(6, 3, padding="same", activation="silu")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="valid")(x)
    return keras.Model(images, layers.Dense(5, activation="softmax")(layers.Flatten()(x)))


class LayerScale(layers.Layer):
    """A factor for each channel, as keras.applications' ConvNeXt has it."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")

    def call(self, x):
        return x * self.gamma


def gated():
    """Rescaling inside, a gate, scaled channels, and a branch that training drops at times."""
    images = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same")(layers.Rescaling(1 / 255)(images))
    y = layers.Conv2D(4, 1, activation="hard_sigmoid")(x)
    y = LayerScale()(layers.Multiply()([x, y]))
    x = layers.Add()([x, layers.Dropout(0.1, noise_shape=(None, 1, 1, 1))(y)])
    return keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def resized():
    """Bilinear resizing, which TensorFlow computes in float32."""
    images = keras.Input((4, 4, 3))
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(2, 3)(images))
    return keras.Model(images, layers.Dense(3)(layers.Flatten()(x)))


def padded():
    """States that stand still at padding, the last of them."""
    tokens = keras.Input((7,), dtype="int64")
    x = layers.LSTM(5)(layers.Embedding(11, 4, mask_zero=True)(tokens))
    return keras.Model(tokens, layers.Dense(3)(x))


class Patches(layers.Layer):
    """Patches behind a class token, which no layer owns, at learnt places."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, 8), name="token")
        self.patches, self.places = layers.Conv2D(8, 2, strides=2), layers.Embedding(6, 8)
        self.patches.build(shape)

    def call(self, images):
        x = ops.reshape(self.patches(images), (-1, 4, 8))
        x = ops.concatenate([ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x], axis=1)
        return x + self.places(ops.arange(5)[None])


def patches():
    """A transformer of images."""
    images = keras.Input((4, 4, 3))
    x = Patches()(images)
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    x = x + layers.MultiHeadAttention(2, 4, dropout=0.1)(y, y)
    approximate = partial(keras.activations.gelu, approximate=True)
    x = layers.Dense(3)(layers.Activation(approximate)(layers.Dense(16)(x)))
    return keras.Model(images, x[:, 0])


class ScaledDense(layers.Layer):
    """A layer with weights that portproof does not know."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")
        self.scale = self.add_weight(shape=(3,), name="scale")

    def call(self, x):
        return ops.matmul(x, self.w) * self.scale


@register("ScaledDense")
class ScaledDenseAdapter(Adapter):
    """As the README has it."""

    kind = "scaled dense"

    def roles(self, layer):
        """Return both weights."""
        return {"kernel": layer.w, "gamma": layer.scale}


def custom():
    """A layer of one's own between two that are known."""
    x = features = keras.Input((5,))
    x = ScaledDense()(layers.Dense(6, activation="tanh")(x))
    return keras.Model(features, layers.Dense(2)(x))


def positive():
    """Truth values."""
    features = keras.Input((6,))
    return keras.Model(features, layers.Dense(3)(features) > 0)


def mean():
    """A single number for all samples."""
    features = keras.Input((6,))
    return keras.Model(features, ops.mean(layers.Dense(3)(features)))


def clipped():
    """ReLU6 between two dense layers."""
    x = features = keras.Input((6,))
    x = ops.relu6(layers.Dense(8)(x))
    return keras.Model(features, layers.Dense(3)(x))


def adam():
    """A norm whose statistics move, and Adam."""
    model = keras.Sequential([
        keras.Input((6,)), layers.Dense(8), layers.BatchNormalization(epsilon=1e-5, momentum=0.9),
        layers.Dense(1),
    ])  # fmt: skip
    model.compile(keras.optimizers.Adam(0.001), keras.losses.MeanSquaredError())
    return model


def norm_regression():
    """The same with SGD."""
    model = adam()
    model.compile(keras.optimizers.SGD(0.0625), keras.losses.MeanSquaredError())
    return model


def regression():
    """A compiled model of one number."""
    model = keras.Sequential([
        keras.Input((6,)), layers.Dense(8, activation="tanh"), layers.Dropout(0.2), layers.Dense(1),
    ])  # fmt: skip
    model.compile(keras.optimizers.SGD(0.0625), keras.losses.MeanSquaredError())
    return model


def batches():
    """Two full batches and a partial one; targets without an axis of their own."""
    random = np.random.default_rng(0)
    drawn = [random.normal(size=(n, 6)) for n in (8, 8, 3)]
    return [(x, np.sin(x).sum(1)) for x in drawn]


def even_batches():
    """The full ones, which two processes share evenly."""
    return batches()[:2]


def dropping():
    """Channels dropped between two dense layers, at each step of a sequence."""
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.Dense(8, activation="relu"),
            layers.SpatialDropout1D(0.5),
            layers.Dense(5),
        ]
    )


def batches_in_float32():
    """The same, as data usually comes."""
    return [(x.astype("float32"), y.astype("float32")) for x, y in batches()]


def regression_clipped():
    """The same, with gradients that are clipped."""
    model = regression()
    model.compile(keras.optimizers.SGD(0.0625, global_clipnorm=0.25), "mse")
    return model


def momentum():
    """The same, with a velocity and a rate that falls at each step."""
    model = regression()
    rate = keras.optimizers.schedules.ExponentialDecay(0.0625, 1, 0.5)
    model.compile(keras.optimizers.SGD(rate, momentum=0.5), "mse")
    return model


def momentum_by_root():
    """The same by RMSprop."""
    model = regression()
    rate = keras.optimizers.schedules.ExponentialDecay(0.0625, 1, 0.5)
    model.compile(keras.optimizers.RMSprop(rate, momentum=0.5, epsilon=1e-3), "mse")
    return model


def momentum_warmed_up():
    """The same from a rate of zero on: its first step moves nothing."""
    model = regression()
    rate = keras.optimizers.schedules.PolynomialDecay(0.0, 4, 0.0625)
    model.compile(keras.optimizers.RMSprop(rate, momentum=0.5, epsilon=1e-3), "mse")
    return model


def momentum_as_written():
    """A momentum and a rate that float32 does not hold."""
    model = regression()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    return model


def adam_clipped():
    """Adam on clipped gradients."""
    model = regression()
    model.compile(keras.optimizers.Adam(0.001, global_clipnorm=0.25), "mse")
    return model


def classes():
    """Class weights, a schedule by epoch, a metric, and two epochs."""
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.125), loss, metrics=["accuracy"])
    halved = keras.callbacks.LearningRateScheduler(lambda epoch: 0.125 * 0.5**epoch)
    return model, {"epochs": 2, "class_weight": {0: 1.0, 1: 2.0, 2: 0.5}, "callbacks": [halved]}


def named_classes():
    """Three classes by their logits, and Adam."""
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, {"epochs": 2}


def labels():
    return [(x, np.abs(x[:, 0] * 3).astype(int) % 3) for x, _ in batches()[:2]]


def two_targets():
    """Two outputs in a dictionary, with a loss for each."""
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(x)
    outputs = {"size": layers.Dense(1)(x), "place": layers.Dense(2)(x)}
    model = keras.Model(inputs, outputs)
    losses, weights = dict.fromkeys(outputs, "mse"), {"size": 1.0, "place": 0.5}
    model.compile(keras.optimizers.SGD(0.0625), losses, loss_weights=weights)
    return model


def two():
    return [(x, {"size": y[:, None], "place": x[:, :2]}) for x, y in batches()]


class Head(layers.Layer):
    """Reads the table of an embedding."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


def tied():
    tokens, table = keras.Input((7,), dtype="int32"), layers.Embedding(11, 6)
    return keras.Model(tokens, Head(table)(layers.Dense(6, activation="tanh")(table(tokens))))


def drawing():
    """Maps out of features, and a regulariser."""
    penalty = keras.regularizers.L2(0.01)
    model = keras.Sequential([
        keras.Input((6,)),
        layers.Dense(16, activation="tanh", kernel_regularizer=penalty),
        layers.Reshape((2, 2, 4)),
        layers.Conv2DTranspose(3, 2, strides=2),
    ])  # fmt: skip
    model.compile(keras.optimizers.SGD(0.0625), "mse")
    return model


def drawings():
    return [(x, np.sin(np.arange(len(x) * 48)).reshape(-1, 4, 4, 3)) for x, _ in batches()]
