"""N devices of one process compute what one does: in float64, and what is seen of mutants."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from keras_impl import jax_backend
from keras_impl.devices import require_devices
from ladder.arrays import read_arrays
from pipeline.drawn import draw_dataset
from pipeline.errors import UsageError
from pipeline.processes import Ranks
from pipeline.record import LAST_WEIGHTS
from pipeline.recorded import read_record
from tests.both.several import NUM_TEST, NUM_TRAIN, NUM_VALIDATION, differences, metrics, same_state
from tests.programs import run_python

ROOT = Path(__file__).parents[2]
# 24 steps an epoch of a size that neither 2 nor 3 divides; the last batch is a single image, so
# that shares of it are empty.
BATCH_SIZE, NUM_EPOCHS = 7, 2
# Each change is in the step, whatever the network: this one compiles quickly.
NETWORK = {"variant": "dropout", "conv_filters": [2, 3, 4], "hidden_units": 8}
BACKENDS = ("tensorflow", "jax")
SEEN = {
    "padded": {"state", "metrics", "counts"},
    "dropped": {"state", "metrics", "counts"},
    "sum_for_mean": {"state"},
    "whole_batches": {"state", "counts"},
    "unweighted_shares": {"state", "metrics"},
    "one_mask": {"state", "metrics", "predictions"},
}
"""What of a training each mutant changes at least."""
PARTITIONED = ("padded", "dropped", "sum_for_mean")
"""Those that JAX can have: XLA partitions one computation, and knows no replicas."""


class Devices:
    """Runs cases of tests/keras/devices.py, each in a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        draw_dataset(folder / "data", NUM_TRAIN + NUM_VALIDATION, NUM_TEST)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(NETWORK))

    def run(self, backend, *cases):
        """Run those cases that have not been run, of one start of the framework."""
        new = [case for case in cases if not (self.folder / f"{case['name']}.json").exists()]
        flags = ["--data-dir", str(self.folder / "data"), "--config",
                 str(self.folder / "recipe.yaml"), "--precision", "64", "--threads", "1",
                 "--batch-size", str(BATCH_SIZE)]  # fmt: skip
        listed = [{**case, "flags": [*flags, *case["flags"]]} for case in new]
        path = self.folder / f"{backend}.cases"
        path.write_text(json.dumps(listed))
        if new:
            subprocess.run(
                [sys.executable, "-m", "tests.keras.devices", backend, str(path)],
                check=True, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
                capture_output=True,
            )  # fmt: skip

    def ended(self, name):
        ended = self.left(name)
        assert ended["code"] == 0, ended["said"]
        return ended

    def left(self, name):
        """Return what a process left, whatever became of it."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def states(self, name):
        return read_arrays(self.folder / f"{name}.states")[0]

    def metrics(self, name):
        return metrics(self.folder / name)

    def differences(self, name, reference):
        """Return what of a training on several devices is not that of one."""
        found = differences(
            [self.states(run) for run in (reference, name)],
            [self.folder / run for run in (reference, name)],
        )
        if self.ended(reference)["counts"] != self.ended(name)["counts"]:
            found.append("counts")
        return found


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    return Devices(tmp_path_factory.mktemp("devices"))


def case(backend, size, *flags, mutant=None, epochs=NUM_EPOCHS, ranks=1, **more):
    called = [backend, str(size), *(flag.strip("-") for flag in flags), mutant]
    if ranks > 1:
        called += [f"{ranks}-ranks", more.get("fault"), *more.get("last", ())]
    name = "-".join(filter(None, called))
    flags = ["--devices", str(size), "--epochs", str(epochs), *flags]
    return {"name": name, "mutant": mutant, "flags": flags, "ranks": ranks, **more}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "size", "flags"),
    [
        ("tensorflow", 3, ("--plain",)),
        ("tensorflow", 2, ()), ("tensorflow", 3, ()), ("jax", 2, ()), ("jax", 3, ()),
    ],
)  # fmt: skip
def test_several_devices_train_as_one(devices, backend, size, flags):
    one, several = case(backend, 1, *flags), case(backend, size, *flags)
    devices.run(backend, one, several)
    name = several["name"]
    assert devices.differences(name, one["name"]) == []
    assert devices.ended(name)["counts"] == [NUM_TRAIN, NUM_VALIDATION] * NUM_EPOCHS
    accuracies = [devices.metrics(run["name"])[:, 1::2] for run in (one, several)]
    assert (accuracies[0] == accuracies[1]).all()
    # Every step is looked at, or on TensorFlow's fast path the epoch's only execution.
    num_looks = 1 if backend == "tensorflow" and not flags else 24
    last = f"{num_looks * NUM_EPOCHS - 1}.adam.step"
    assert devices.states(name)[last] == 24 * NUM_EPOCHS
    assert f"{num_looks * NUM_EPOCHS}.adam.step" not in devices.states(name)
    assert devices.ended(name)["said"].count("epoch 1/2") == 1
    run = devices.folder / name
    assert read_record(run).execution["devices"] == size
    assert len((run / "history.csv").read_text().splitlines()) == NUM_EPOCHS + 1
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "best.keras",
        "training-state.safetensors",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "mutant"),
    [*(("tensorflow", mutant) for mutant in SEEN), *(("jax", mutant) for mutant in PARTITIONED)],
)
def test_a_mutant_is_seen(devices, backend, mutant):
    flags = ("--plain",) if backend == "tensorflow" else ()
    one, mutated = case(backend, 1, *flags), case(backend, 3, *flags, mutant=mutant)
    devices.run(backend, one, mutated)
    assert set(devices.differences(mutated["name"], one["name"])) >= SEEN[mutant]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_goes_on_with_as_many_devices_to_the_same_bits_and_with_others(devices, backend):
    whole, part = case(backend, 2, "--init=shared"), case(backend, 2, "--seed=0", epochs=1)
    devices.run(backend, whole, part)
    runs = devices.folder
    first = (runs / whole["name"] / "weights-last.safetensors").read_bytes()
    for size in (2, 3):
        name = f"{part['name']}-on-{size}"
        subprocess.run(["cp", "-r", str(runs / part["name"]), str(runs / name)], check=True)
        flags = ["--resume", "--epochs", str(NUM_EPOCHS), "--devices", str(size)]
        devices.run(backend, {"name": name, "flags": flags})
        assert devices.ended(name)["code"] == 0
        weights = runs / name / "weights-last.safetensors"
        assert (weights.read_bytes() == first) == (size == 2)
        one, several = read_arrays(runs / whole["name"] / weights.name)[0], read_arrays(weights)[0]
        assert same_state(one, several)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_of_jax_train_as_one(devices, size):
    one, several = case("jax", 1), case("jax", size, ranks=size)
    devices.run("jax", one, several)
    assert devices.differences(several["name"], one["name"]) == []
    for rank in range(1, size):
        other = devices.ended(f"{several['name']}.{rank}")
        assert other["counts"] == devices.ended(one["name"])["counts"]
        assert "epoch" not in other["said"]
    run = devices.folder / several["name"]
    assert read_record(run).execution["devices"] == size
    assert len((run / "history.csv").read_text().splitlines()) == NUM_EPOCHS + 1


@pytest.mark.slow
def test_batches_that_are_dealt_whole_to_processes_are_seen(devices):
    one, mutated = case("jax", 1), case("jax", 2, mutant="dealt_whole", ranks=2)
    devices.run("jax", one, mutated)
    # Of the same images twice the mean is the same; dropout's masks are not.
    assert set(devices.differences(mutated["name"], one["name"])) >= {"state", "counts"}


@pytest.mark.slow
def test_processes_of_jax_end_when_one_is_killed_and_the_run_goes_on(devices):
    whole = case("jax", 2, ranks=2)
    killed = case("jax", 2, ranks=2, fault="SIGKILL")
    devices.run("jax", whole, killed)
    left = devices.left(killed["name"])
    assert left["code"] == 1
    assert "rank 1 of 2 died or hung: the others end" in left["said"].splitlines()[-1]
    assert read_record(devices.folder / killed["name"]).status == "failed"
    first, last = (devices.folder / run["name"] / LAST_WEIGHTS for run in (whole, killed))
    for size in (2, 1):
        name = f"{killed['name']}-on-{size}"
        shutil.copytree(last.parent, devices.folder / name)
        resumed = {"name": name, "flags": ["--resume"], "ranks": size}
        if size == 1:
            resumed["flags"] += ["--devices", "1"]
        devices.run("jax", resumed)
        weights = devices.folder / name / LAST_WEIGHTS
        assert (weights.read_bytes() == first.read_bytes()) == (size == 2)
        one, several = read_arrays(first)[0], read_arrays(weights)[0]
        assert same_state(one, several)


@pytest.mark.slow
def test_processes_of_jax_end_in_time_when_one_hangs(devices):
    hung = case("jax", 2, ranks=2, fault="SIGSTOP")
    devices.run("jax", hung)
    words = (devices.folder / f"{hung['name']}.words").read_text()
    assert "rank 0 of 2 waited 180 s for a batch: rank 1 hangs, and the others end" in words
    assert not (devices.folder / f"{hung['name']}.json").exists()  # it has ended at once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "at", "words"),
    [
        ("SIGKILL", 1, "rank 1 of 3 died or hung: the others end"),
        ("raise", 1, "rank 1 of 3 failed: no space left on device"),
        ("sleep", 1, "of 3 waited 180 s for a batch: rank 1 hangs, and the others end"),
    ],
)
def test_processes_of_jax_say_which_was_lost(devices, fault, at, words):
    lost = case("jax", 3, ranks=3, fault=fault, at=at)
    lost["name"] += f"-{at}"
    devices.run("jax", lost)
    for rank in {0, 1, 2} - {at}:
        stem = f"{lost['name']}.{rank}" if rank else lost["name"]
        assert words in (devices.folder / f"{stem}.words").read_text().splitlines()[-1]


@pytest.mark.slow
def test_processes_of_jax_are_aborted_where_rank_0_is_lost(devices):
    """As JAX 0.10 has it; they can say no word."""
    lost = case("jax", 2, ranks=2, fault="SIGKILL", at=0)
    lost["name"] += "-0"
    devices.run("jax", lost)
    assert "epoch 1/2" in (devices.folder / f"{lost['name']}.words").read_text()
    assert not list(devices.folder.glob(f"{lost['name']}*.json"))


@pytest.mark.slow
def test_processes_of_jax_that_differ_are_a_wrong_call(devices):
    differing = case("jax", 2, ranks=2, last=["--seed=1"])
    devices.run("jax", differing)
    for rank in ("", ".1"):
        left = devices.left(f"{differing['name']}{rank}")
        assert left["code"] == 2
        assert "`seed` is 0 at rank 0 and 1 at rank 1" in left["said"].splitlines()[-1]
    assert not (devices.folder / differing["name"]).exists()


def test_ranks_of_jax_take_cores_of_their_own(monkeypatch):
    bound = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: bound.append(cores))
    for ranks, threads in ((Ranks(), 2), (Ranks(1, 2, 1, 2), 2), (Ranks(1, 2, 1, 2), 3)):
        monkeypatch.setattr(jax_backend, "this_process", lambda ranks=ranks: ranks)
        jax_backend._limit_cores(threads)
    assert bound == [[0, 1], [2, 3], [3, 0, 1]]


def test_more_devices_than_there_are_are_refused():
    require_devices(2, 2, "GPU")
    with pytest.raises(UsageError, match="`--devices 3`: the tensorflow backend sees 1 GPU device"):
        require_devices(3, 1, "GPU")


@pytest.mark.slow
def test_jax_says_that_it_has_fewer_devices():
    flags = ("--backend", "jax", "--devices", "3", "--device", "cpu")
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = run_python(ROOT / "scripts" / "train_keras.py", *flags, env=two)
    assert done.returncode == 2
    assert "`--devices 3`: the jax backend sees 2 CPU devices" in done.stderr
    assert done.stderr.count("\n") == 1
