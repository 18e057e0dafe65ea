"""Models that train in a way of their own."""

from typing import Any

import keras
import numpy as np
from keras import layers


class TwoOptimizers(keras.Model):
    """Logs each step's own loss, not a mean, and says that it is built before it is."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = layers.Dense(8, activation="tanh"), layers.Dense(1)
        self.slow = keras.optimizers.Adam(0.01)

    def call(self, x: Any) -> Any:
        return self.head(self.body(x))

    def train_step(self, data: Any) -> dict[str, Any]:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        for optimizer, part in ((self.slow, self.body), (self.optimizer, self.head)):
            weights = part.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def two_optimizers() -> keras.Model:
    model = TwoOptimizers()
    model.compile(keras.optimizers.SGD(0.0625, momentum=0.9), "mse")
    model.build((None, 6))
    return model


def network(
    constraint: Any = None, optimizer: Any = None, outputs: int = 1, loss: Any = "mse", **more: Any
) -> keras.Model:
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh", kernel_constraint=constraint)(x)
    model = keras.Model(inputs, layers.Dense(outputs)(x))
    model.compile(optimizer or keras.optimizers.SGD(0.0625, **more), loss)
    return model


def adagrad() -> keras.Model:
    return network(optimizer=keras.optimizers.Adagrad(0.0625))


def decayed() -> keras.Model:
    """Return a network whose weights decay, and its biases do not."""
    optimizer = keras.optimizers.AdamW(0.0625, weight_decay=0.25)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return network(optimizer=optimizer)


def nadam() -> keras.Model:
    return network(optimizer=keras.optimizers.Nadam(0.0625))


def classes() -> tuple[keras.Model, dict[str, Any]]:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return network(outputs=3, loss=loss), {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}


def constrained() -> keras.Model:
    return network(keras.constraints.NonNeg())


def averaged() -> keras.Model:
    return network(use_ema=True, ema_momentum=0.75)


def validated() -> tuple[keras.Model, dict[str, Any]]:
    x, y = batches()[0]
    return network(), {"validation_data": (x, y)}


def two_outputs() -> keras.Model:
    x = keras.Input((6,))
    hidden = layers.Dense(8, activation="tanh")(x)
    model = keras.Model(x, [layers.Dense(1)(hidden), layers.Dense(2)(hidden)])
    model.compile(keras.optimizers.SGD(0.0625), ["mse", "mae"])
    return model


def batches() -> list[tuple[Any, Any]]:
    random = np.random.default_rng(0)
    drawn = [random.normal(size=(n, 6)) for n in (8, 8, 3)]
    return [(x, np.sin(x).sum(1, keepdims=True)) for x in drawn]


def labelled() -> list[tuple[Any, Any]]:
    return [(x, (np.abs(y[:, 0]) * 2).astype(np.int64) % 3) for x, y in batches()]


def listed() -> list[tuple[Any, Any]]:
    return [(x, [y, x[:, :2]]) for x, y in batches()]


def squared() -> keras.Model:
    """Has L2 in its loss, beside momentum, which TensorFlow rounds."""
    penalty = keras.regularizers.L2(0.01)
    made = [layers.Dense(n, kernel_regularizer=penalty) for n in (8, 1)]
    model = keras.Sequential([keras.Input((6,)), made[0], layers.Activation("tanh"), made[1]])
    model.compile(keras.optimizers.SGD(0.0625, momentum=0.9), "mse")
    return model


def recommending() -> keras.Model:
    """Reads rows of two tables several times in a batch."""
    users, items = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    rows = [layers.Embedding(n, 4)(ids) for n, ids in ((5, users), (7, items))]
    model = keras.Model([users, items], layers.Dense(1)(layers.Multiply()(rows)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def recommending_by_name() -> keras.Model:
    """The same by SGD, its inputs in a dictionary."""
    ids = {name: keras.Input((), dtype="int32", name=name) for name in ("user", "item")}
    rows = [layers.Embedding(n, 4)(x) for n, x in zip((5, 7), ids.values(), strict=True)]
    model = keras.Model(ids, layers.Dense(1)(layers.Multiply()(rows)))
    model.compile(keras.optimizers.SGD(0.0625), "mse")
    return model


def recurrent() -> keras.Model:
    x = keras.Input((5, 6))
    model = keras.Model(x, layers.Dense(1)(layers.LSTM(4)(x)))
    model.compile(keras.optimizers.SGD(0.0625), "mse")
    return model


def ratings() -> list[tuple[Any, Any]]:
    random = np.random.default_rng(0)
    return [([random.integers(0, 5, n), random.integers(0, 7, n)], random.normal(size=(n, 1)))
            for n in (8, 8, 3)]  # fmt: skip


def ratings_by_name() -> list[tuple[Any, Any]]:
    return [({"item": items, "user": users}, y) for (users, items), y in ratings()]


def ratings_by_name_turned() -> list[tuple[Any, Any]]:
    return [({"user": x["user"], "item": x["item"]}, y) for x, y in ratings_by_name()]


def ratings_once():
    """Both rules, of ε and of a row that is read twice, act in the one step."""
    return ratings()[:1]


def sequences() -> list[tuple[Any, Any]]:
    random = np.random.default_rng(0)
    return [(random.normal(size=(n, 5, 6)), random.normal(size=(n, 1))) for n in (8, 8, 3)]


def normed() -> keras.Model:
    """A bias before a norm: its gradient is rounding, and Adam makes steps of it."""
    model = keras.Sequential([
        keras.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.Dense(1)
    ])  # fmt: skip
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def large() -> list[tuple[Any, Any]]:
    return [(x, 300 * y) for x, y in batches()]


def frozen() -> keras.Model:
    """Its norm takes the moving statistics in training, too."""
    norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8), norm, layers.Dense(1)])
    norm.trainable = False
    model.compile(keras.optimizers.SGD(0.0625), "mse")
    return model


def trained() -> keras.Model:
    model = frozen()
    model.layers[1].trainable = True
    model.compile(keras.optimizers.SGD(0.0625), "mse")
    return model
