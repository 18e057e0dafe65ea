import _ctypes
import json
import os
import re
import runpy
import shutil
import sys
import types
from pathlib import Path

import pytest

from ladder.interpreters import Engine
from pipeline.devices import ask, examine_engine
from pipeline.engines import DEFAULT_ENGINES, ENGINES
from reporting import doctor
from reporting.doctor import (
    LIBRARIES,
    LIBRARIES_QUESTION,
    describe,
    describe_gpu_driver,
    examine_data,
    examine_keras,
    problems,
)
from tests.programs import run_python

SCRIPT = Path(__file__).parents[1] / "scripts" / "doctor.py"


def engine(**changes):
    return Engine(**{"name": "toy", "program": (), "packages": ("torch",), **changes})


def findings(**problem_of):
    """Findings with nothing wrong but what is named, engines by `_` for `-`."""
    wrong = {name.replace("_", "-"): text for name, text in problem_of.items()}
    result = {
        "machine": {"memory_bytes": 2**30, "cores": 2, "gpu_driver": None},
        "versions": {"torch": "2.15.0", "jax": None},
        "keras": {"file": "/home/keras.json", "backend": "jax", "problem": None},
        "threads": {"OMP_NUM_THREADS": None},
        "data": {"folder": "/data", "problem": wrong.get("data")},
        "engines": {
            name: {"problem": wrong.get(name), "gpus": ["H100"], "threads": 2, "python": "/python"}
            for name in ENGINES
        },
    }
    return {"ok": not problems(result), **result}


@pytest.fixture(scope="module")
def full_report(drawn_data):
    done = run_python(SCRIPT, "--json", "--data-dir", drawn_data)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_working_machine_is_reported_as_one(full_report, drawn_data):
    assert full_report["ok"] is True
    assert list(full_report["engines"]) == list(ENGINES)
    for name in DEFAULT_ENGINES:
        assert full_report["engines"][name]["problem"] is None
    lightning = full_report["engines"]["lightning"]
    assert lightning["threads"] >= 1
    assert lightning["python"] == sys.executable
    if sys.platform == "linux" and lightning["cuda"]:  # torch brings its libraries along
        assert set(lightning["libraries"].values()) == {"loadable"}
        assert lightning["cudnn"] > 90000
    assert full_report["data"]["folder"] == str(drawn_data)
    assert full_report["data"]["is_fashion_mnist"] is False
    assert full_report["data"]["images"] == [200, 60]
    assert {"backend", "image_data_format", "epsilon", "floatx"} <= set(full_report["keras"])


@pytest.mark.slow
def test_a_report_can_be_read_by_people(full_report):
    text = describe(full_report)
    for title in ("Machine", "Versions", "Keras configuration", "Threads", "Data", "Engines"):
        assert f"\n{title}" in f"\n{text}"
    assert "keras-tensorflow  ready; " in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
        ("import time; time.sleep(60)", "gave no answer in 1 s"),
        ("raise OSError('no driver')", "exited with 1: OSError: no driver"),
        ("import os; os._exit(0)", "exited with 0"),
        ("report = 1; raise SystemExit(3)", "exited with 3"),
    ],
)
def test_a_process_that_dies_or_hangs_becomes_a_line(code, problem):
    assert ask(code, os.environ, 1 if "sleep" in code else 30) == {"problem": problem}


def test_an_engine_that_cannot_be_imported_is_named_with_the_reason(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so: cannot open')")
    variables = {"PYTHONPATH": str(tmp_path)}
    finding = examine_engine(engine(variables=variables), os.environ, 30)
    assert finding["problem"] == "exited with 1: ImportError: libcudart.so: cannot open"
    assert finding["gpus"] == []


FAKE_TENSORFLOW = """
from types import SimpleNamespace as S
config = S(
    list_physical_devices=lambda kind: [], experimental=S(get_device_details=dict),
    threading=S(get_intra_op_parallelism_threads=lambda: 0),
)
sysconfig = S(get_build_info=lambda: {"cuda_version": "12.5.1"})
"""


def test_each_cuda_library_is_loadable_broken_or_missing(tmp_path):
    (tmp_path / "tensorflow.py").write_text(FAKE_TENSORFLOW)
    cublas, cufft = "libcublas.so.12", "libcufft.so.11"
    for folder in ("cublas", "cufft"):
        (tmp_path / "nvidia" / folder / "lib").mkdir(parents=True)
    shutil.copy(_ctypes.__file__, tmp_path / "nvidia" / "cublas" / "lib" / cublas)
    (tmp_path / "nvidia" / "cufft" / "lib" / cufft).write_text("no library")
    toy = engine(packages=("tensorflow",), variables={"PYTHONPATH": str(tmp_path)})
    found = examine_engine(toy, extra=LIBRARIES_QUESTION)
    assert found["problem"] is None
    assert list(found["libraries"]) == list(LIBRARIES["12"])
    assert found["libraries"][cublas] == "loadable"
    assert found["libraries"][cufft].startswith("not loadable: ")
    assert found["libraries"]["libcudart.so.12"] == "missing"
    report = findings()
    report["engines"]["keras-tensorflow"] |= found
    text = describe(report)
    assert re.search(r"built for CUDA 12\.5\.1: \d of 10 libraries load; .*: libcudart", text)
    assert f"; {cufft} is not loadable: " in text
    assert "ready; on the CPU: it sees no GPU" in text
    assert text.count("not built for CUDA") == len(ENGINES) - 1
    for cuda, is_too_old in (("12.2", False), ("13.0", False), ("11.8", True)):
        report["machine"]["gpu_driver"] = f"NVIDIA 1.2 for programs up to CUDA {cuda}"
        assert ("the driver is too old for it" in describe(report)) == is_too_old


def test_a_driver_is_told_with_the_cuda_it_runs(tmp_path, monkeypatch):
    told = tmp_path / "version"
    told.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    )
    monkeypatch.setattr(doctor, "NVIDIA_VERSION", tmp_path / "none")

    def no_library(name):
        raise OSError

    monkeypatch.setattr(doctor.ctypes, "CDLL", no_library)
    assert describe_gpu_driver() is None
    monkeypatch.setattr(doctor, "NVIDIA_VERSION", told)
    assert describe_gpu_driver() == "NVIDIA 580.65.06, but libcuda.so.1 is not here"

    def answer(number):
        number._obj.value = 13000
        return 0

    library = types.SimpleNamespace(cuDriverGetVersion=answer)
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: library)
    assert describe_gpu_driver() == "NVIDIA 580.65.06 for programs up to CUDA 13.0"
    told.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\n")
    assert describe_gpu_driver() == "NVIDIA 535.183.01 for programs up to CUDA 13.0"


def test_keras_is_asked_what_it_makes_of_its_file(tmp_path):
    content = {
        "backend": "jax",
        "image_data_format": "channels_first",
        "epsilon": 1e-5,
        "floatx": "float64",
    }
    (tmp_path / "keras.json").write_text(json.dumps(content))
    environ = {**os.environ, "KERAS_HOME": str(tmp_path)}
    environ.pop("KERAS_BACKEND", None)
    finding = examine_keras(environ, 120)
    assert finding["file"] == str(tmp_path / "keras.json")
    assert json.loads(finding["content"]) == content
    assert {name: finding[name] for name in content} == content
    assert finding["problem"] is None


def test_a_keras_file_that_keras_refuses_becomes_a_line(tmp_path):
    (tmp_path / "keras.json").write_text('{"floatx": "float31"}')
    finding = examine_keras({**os.environ, "KERAS_HOME": str(tmp_path)}, 120)
    assert finding["problem"].startswith("exited with 1: ValueError: Invalid `floatx`")
    assert "problem" in describe({**findings(), "keras": finding})


def test_data_that_are_missing_or_damaged_become_a_line(tmp_path):
    missing = examine_data(tmp_path / "gone", {})
    assert "gone (--data-dir) does not exist" in missing["problem"]
    damaged = examine_data(tmp_path, {})
    assert damaged["folder"] == str(tmp_path)
    assert "holds nothing; wanted: the four IDX files" in damaged["problem"]


def test_the_real_data_are_recognised(real_data):
    assert examine_data(real_data, {})["is_fashion_mnist"] is True


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({}, 0),
        ({"keras_jax": "not installed: jax"}, 0),  # no default engine
        ({"lightning": "crashed with SIGSEGV"}, 1),
        ({"keras_tensorflow": "not installed: tensorflow"}, 1),
        ({"data": "the data set is not here"}, 1),
    ],
)
def test_the_exit_code_tells_whether_default_engines_and_data_are_fine(
    wrong, code, monkeypatch, capsys
):
    monkeypatch.setattr(doctor, "examine", lambda _data_dir: findings(**wrong))
    script = types.SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    assert script.main([]) == code
    shown = capsys.readouterr()
    for text in wrong.values():
        assert text in shown.out
        assert (text in shown.err) == (code == 1)
