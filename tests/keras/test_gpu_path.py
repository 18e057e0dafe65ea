"""Keras on JAX and torch as on a GPU: scanned steps, batches gathered there, losses read late."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.engines import ENGINES

# Float64's rounding over 18 steps; measured 1e-16 to 4e-16 on JAX, 0 on torch.
AGAINST_SINGLE_STEPS = 1e-12
PRELUDE = """
import json, sys
from pathlib import Path
import keras, numpy as np
import keras_impl.data as data_module, keras_impl.train as training
from keras_impl import device_batches, fast
from pipeline.answers import scratch_journal
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.network import shared_first_weights
from pipeline.preprocess import prepare
from pipeline.recipe import preset

data_dir, folder, fault = sys.argv[1:]
backend = keras.backend.backend()

def go(on_gpu):
    for module in (fast, data_module, training):
        module.on_gpu = lambda: on_gpu
"""
TRAIN = (
    PRELUDE
    + """
recipe = preset("dropout", batch_size=9, num_epochs=2, precision="64", conv_filters=(2, 2, 2),
                hidden_units=4)
data = prepare(load_dataset(Path(data_dir)), recipe)
execution = Execution(device="gpu" if fault == "on a gpu" else "cpu")
found, is_async = [], []
real_list = keras.callbacks.CallbackList
real_configure = real_list._configure_async_dispatch
def configure(self, callbacks):
    real_configure(self, callbacks)
    is_async.append(self._async_train)
real_list._configure_async_dispatch = configure
for on_gpu in (True, False):
    go(on_gpu)
    if on_gpu and fault == "reversed":
        import jax
        real = jax.lax.scan
        jax.lax.scan = lambda *a: real(*a, reverse=True)
    if on_gpu and fault == "order":
        device_batches.DeviceBatches.__getitem__ = lambda self, index: self.gather(
            self.images, self.labels, self.rescaled,
            self.batches.positions(0)[: len(self.batches.positions(index))], num_classes=10)
    training.configure(recipe, execution)
    run_dir = Path(folder, str(on_gpu))
    run_dir.mkdir()
    journal = scratch_journal(recipe, data, str(run_dir))
    first = shared_first_weights(recipe)
    model = training.train(recipe, data, execution, journal, first)
    rows = [[row[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")]
            for row in journal.record.history]
    logits = training.predict_logits(model, data.test, recipe, execution)
    found.append([*(np.asarray(v) for v in model.variables), np.asarray(rows), logits])
    spent = [row["validation_seconds"] for row in journal.record.history]
    assert all(seconds > 0 for seconds in spent), spent
gap = max(float(np.abs(a - b).max()) for a, b in zip(*found, strict=True))
print(json.dumps([gap, is_async[0], journal.record.timing["first_step_seconds"] > 0]))
"""
)
GATHER = (
    PRELUDE
    + """
from pipeline.batches import evaluation_batches, training_batches
same = []
for precision in ("32", "64"):
    recipe = preset("base", batch_size=7, precision=precision)
    training.configure(recipe, Execution(device="cpu"))
    images = prepare(load_dataset(Path(data_dir)), recipe).train
    for batches_of in (training_batches, evaluation_batches):
        batches = batches_of(images, recipe)
        host, device = data_module.KerasBatches(batches), device_batches.DeviceBatches(batches)
        for epoch in (0, 3):
            batches.set_epoch(epoch)
            for index in range(len(host)):
                for one, other in zip(host[index], device[index], strict=True):
                    other = keras.ops.convert_to_numpy(other)
                    same.append(one.dtype == other.dtype and bool((one == other).all()))
print(json.dumps([len(same), all(same)]))
"""
)
STRAY = (
    PRELUDE
    + """
from pipeline.journal import NonFiniteLossError
recipe = preset("base", batch_size=9, num_epochs=2, learning_rate=1e30, conv_filters=(2, 2, 2),
                hidden_units=4)
data, execution = prepare(load_dataset(Path(data_dir)), recipe), Execution(device="cpu")
go(True)
training.configure(recipe, execution)
journal = scratch_journal(recipe, data, folder)
try:
    training.train(recipe, data, execution, journal, shared_first_weights(recipe))
except NonFiniteLossError as error:
    print(json.dumps([error.epoch, str(error)]))
"""
)


def ask(program, backend, *arguments):
    engine = ENGINES[f"keras-{backend}"]
    done = subprocess.run(
        engine.command("-c", program, *map(str, arguments)),
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        env={**os.environ, **engine.environment("64")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "fault"),
    [("jax", ""), ("jax", "reversed"), ("torch", ""), ("torch", "order")],
)
def test_the_path_of_a_gpu_trains_as_single_steps_do(drawn_data, tmp_path, backend, fault):
    gap, is_async, has_first_step = ask(TRAIN, backend, drawn_data, tmp_path, fault)
    assert (gap < AGAINST_SINGLE_STEPS) == (not fault)
    assert is_async  # no callback of ours makes each step wait for its loss
    assert has_first_step


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_gpu_trains_on_it_as_single_steps_do(drawn_data, tmp_path, backend):
    """Both ways on the GPU, in float64; cuDNN takes its sums in any order."""
    gap, is_async, _ = ask(TRAIN, backend, drawn_data, tmp_path, "on a gpu")
    assert gap < 1e-9
    assert is_async


@pytest.mark.parametrize("backend", ["jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_batches_gathered_on_a_device_are_the_same_bits(drawn_data, tmp_path, backend):
    assert ask(GATHER, backend, drawn_data, tmp_path, "") == [368, True]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_loss_that_is_read_late_still_ends_the_run(drawn_data, tmp_path, backend):
    epoch, words = ask(STRAY, backend, drawn_data, tmp_path, "")
    assert epoch == 1
    assert "the loss became " in words
