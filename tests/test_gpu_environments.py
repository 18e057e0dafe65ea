"""The environments for GPUs, tested without one: locks, files, CUDA libraries, a training."""

import csv
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

import pytest

from ladder.arrays import read_arrays
from pipeline.devices import examine_engine
from pipeline.engines import ENGINES, GPU_ENVIRONMENTS, python_variable, trainer_arguments
from pipeline.origin import engine_versions
from reporting.doctor import LIBRARIES_QUESTION

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "requirements"
FOREIGN = {
    "keras-tensorflow": {"torch", "torchvision", "lightning", "jax"},
    "keras-jax": {"torch", "torchvision", "lightning", "tensorflow"},
}
"""What the environment of an engine must not hold."""
MAIN = {"keras-tensorflow": {"keras", "tensorflow"}, "keras-jax": {"keras", "jax", "jaxlib"}}


def pins(lock):
    """Return the versions, with their markers, by package."""
    found = defaultdict(set)
    for name, rest in re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\\\n]+)", lock.read_text()):
        found[name].add(rest.strip())
    return dict(found)


@pytest.mark.parametrize("engine", FOREIGN)
def test_an_environment_holds_the_main_locks_versions_and_no_other_framework(engine):
    main, own = pins(LOCKS / "dev.txt"), pins(LOCKS / f"gpu-{engine}.txt")
    assert own.keys() & FOREIGN[engine] == set()
    assert {*MAIN[engine], "numpy", "scikit-learn", "safetensors"} <= own.keys()
    shared = own.keys() & main.keys()
    version = re.compile(r"^[^ ]+")
    for name in shared:  # a marker may be narrower in one of them
        assert {version.match(pin)[0] for pin in own[name]} <= {
            version.match(pin)[0] for pin in main[name]
        }, name


def files_owned_twice(site):
    """Return the files that two packages have installed with different bytes, and which."""
    owners, contents = defaultdict(set), defaultdict(set)
    for record in site.glob("*.dist-info/RECORD"):
        with record.open() as file:
            for path, digest, _ in csv.reader(file):
                if digest:  # compiled files and the record itself have none
                    owners[path].add(record.parent.name)
                    contents[path].add(digest)
    return {path: owners[path] for path in owners if len(contents[path]) > 1}


def test_no_file_here_is_owned_by_two_packages():
    assert files_owned_twice(Path(sysconfig.get_path("purelib"))) == {}


def test_a_file_that_two_packages_own_is_seen(tmp_path):
    rows = {
        "cudnn_cu12": "nvidia/cudnn/lib/libcudnn.so.9,sha256=a,5\na.py,sha256=1,1\n",
        "cudnn_cu13": "nvidia/cudnn/lib/libcudnn.so.9,sha256=b,6\nb.py,sha256=1,1\n",
        "same_bytes": "a.py,sha256=1,1\nx.pyc,,\n",
    }
    for name, text in rows.items():
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info" / "RECORD").write_text(text)
    assert files_owned_twice(tmp_path) == {
        "nvidia/cudnn/lib/libcudnn.so.9": {"cudnn_cu12.dist-info", "cudnn_cu13.dist-info"}
    }


@pytest.fixture(scope="module", params=FOREIGN)
def engine(request, tmp_path_factory):
    """An engine whose GPU environment is installed from its lock: this checkout's, or anew."""
    name = request.param
    if sys.platform != "linux" or (
        name == "keras-tensorflow" and platform.machine() not in ("x86_64", "AMD64")
    ):
        pytest.skip("TensorFlow has CUDA for Linux on x86-64 only")
    made = GPU_ENVIRONMENTS / name
    checkout = tmp_path_factory.mktemp("checkout")
    if not (made / ".set-up").exists():
        for part in ("Makefile", "requirements", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, checkout / part)
        (checkout / ".venv").symlink_to(Path(sys.prefix))
        environ = {key: text for key, text in os.environ.items() if not key.startswith("MAKE")}
        made = checkout / ".venv-gpu" / name
        done = subprocess.run(
            ["make", "GPU=1", "-o", ".venv/.set-up", f".venv-gpu/{name}/.set-up"],
            cwd=checkout, env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(python_variable(name), str(made / "bin" / "python"))
        yield name
    shutil.rmtree(checkout)


@pytest.mark.slow
def test_an_environment_can_be_made_and_opens_its_cuda_libraries_without_a_driver(engine):
    assert ENGINES[engine].why_not() is None
    found = examine_engine(ENGINES[engine], extra=LIBRARIES_QUESTION)
    assert found["problem"] is None
    assert found["libraries"]
    assert set(found["libraries"].values()) == {"loadable"}
    assert found["cudnn"] >= 90000


@pytest.mark.slow
def test_no_file_there_is_owned_by_two_packages(engine):
    (python,) = ENGINES[engine].command()
    (site,) = Path(python).parents[1].glob("lib/python*/site-packages")
    assert files_owned_twice(site) == {}
    assert list(site.glob("nvidia_*.dist-info"))


@pytest.mark.slow
def test_a_training_there_gives_the_bits_of_one_here(engine, drawn_data, tmp_path):
    versions = engine_versions(engine)
    assert [versions[name] for name in FOREIGN[engine]] == [None] * len(FOREIGN[engine])
    script, *first = trainer_arguments(engine)
    weights = {}
    for python in (ENGINES[engine].command()[0], sys.executable):
        run = tmp_path / str(len(weights))
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script), *first, "--epochs", "1",
             "--data-dir", str(drawn_data), "--run-dir", str(run), "--device", "cpu"],
            env={**os.environ, python_variable(engine): python}, check=True,
        )  # fmt: skip
        weights[python], _ = read_arrays(run / "weights-last.safetensors")
    there, here = weights.values()
    assert there.keys() == here.keys()
    assert all((there[name] == here[name]).all() for name in here)
