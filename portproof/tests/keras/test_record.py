"""What the Keras program records of a model, and that forced and free replays agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from portproof.graph.calls import Graph
from portproof.record.keras import KerasModel, open_model, use_float64
from portproof.record.program import SetUpError

# As in the program, where warnings are off: TensorFlow's arrays do not take NumPy 2's `copy`.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def in_float64(monkeypatch: pytest.MonkeyPatch):
    from keras.src.backend.common import dtypes

    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    kept = keras.config.floatx(), keras.config.dtype_policy()
    use_float64()
    yield
    keras.config.set_floatx(kept[0])
    keras.config.set_dtype_policy(kept[1])


class Subclassed(keras.Model):
    """Layers, `keras.ops`, operators, and a layer used twice."""

    def __init__(self):
        super().__init__()
        self.twice = layers.Dense(4, activation="tanh")
        self.norm = layers.BatchNormalization()
        self.head = layers.Dense(2)

    def call(self, x, training=None):
        x = self.twice(x)
        x = x + ops.relu(self.twice(x)) * 2.0
        return self.head(self.norm(x, training=training)[:, ::-1])


def sequences():
    x = tokens = keras.Input((6,), dtype="int64")
    x = layers.Embedding(9, 4, mask_zero=True)(x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    return keras.Model(tokens, layers.GRU(5)(layers.LayerNormalization()(x)))


def shared():
    """A layer used on a long way first, then on a short one, which depths put first."""
    x = keras.Input((4,))
    twice = layers.Dense(3, name="twice")
    long = twice(layers.Dense(4, name="b")(layers.Dense(4, name="a")(x)))
    return keras.Model(x, layers.Add()([layers.Dense(3, name="c")(long), twice(x)]))


def images():
    return keras.Sequential([
        keras.Input((8, 8, 3)), layers.ZeroPadding2D(1), layers.Conv2D(4, 3, strides=2),
        layers.PReLU(shared_axes=[1, 2]), layers.GroupNormalization(2),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu"),
        layers.SeparableConv2D(6, 3, padding="same", activation="silu"),
        layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        layers.Flatten(), layers.Dropout(0.3), layers.Dense(3, activation="softmax"),
    ])  # fmt: skip


def volumes():
    x = inputs = keras.Input((5, 6, 6, 6, 2))
    x = layers.TimeDistributed(layers.Conv3D(3, 3))(x)
    x = layers.Lambda(lambda t: t[:, 0])(x)
    x = layers.AveragePooling3D(2, strides=1, padding="same")(layers.MaxPooling3D(2)(x))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Permute((4, 1, 2, 3))(x))))


MODELS = [
    (Subclassed, (4,), ["dense", "dense", "batch_norm", "dense"]),
    (sequences, None, ["embedding", "lstm", "lstm", *["dense"] * 4, "layer_norm", "gru"]),
    (volumes, (5, 6, 6, 6, 2), ["conv", "dense"]),
    (images, (8, 8, 3), ["conv", "prelu", "group_norm", "conv", "conv", "conv", "deconv", "dense"]),
]


def opened(build, shape) -> tuple[KerasModel, Graph, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 9, (4, 6)) if shape is None else rng.normal(size=(4, *shape))]
    model, _ = open_model(build())
    return model, Graph.from_dict(model.describe(x)), x


@pytest.mark.parametrize(("build", "shape", "kinds"), MODELS)
def test_every_weight_is_found_filled_replayed_and_differentiated(build, shape, kinds) -> None:
    model, graph, x = opened(build, shape)
    assert [c.kind for c in graph.calls] == kinds
    assert graph.counted == graph.total == model.model.count_params()
    assert graph.uncovered == []
    rng = np.random.default_rng(1)
    weights = {
        f"{c.key}|{role}": rng.uniform(0.2, 0.8, size)
        for c in graph.calls
        for role, size in c.roles.items()
    }
    assert model.fill(weights) == []
    free = model.replay(x, {}, {})
    plain = np.array(model.model(x[0], training=False))
    assert np.array_equal(free["final.0"], plain)
    forced = model.replay(x, {}, {k: v for k, v in free.items() if k[:3] in ("in.", "out")})
    for i in range(len(kinds)):
        for name in (f"alone.{i}", f"out.{i}"):
            assert np.allclose(forced[name], free[f"out.{i}"], rtol=0, atol=1e-12), name
    trained = model.replay(x, {"train": True}, {})
    ours = [v for k, v in trained.items() if k.startswith("grad|")]
    keys = {f"{c.key}|{r}" for c in graph.calls for r in c.roles if not r.startswith("moving")}
    assert len(ours) == len(keys)
    assert all(g.any() for g in ours)
    assert np.array_equal(np.array(model.model(x[0], training=False)), plain)


def test_regularisers_and_constraints_are_noted() -> None:
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, kernel_regularizer="l2", bias_constraint="non_neg")]
    )
    _, graph, _ = opened(lambda: model, (4,))
    assert [text.partition(": ")[2] for text in graph.about["regularised"]] == ["NonNeg", "L2"]


def test_dropout_is_noted_and_drops_nothing() -> None:
    model, graph, x = opened(images, (8, 8, 3))
    assert graph.calls[-1].drops == ["0.3"]
    trained = model.replay(x, {"train": True}, {})["final.0"]
    assert np.allclose(trained, model.replay(x, {}, {})["final.0"], rtol=0, atol=1e-15)


class Head(layers.Layer):
    """Reads the table of another layer, and adds one of its own."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def build(self, shape):
        self.places = self.add_weight(shape=(6, 9), name="places")

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings)) + self.places


def test_a_weight_that_another_layer_reads_is_a_call_in_the_same_place() -> None:
    tokens, table = keras.Input((6,), dtype="int64"), layers.Embedding(9, 4)
    reversible = layers.ReversibleEmbedding(9, 4)
    for end in (Head(table)(table(tokens)), reversible(reversible(tokens), reverse=True)):
        _, graph, _ = opened(lambda end=end: keras.Model(tokens, end), None)
        assert [c.kind for c in graph.calls][:2] == ["embedding", "weight"]
        assert graph.calls[1].place("value") == graph.calls[0].place("table")
        assert (graph.uncovered, graph.counted) == ([], graph.total)


def test_tokens_in_real_numbers_are_looked_up() -> None:
    build = lambda: keras.Sequential([keras.Input((6,)), layers.Embedding(9, 4)])  # noqa: E731
    _, graph, _ = opened(build, None)
    assert [c.kind for c in graph.calls] == ["embedding"]


def test_features_stand_in_order_of_channels_last_and_augmentation_is_off() -> None:
    def build():
        parts = [layers.RandomRotation(0.2), layers.Conv2D(2, 1), layers.Permute((3, 1, 2))]
        return keras.Sequential([keras.Input((2, 2, 3)), *parts, layers.Flatten(), layers.Dense(2)])

    model, graph, x = opened(build, (2, 2, 3))
    seen = model.replay(x, {}, {})
    assert np.array_equal(seen["in.1"], seen["out.0"].reshape(4, 8))
    assert graph.calls[0].drops == ["RandomRotation"]
    trained = model.replay(x, {"train": True}, {})["final.0"]
    assert np.allclose(trained, seen["final.0"], rtol=0, atol=1e-15)


def test_constants_and_pools_of_volumes_are_in_float64() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 7, 3))
    for padding in ("valid", "same"):
        found = np.array(ops.max_pool(x, (2, 3, 2), (2, 1, 2), padding))
        single = np.array(ops.max_pool(x.astype("float32"), (2, 3, 2), (2, 1, 2), padding))
        assert np.array_equal(found.astype("float32"), single)
        found = np.array(ops.average_pool(x, 2, None, padding))
        single = np.array(ops.average_pool(x.astype("float32"), 2, None, padding))
        assert np.allclose(found, single, atol=1e-6)
    assert float(keras.regularizers.L2(0.1)(ops.ones((1,)))) == 0.1
    assert float(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)(0)) == 0.1


def test_a_weight_of_an_unknown_layer_is_a_call_of_its_own() -> None:
    class Own(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1],), name="w")

        def call(self, x):
            return x * self.w**3

    _, graph, _ = opened(lambda: keras.Sequential([keras.Input((4,)), Own()]), (4,))
    assert [(c.kind, c.roles) for c in graph.calls] == [("weight", {"value": [4]})]


def test_layers_of_several_outputs_and_dense_layers_step_by_step_are_calls() -> None:
    steps = keras.Input((3, 6, 6, 2))
    x = layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(steps)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    model = keras.Model(steps, layers.TimeDistributed(layers.Dense(2))(x))
    wrapped, _ = open_model(model)
    graph = Graph.from_dict(wrapped.describe([np.ones((2, 3, 6, 6, 2))]))
    *cells, dense = graph.calls
    assert {c.kind for c in cells} == {"weight"}
    assert (dense.kind, dense.in_shape, dense.out_shape) == ("dense", [2, 3, 4], [2, 3, 2])


def test_calls_that_training_mode_makes_besides_are_said() -> None:
    dense = layers.SpectralNormalization(layers.Dense(4))
    model = keras.Sequential([keras.Input((6,)), dense, layers.Dense(2)])
    wrapped, _ = open_model(model)
    wrapped.describe([np.ones((2, 6))])
    with pytest.raises(SetUpError, match="in training mode"):
        wrapped.replay([np.ones((2, 6))], {"train": True}, {})


@pytest.mark.parametrize("cast", [
    lambda x: tf.cast(x, tf.float32), lambda x: tf.convert_to_tensor(x, dtype="float32"),
    lambda x: ops.cast(x, "float32"), lambda x: x + tf.constant([0.1], tf.float32),
])  # fmt: skip
def test_users_own_casts_to_float32_lose_nothing(cast) -> None:
    """The frameworks' own are left: Keras resizes images in float32."""
    third = tf.constant([1 / 3], tf.float64)
    assert cast(third).dtype == tf.float64
    assert keras.src.backend.cast(third, "float32").dtype == tf.float32


def test_weights_that_no_call_uses_are_said() -> None:
    class Spare(Subclassed):
        def build(self, shape):
            self.spare = self.add_weight(shape=(7,), name="spare")

    _, graph, _ = opened(Spare, (4,))
    assert [size for _, size in graph.uncovered] == [7]


def test_a_model_of_another_precision_and_wrong_inputs_are_refused_in_a_line() -> None:
    with pytest.raises(SetUpError, match="computes in float32"):
        open_model(keras.Model(dtype="float32"))
    with pytest.raises(SetUpError, match="head computes in bfloat16"):
        open_model(keras.Sequential([layers.Dense(2, dtype="mixed_bfloat16", name="head")]))
    with pytest.raises(SetUpError, match=r"does not take inputs of shape \(4, 5\); it takes"):
        opened(lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]), (5,))
    table = keras.Sequential([keras.Input((2,), dtype="int32"), layers.Embedding(3, 4)])
    with pytest.raises(SetUpError, match="does not take all integers below 6, which it was fed"):
        open_model(table)[0].describe([np.array([[1, 5]], "int32")])
    with pytest.raises(SetUpError, match="has no weights"):
        opened(lambda: keras.Sequential([keras.Input((4,)), layers.ReLU()]), (4,))


def test_a_functional_model_runs_in_the_order_in_which_it_was_written() -> None:
    model = shared()
    before = model(np.ones((2, 4)))
    opened, _ = open_model(model)
    graph = Graph.from_dict(opened.describe([np.ones((2, 4))]))
    assert [c.owner for c in graph.calls] == ["a", "b", "twice", "c", "twice"]
    assert np.array_equal(model(np.ones((2, 4))), before)


def owners(model):
    opened, _ = open_model(model)
    return [c.owner for c in Graph.from_dict(opened.describe([np.ones((2, 4))])).calls]


def test_an_order_that_moves_statistics_or_cannot_run_is_left_to_keras():
    x = keras.Input((4,))
    norm = layers.BatchNormalization(name="norm")
    short = layers.Dense(3, name="c")(norm(layers.Dense(4, name="a")(x)))
    long = layers.Dense(3, name="d")(layers.Dense(4)(norm(layers.Dense(4, name="b")(x))))
    stateful = owners(keras.Model(x, layers.Add()([short, long])))
    assert stateful.index("b") < stateful.index("a")  # by depths: statistics move twice
    x = keras.Input((4,))
    y = layers.Dense(3, name="first")(layers.Dense(4)(layers.Dense(4)(x)))
    keras.backend.clear_session()  # numbers begin anew
    assert owners(keras.Model(x, layers.Dense(2, name="last")(y)))[2:] == ["first", "last"]
