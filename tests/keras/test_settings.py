"""What each framework is told of the device, with frameworks that are made up."""

import os
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from keras_impl import jax_backend, tensorflow_backend
from pipeline.errors import UsageError
from pipeline.execution import Execution
from tests.programs import run_python


@pytest.fixture
def tensorflow(monkeypatch):
    """A TensorFlow that sees two GPUs, and notes what it is told."""
    told = MagicMock()
    told.config.list_physical_devices.return_value = ["first", "second"]
    told.config.experimental.get_device_details.return_value = {"device_name": "H200"}
    told.config.threading.get_intra_op_parallelism_threads.return_value = 2
    monkeypatch.setitem(sys.modules, "tensorflow", told)
    return told


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_tensorflow_takes_one_gpu_and_no_more_memory_than_it_needs(tensorflow, device):
    resolved = tensorflow_backend.configure(Execution(device=device))
    tensorflow.config.set_visible_devices.assert_called_once_with(["first"], "GPU")
    tensorflow.config.experimental.set_memory_growth.assert_called_once_with("first", True)
    assert (resolved["device"], resolved["gpu"]) == ("gpu", "H200")


def test_tensorflow_takes_no_gpu_where_the_cpu_is_asked_for(tensorflow):
    resolved = tensorflow_backend.configure(Execution(device="cpu"))
    tensorflow.config.set_visible_devices.assert_called_once_with([], "GPU")
    tensorflow.config.experimental.set_memory_growth.assert_not_called()
    assert (resolved["device"], resolved["gpu"]) == ("cpu", None)


def test_a_gpu_that_tensorflow_does_not_see_is_missed(tensorflow):
    tensorflow.config.list_physical_devices.return_value = []
    with pytest.raises(UsageError, match="sees no GPU here"):
        tensorflow_backend.configure(Execution(device="gpu"))


@pytest.mark.parametrize("own", [None, "true"])
def test_jax_takes_memory_as_it_needs_it_unless_told(monkeypatch, own):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.setenv(name, own or "")
    if own is None:
        monkeypatch.delenv(name)
    seen = {}

    def default_backend():
        seen["preallocates"] = os.environ[name]
        return "gpu"

    gpu = SimpleNamespace(device_kind="H200")
    jax = SimpleNamespace(
        config=MagicMock(), default_backend=default_backend, devices=lambda: [gpu]
    )
    monkeypatch.setitem(sys.modules, "jax", jax)
    resolved = jax_backend.configure(Execution())
    assert seen["preallocates"] == (own or "false")
    assert (resolved["device"], resolved["gpu"]) == ("gpu", "H200")


PLACED = """
import os, sys
os.environ |= {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": "meta"}
from keras_impl import torch_backend
from pipeline.execution import Execution
import keras, torch
if sys.argv[1] == "configured":
    torch_backend.configure(Execution(plain=True))
print(keras.ops.ones(1).device)
"""


@pytest.mark.parametrize(("call", "device"), [("configured", "cpu"), ("not configured", "meta")])
def test_keras_on_torch_takes_no_device_but_the_one_it_is_told(call, device):
    """As on an Apple computer, where Keras by itself takes the GPU."""
    done = run_python("-c", PLACED, call, check=True, env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert done.stdout == f"{device}\n"
