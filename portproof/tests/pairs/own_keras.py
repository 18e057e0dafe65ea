"""Keras models with layers of the user's own, or built otherwise than their ports."""

import keras
from keras import layers, ops


class Rms(layers.Layer):
    def __init__(self):
        super().__init__()
        self.activation = keras.activations.silu

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), initializer="ones", name="w")

    def call(self, x):
        mean = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return self.activation(x * ops.rsqrt(mean + 1e-6) * (1 + self.w))


class Scale(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(1, shape[-1]), initializer="ones", name="factor")

    def call(self, x):
        return self.factor * x


class Affine(layers.Layer):
    def __init__(self, units, activation):
        super().__init__()
        self.units, self.activation = units, activation

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros", name="b")

    def call(self, x):
        return keras.activations.get(self.activation)(ops.matmul(x, self.w) + self.b)


class Before(Affine):
    """Its activation comes first."""

    def call(self, x):
        return ops.matmul(keras.activations.get(self.activation)(x), self.w) + self.b


def own(affine=Affine):
    """Norms, a scale and a dense layer by hand; others by hand in the port."""
    x = steps = keras.Input((6, 8))
    x = layers.RMSNormalization(epsilon=1e-6)(layers.Dense(8)(x))
    x = Scale()(Rms()(affine(8, "relu")(x)))
    x = layers.LayerNormalization(epsilon=1e-5)(layers.Dense(8, activation="tanh")(x))
    return keras.Model(steps, layers.Dense(3)(x))


def own_before():
    return own(Before)


def maps():
    """Attention over pixels by 1×1 convolutions; a norm over channels; a dense layer over rows."""
    images = keras.Input((4, 4, 8))
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 3, padding="same")(images))
    q, k, v = (layers.Reshape((16, 8))(layers.Conv2D(8, 1)(x)) for _ in range(3))
    weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) / 8**0.5)
    y = layers.Permute((2, 1))(ops.matmul(weights, v))
    y = layers.Permute((2, 1))(layers.Dense(16)(y))
    return keras.Model(images, layers.Conv2D(4, 1)(layers.Reshape((4, 4, 8))(y)))


def frames():
    """The same convolution in each frame."""
    video = keras.Input((3, 6, 6, 2))
    x = layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu"))(video)
    x = layers.TimeDistributed(layers.GlobalMaxPooling2D())(x)
    return keras.Model(video, layers.Dense(2)(layers.GRU(5)(x)))


class Experts(keras.Model):
    """Three that are alike, by their order alone told apart; Keras counts the gate as well."""

    def __init__(self):
        super().__init__()
        self.gate = layers.Dense(3, activation="softmax")
        self.experts = [layers.Dense(4, activation="relu") for _ in range(3)]

    def call(self, x):
        y = ops.stack([expert(x) for expert in self.experts], axis=1)
        return ops.sum(self.gate(x)[..., None] * y, axis=1)


def experts():
    return Experts()


class Reflecting(layers.ZeroPadding2D):
    """Pads by what lies inside."""

    def call(self, x):
        return ops.pad(x, [[0, 0], *map(list, self.padding), [0, 0]], mode="reflect")


class Residual(layers.Dense):
    def call(self, x):
        return x + super().call(x)


class Same(layers.Dense):
    """Has a `call` of its own, which changes nothing."""

    def call(self, x):
        return super().call(x)


def overridden():
    return keras.Sequential([
        keras.Input((8, 8, 3)), Reflecting(1), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(),
        Residual(4, activation="tanh"), layers.LayerNormalization(epsilon=1e-5), Same(3),
    ])  # fmt: skip


class Rounded(layers.Layer):
    def call(self, x):
        return ops.round(2 * x)


def hidden(*between):
    """Two GELUs, and then, if asked for, numbers that let no gradient through."""
    return keras.Sequential([
        keras.Input((6,)), layers.Dense(8, activation="gelu"), layers.Dense(7, activation="gelu"),
        layers.Dense(8), layers.LayerNormalization(epsilon=1e-3), *between, layers.Dense(3),
    ])  # fmt: skip


def rounded():
    return hidden(Rounded())


class Mixed(layers.Layer):
    """Its rate is of no dropout."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def call(self, x):
        return x * (1 - self.rate) + self.rate * ops.flip(x, -1)


def mixed():
    return keras.Sequential([keras.Input((6, 4)), layers.Dense(8), Mixed(0.3), layers.Dense(2)])


def attending():
    x = keras.Input((6, 4))
    return keras.Model(x, layers.MultiHeadAttention(2, 2, dropout=0.1)(x, x))


class Kept(layers.Layer):
    def __init__(self):
        super().__init__()
        self.supports_masking, self.dense = True, layers.Dense(3)

    def call(self, x, mask=None):
        y = self.dense(x)
        return y if mask is None else y * ops.cast(mask[:, None], y.dtype)


class Masked(keras.Model):
    """Hands a mask on by name."""

    def __init__(self):
        super().__init__()
        self.each, self.last = layers.TimeDistributed(Kept()), layers.Dense(2)

    def call(self, x):
        return self.last(self.each(x, mask=ops.any(ops.not_equal(x, 0), -1)))


def masked():
    return Masked()


class DropPath(layers.Layer):
    def __init__(self, rate):
        super().__init__()
        self.rate, self.seed = rate, keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        if not training:
            return x
        drawn = keras.random.uniform((ops.shape(x)[0], 1), seed=self.seed, dtype=x.dtype)
        return x * ops.floor(1 - self.rate + drawn) / (1 - self.rate)


def celled():
    """A layer of one cell, an activation with weights, samples dropped, outputs in a dictionary."""
    x = steps = keras.Input((5, 6))
    x = layers.RNN(layers.GRUCell(4))(x)
    x = layers.Add()([x, DropPath(0.25)(layers.Dense(4, activation=layers.PReLU())(x))])
    ends = {"share": layers.Dense(3, activation="softmax")(x), "logit": layers.Dense(2)(x)}
    return keras.Model(steps, ends)


class Center(layers.Layer):
    """Takes the mean over samples away."""

    def call(self, x):
        return x - ops.mean(x, axis=0, keepdims=True)


def each():
    """What looks at all samples, at each step alone."""
    part = keras.Sequential([keras.Input((4,)), layers.Dense(6), Center()])
    return keras.Sequential([keras.Input((9, 4)), layers.TimeDistributed(part), layers.Dense(3)])


class DepthBlock(layers.Layer):
    """Has a rate of no dropout."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def call(self, x):
        return x + self.rate * ops.tanh(x)


def deep():
    return keras.Sequential([keras.Input((6,)), layers.Dense(8), DepthBlock(0.5), layers.Dense(3)])


class AtLeastOne(layers.Layer):
    def call(self, x):
        return ops.concatenate([x, ops.cast(x >= 1, x.dtype)], -1)


def counted():
    return keras.Sequential([keras.Input((6,)), AtLeastOne(), layers.Dense(3)])


def encoded():
    """An encoder that reads no padding, and a mean over all steps."""
    ids = keras.Input((12,), dtype="int32")
    x, mask = layers.Embedding(100, 16)(ids), ops.not_equal(ids, 0)
    attended = layers.MultiHeadAttention(2, 8)(x, x, attention_mask=mask[:, None, :])
    x = layers.LayerNormalization(epsilon=1e-5)(x + attended)
    more = layers.Dense(16)(layers.Dense(32, activation="relu")(x))
    x = layers.LayerNormalization(epsilon=1e-5)(x + more)
    return keras.Model(ids, layers.Dense(3)(ops.mean(x, axis=1)))


def bent():
    """A norm directly behind a constant that TensorFlow rounds to float32."""
    parts = [layers.Conv2D(4, 3), layers.Activation("gelu"), layers.BatchNormalization()]
    return keras.Sequential(
        [keras.Input((8, 8, 3)), *parts, layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )
