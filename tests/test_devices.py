"""The device that engines which are compared share, with interpreters that claim a GPU."""

import sys

import pytest

from pipeline import devices, engines
from pipeline.devices import Devices, common_device
from pipeline.engines import ENGINES, python_variable
from pipeline.errors import UsageError

PAIR = ("keras-tensorflow", "lightning")
FAKE = """#!{python}
import json, sys
if sys.argv[-1].startswith("["):
    packages = json.loads(sys.argv[-1])[1]
    print(json.dumps({{"python": [3, 12], "missing": [], "versions": dict.fromkeys(packages)}}))
else:
    {act}
    print("engine-report " + json.dumps({{"gpus": {gpus!r}}}))
"""


@pytest.fixture
def claim(tmp_path, monkeypatch):
    """Return a function that lets an engine claim GPUs; the machine has a driver."""
    monkeypatch.setattr(devices, "has_gpu_driver", lambda: True)
    for name in ENGINES:
        monkeypatch.delenv(python_variable(name), raising=False)
    monkeypatch.setattr(engines, "INTERPRETERS", tmp_path / "engines.toml")

    def let(engine, *gpus, act="pass"):
        path = tmp_path / engine
        path.write_text(FAKE.format(python=sys.executable, gpus=list(gpus), act=act))
        path.chmod(0o755)
        monkeypatch.setenv(python_variable(engine), str(path))

    return let


def test_auto_is_the_gpu_where_each_engine_sees_one(claim):
    for name in PAIR:
        claim(name, "NVIDIA H200", "NVIDIA T4")
    on_gpu = Devices("gpu", dict.fromkeys(PAIR, "NVIDIA H200"))
    assert common_device(PAIR, "auto") == common_device(PAIR, "gpu") == on_gpu
    assert common_device(PAIR, "cpu") == Devices("cpu", dict.fromkeys(PAIR))


def test_auto_is_the_cpu_for_all_where_one_engine_sees_none(claim):
    claim("keras-tensorflow")
    claim("lightning", "NVIDIA H200")
    found = common_device(PAIR)
    assert (found.device, found.gpus) == ("cpu", dict.fromkeys(PAIR))
    assert found.note == (
        "all run on the CPU, as keras-tensorflow sees no GPU; run make setup GPU=1, or name a "
        "Python with CUDA in KERAS_TENSORFLOW_PYTHON"
    )
    with pytest.raises(UsageError, match="`--device gpu`: keras-tensorflow sees no GPU; run make"):
        common_device(PAIR, "gpu")
    assert common_device(["lightning"]).device == "gpu"


def test_an_engine_that_crashes_when_it_is_asked_sees_none(claim):
    claim("keras-tensorflow", act="sys.exit('no such device')")
    claim("lightning", "NVIDIA H200")
    note = common_device(PAIR).note
    assert "keras-tensorflow sees no GPU (exited with 1: no such device); run make setup" in note


def test_without_any_gpu_nothing_is_said(claim, monkeypatch):
    for name in PAIR:
        claim(name)
    assert common_device(PAIR) == Devices("cpu", dict.fromkeys(PAIR))
    monkeypatch.setattr(devices, "has_gpu_driver", lambda: False)
    claim("lightning", "NVIDIA H200")  # nobody is asked
    assert common_device(PAIR) == Devices("cpu", dict.fromkeys(PAIR))


def test_a_gpu_that_is_asked_for_is_missed_without_a_driver_too(claim, monkeypatch):
    monkeypatch.setattr(devices, "has_gpu_driver", lambda: False)
    for name in PAIR:
        claim(name)
    with pytest.raises(
        UsageError, match="keras-tensorflow sees no GPU; lightning sees no GPU; run"
    ):
        common_device(PAIR, "gpu")
