"""N devices of one process compute what one does: in float64, and what is seen of mutants."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from keras_impl.devices import require_devices
from ladder.exchange import read_arrays
from pipeline.drawn import draw_dataset
from pipeline.errors import UsageError
from pipeline.record import EPOCH_METRICS, read_predictions, read_record

ROOT = Path(__file__).parents[2]
# Sums over shares round otherwise than over batches; measured 2e-15 after 48 steps.
STATE = 1e-13
# Of weights that differ so little; measured 4e-15.
LOGITS = 1e-11
METRICS = 1e-12
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 162, 41, 60
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
        ended = json.loads((self.folder / f"{name}.json").read_text())
        assert ended["code"] == 0, ended["said"]
        return ended

    def states(self, name):
        return read_arrays(self.folder / f"{name}.states")[0]

    def metrics(self, name):
        history = read_record(self.folder / name).history
        return np.array([[row[metric] for metric in EPOCH_METRICS] for row in history])

    def differences(self, name, reference):
        """Return what of a training on several devices is not that of one."""
        found = []
        one, several = self.states(reference), self.states(name)
        assert one
        assert set(one) == set(several)
        if any(not np.abs(one[key] - several[key]).max() <= STATE for key in one):
            found.append("state")
        if not np.abs(self.metrics(reference) - self.metrics(name)).max() <= METRICS:
            found.append("metrics")
        first, second = (read_predictions(self.folder / run)[0] for run in (reference, name))
        if first.shape != second.shape or not np.abs(first - second).max() <= LOGITS:
            found.append("predictions")
        if self.ended(reference)["counts"] != self.ended(name)["counts"]:
            found.append("counts")
        return found


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    return Devices(tmp_path_factory.mktemp("devices"))


def case(backend, size, *flags, mutant=None, epochs=NUM_EPOCHS):
    name = "-".join(
        filter(None, [backend, str(size), *(flag.strip("-") for flag in flags), mutant])
    )
    flags = ["--devices", str(size), "--epochs", str(epochs), *flags]
    return {"name": name, "mutant": mutant, "flags": flags}


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
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"last.keras", "best.keras"}


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
        assert all(np.abs(one[key] - several[key]).max() <= STATE for key in one)


def test_more_devices_than_there_are_are_refused():
    require_devices(2, 2, "GPU")
    with pytest.raises(UsageError, match="`--devices 3`: the tensorflow backend sees 1 GPU device"):
        require_devices(3, 1, "GPU")


@pytest.mark.slow
def test_jax_says_that_it_has_fewer_devices():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train_keras.py"), "--backend", "jax",
         "--devices", "3", "--device", "cpu"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "`--devices 3`: the jax backend sees 2 CPU devices" in done.stderr
    assert done.stderr.count("\n") == 1
