"""A compiled Keras model as a subject of the ladder."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_impl.settings import configure
from keras_impl.trace import ImplementationSubject, built_subject
from ladder.adapters.keras import AfterEachStep, KerasSubject, main
from ladder.exchange import Question, read_trace, write_question
from pipeline.execution import Execution
from pipeline.recipe import preset
from tests.both.sides import (
    CLASSES,
    IMAGES,
    check_segments,
    check_that_the_loss_is_the_mean_over_all_images,
    check_that_weights_survive_the_way_in_and_out,
    check_the_contract_of_the_tutorials_model,
)
from tests.programs import run_python

pytestmark = pytest.mark.filterwarnings(  # Keras's own, on NumPy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def small_model(optimizer=None, **compiled):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, strides=2, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depthwise"),
            layers.LeakyReLU(0.25, name="act"),
            layers.Dropout(0.5, name="drop"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    settings = {"loss": loss, "metrics": ["accuracy"], **compiled}
    model.compile(optimizer=optimizer or keras.optimizers.Adam(0.01), **settings)
    return model


@pytest.fixture
def subject():
    keras.utils.set_random_seed(0)
    return KerasSubject(small_model())


@pytest.fixture
def float64():
    configure(preset("base", precision="64"), Execution(device="cpu"))
    yield
    configure(preset("base"), Execution(device="cpu"))


def users_model():
    return small_model()


def test_weights_survive_the_way_in_and_out(subject):
    check_that_weights_survive_the_way_in_and_out(subject, num_features=32)


def test_the_table_is_read_off_the_model():
    model = built_subject(preset("dropout")).model
    rows = {row["name"]: row for row in KerasSubject(model).layer_table()}
    assert list(rows) == [layer.name for layer in model.layers]
    assert rows["conv2"]["parameters"] == 18_496
    assert rows["pool3"] == {
        "name": "pool3", "kind": "max_pool", "output_shape": [4, 4, 128], "parameters": 0,
        "pool_size": [2, 2], "strides": [2, 2], "padding": "same",
    }  # fmt: skip
    assert rows["drop3"]["rate"] == pytest.approx(0.4)
    model.get_layer("act1").negative_slope = 0.3
    model.get_layer("pool3").padding = "valid"
    changed = {row["name"]: row for row in KerasSubject(model).layer_table()}
    assert changed["act1"]["negative_slope"] == 0.3
    assert changed["pool3"]["padding"] == "valid"


def test_statistics_are_no_parameters_and_an_unknown_kind_is_its_class(subject):
    class OddLayer(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    rows = {row["name"]: row for row in subject.layer_table()}
    assert rows["norm"]["parameters"] == 8
    assert rows["depthwise"]["groups"] == 4
    model = keras.Sequential([keras.Input((2,)), OddLayer(name="odd")])
    assert KerasSubject(model).layer_table()[0]["kind"] == "odd_layer"


def test_points_and_segments_are_the_models_own(subject):
    names = ["norm", "act", "flatten", "logits"]
    points = subject.points(IMAGES, names)
    np.testing.assert_allclose(points["logits"], subject.predict(IMAGES), atol=1e-6)
    check_segments(subject, points, names)


def test_a_model_that_branches_has_points_and_no_segments():
    values = keras.Input((3,))
    left = keras.layers.Dense(2, name="left")(values)
    right = keras.layers.Dense(2, name="right")(values)
    total = keras.layers.Add(name="total")([left, right])
    branched = KerasSubject(keras.Model(values, total))
    points = branched.points(IMAGES[:, 0, :3, 0], ["left", "right", "total"])
    np.testing.assert_allclose(points["left"] + points["right"], points["total"], rtol=1e-6)
    with pytest.raises(ValueError, match="not a chain"):
        branched.forced({"left": IMAGES[:, 0, :3, 0]}, ["left"])


def test_gradients_are_the_losss_slope_and_leave_the_statistics(float64):
    model = small_model()
    model.get_layer("drop").rate = 0.0
    subject = KerasSubject(model)
    images, step = IMAGES.astype(np.float64), 1e-6
    before = subject.weights()
    gradients, loss = subject.gradients(images, CLASSES)
    for name, array in subject.weights().items():
        np.testing.assert_array_equal(array, before[name])
    trained = {name for name in before if "moving" not in name}
    assert set(gradients) == {"input", *trained}
    for name, place in (("conv.kernel", (1, 1, 0, 2)), ("logits.bias", (1,))):
        moved = {**before, name: before[name].copy()}
        moved[name][place] += step
        subject.load_weights(moved)
        slope = (subject.gradients(images, CLASSES)[1] - loss) / step
        assert slope == pytest.approx(gradients[name][place], rel=1e-4)


def test_the_loss_is_the_mean_over_all_images(subject):
    check_that_the_loss_is_the_mean_over_all_images(subject)


def test_steps_are_what_fit_takes(subject):
    start = subject.weights()
    batches = [(IMAGES[:4], CLASSES[:4]), (IMAGES[4:], CLASSES[4:]), (IMAGES[:4], CLASSES[:4])]
    states = list(subject.steps(batches, steps_per_epoch=2))
    assert len(states) == 3
    assert {"loss", "weight.conv.kernel", "adam.m.conv.kernel", "adam.v.conv.kernel"} <= set(
        states[0]
    )
    moved = states[0]["weight.logits.bias"] - start["logits.bias"]
    np.testing.assert_allclose(np.abs(moved), 0.01, rtol=0.01)
    assert not np.array_equal(states[1]["adam.v.conv.kernel"], states[2]["adam.v.conv.kernel"])
    assert all(0.1 < float(state["loss"]) < 10 for state in states)


def test_a_steps_loss_is_its_own_and_a_fit_can_stop(subject):
    subject.model.get_layer("drop").rate = 0.0
    subject.model.optimizer.learning_rate = 0.0
    first, second = (subject.gradients(IMAGES[part], CLASSES[part])[1] for part in ([0, 1], [2]))
    states = list(subject.steps([(IMAGES[:2], CLASSES[:2]), (IMAGES[2:3], CLASSES[2:3])]))
    assert [float(state["loss"]) for state in states] == pytest.approx(
        [float(first), float(second)], rel=1e-5
    )
    after = AfterEachStep(lambda model: subject, 1, stops=True)
    with pytest.raises(AfterEachStep.Reached):
        subject.model.fit(IMAGES, CLASSES, batch_size=2, verbose=0, callbacks=[after])
    assert len(after.states) == 1


def test_the_contract_of_the_tutorials_model():
    contract = built_subject(preset("dropout")).contract()
    check_the_contract_of_the_tutorials_model(contract, "channels_last")
    assert contract["initialisers"]["conv1.kernel"] == "glorot_uniform"


def test_the_contract_says_what_is_unusual():
    rate = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=2.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.25, reduction="sum")
    model = small_model(optimizer, loss=loss)
    model.get_layer("conv").trainable = False
    contract = KerasSubject(model).contract()
    found = contract["optimizer"]
    assert (found["kind"], found["weight_decay_kind"]) == ("adam", "decoupled")
    assert (found["clipping"], found["schedule"]) == ("global norm, at most 2", "each step")
    assert "logits.kernel" in found["decayed"]
    assert "logits.bias" not in found["decayed"]
    assert contract["loss"] == {
        "kind": "categorical cross-entropy", "reduction": "sum over the batch",
        "takes": "probabilities", "label_smoothing": 0.25,
    }  # fmt: skip
    assert contract["frozen"] == ["conv.bias", "conv.kernel"]
    momentum = KerasSubject(small_model(keras.optimizers.SGD(0.1, momentum=0.9))).contract()
    assert momentum["optimizer"]["learning_rate_in_velocity"] is True


def test_weights_of_the_implementation_go_through_the_implementation(monkeypatch):
    subject = built_subject(preset("base"))
    assert isinstance(subject, ImplementationSubject)
    monkeypatch.setattr("keras_impl.trace.export_weights", lambda model: {"seen": np.ones(1)})
    assert list(subject.weights()) == ["seen"]


def test_a_users_model_answers_a_question(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "users_model", sys.modules[__name__])
    question = Question(
        ("layers", "cases"),
        {"cases": ["all"]},
        {"images.all": IMAGES, "labels.all": CLASSES},
    )
    write_question(tmp_path / "question", question)
    assert main("users_model:users_model", tmp_path / "question", tmp_path / "trace") == 0
    trace = read_trace(tmp_path / "trace", question)
    assert trace.engine == "keras-tensorflow"
    assert trace.arrays["logits.all"].shape == (6, 3)
    assert trace.facts["layers"][0]["name"] == "conv"


SEEDED = """
import sys
from keras_impl.settings import configure
from pipeline.execution import Execution
from pipeline.recipe import preset
configure(preset("base"), Execution(device="cpu"))
print(sorted({"tensorflow", "torch"} & set(sys.modules)))
"""


PLACED = """
import sys
import torch
from keras.src.backend.torch import nn
from keras_impl.settings import configure
from pipeline.execution import Execution
from pipeline.recipe import preset
configure(preset("base"), Execution(device="cpu", plain="plain" in sys.argv))
maps = torch.zeros(2, 4, 4, 3)
print(nn._transpose_spatial_inputs(maps).data_ptr() == maps.data_ptr())
calls, real = [], nn._transpose_spatial_inputs
nn._transpose_spatial_inputs = lambda inputs: calls.append(1) or real(inputs)
nn.conv(maps, torch.zeros(3, 3, 3, 5), padding="same")
nn.max_pool(maps, 2, padding="same")
print(len(calls))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("path", "stays"), [("fast", True), ("plain", False)])
def test_on_torch_the_fast_path_leaves_maps_in_place(path, stays):
    """And Keras's convolution and pool do go through the function that is replaced."""
    done = run_python("-c", PLACED, path, env={"KERAS_BACKEND": "torch", "PYTHONPATH": os.getcwd()})
    assert done.stdout.split() == [str(stays), "2"], done.stderr


IMPORTED = """
import sys
import keras_impl
print(sorted({"jax", "matplotlib", "sklearn", "tensorflow", "torch"} & set(sys.modules)))
import matplotlib, sklearn
from keras_impl.train import train
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_keras_is_imported_without_what_it_does_not_need(backend):
    done = run_python("-c", IMPORTED, env={"KERAS_BACKEND": backend, "PYTHONPATH": os.getcwd()})
    assert (done.returncode, done.stdout) == (0, f"['{backend}']\n"), done.stderr


def test_a_keras_json_may_name_jax(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", "import keras_impl, keras; print(keras.backend.backend())"],
        env={**environment, "KERAS_HOME": str(tmp_path), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "jax\n", done.stderr


@pytest.mark.slow
def test_seeding_loads_no_tensorflow_beside_torch():
    done = run_python("-c", SEEDED, env={"KERAS_BACKEND": "torch", "PYTHONPATH": os.getcwd()})
    assert done.stdout == "['torch']\n", done.stderr
