"""The compiled Keras model as a subject of the ladder."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_impl.settings import configure
from keras_impl.trace import ImplementationSubject, built_subject
from ladder.adapters.keras import AfterEachStep
from pipeline.execution import Execution
from pipeline.recipe import preset
from tests.both.sides import (  # noqa: F401
    CLASSES,
    IMAGES,
    RECIPE,
    test_gradients_are_the_losss_slope,
    test_points_and_segments_are_the_models_own,
    test_the_loss_is_the_mean_over_all_images,
)
from tests.programs import run_python

pytestmark = pytest.mark.filterwarnings(  # Keras's own, on NumPy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture
def subject():
    configure(RECIPE, Execution(device="cpu"))
    yield built_subject(RECIPE, Execution(device="cpu"))
    configure(preset("base"), Execution(device="cpu"))


def test_an_unknown_kind_is_its_class():
    class OddLayer(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((2,)), OddLayer(name="odd")])
    subject = ImplementationSubject(model, RECIPE, Execution(device="cpu"))
    assert subject.layer_table()[0]["kind"] == "odd_layer"


def test_a_steps_loss_is_its_own_and_a_fit_can_stop(subject):
    targets = np.eye(10)[CLASSES]
    subject.model.optimizer.learning_rate = 0.0
    expected = [float(subject.gradients(IMAGES[p], CLASSES[p])[1]) for p in ([0, 1], [2, 3])]
    after = AfterEachStep(lambda model: subject, 2)
    fitted = {"batch_size": 2, "shuffle": False, "verbose": 0}
    subject.model.steps_per_execution = 1
    with pytest.raises(AfterEachStep.Reached):
        subject.model.fit(IMAGES, targets, **fitted, callbacks=[after])
    assert [float(state["loss"]) for state in after.states] == pytest.approx(expected, rel=1e-6)


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
