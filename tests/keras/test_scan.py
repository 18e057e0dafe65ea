"""Keras on JAX: the steps of one execution in a scan, which production takes on a GPU only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Float64's rounding over 18 steps; measured 1e-16 to 4e-16.
SCAN_AGAINST_SINGLE_STEPS = 1e-12
PROGRAM = """
import json, sys
from pathlib import Path
import jax, numpy as np
import keras_impl.train as training
from keras_impl import fast
from pipeline.answers import scratch_journal
from pipeline.datasets import load_dataset
from pipeline.execution import Execution
from pipeline.network import shared_first_weights
from pipeline.preprocess import prepare
from pipeline.recipe import preset

data_dir, folder, fault = sys.argv[1:]
recipe = preset("dropout", batch_size=9, num_epochs=2, precision="64", conv_filters=(2, 2, 2),
                hidden_units=4)
data, execution = prepare(load_dataset(Path(data_dir)), recipe), Execution(device="cpu")
found = []
for scanned in (True, False):
    fast.scans = lambda: scanned
    if scanned and fault:
        real = jax.lax.scan
        jax.lax.scan = lambda *a: real(*a, reverse=True)
    training.configure(recipe, execution)
    run_dir = Path(folder, str(scanned))
    run_dir.mkdir()
    journal = scratch_journal(recipe, data, str(run_dir))
    first = shared_first_weights(recipe)
    model = training.train(recipe, data, execution, journal, first)
    rows = [[row[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")]
            for row in journal.record.history]
    logits = training.predict_logits(model, data.test, recipe, execution)
    found.append([*(np.asarray(v) for v in model.variables), np.asarray(rows), logits])
print(json.dumps(max(float(np.abs(a - b).max()) for a, b in zip(*found, strict=True))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["", "reversed"])
def test_scanned_steps_train_as_single_ones(drawn_data, tmp_path, fault):
    environment = {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(drawn_data), str(tmp_path), fault],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    gap = json.loads(done.stdout.splitlines()[-1])
    assert (gap < SCAN_AGAINST_SINGLE_STEPS) == (not fault)
