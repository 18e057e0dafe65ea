"""Runs trainings of tests/lightning/ranks.py and reads what they left."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from lightning_impl.train import read_checkpoint
from pipeline.drawn import draw_dataset
from pipeline.record import EPOCH_METRICS, PREDICTIONS, read_predictions, read_record

ROOT = Path(__file__).parents[2]
# Sums over shares round otherwise than over batches; measured 2e-15 after 72 steps.
STATE = 1e-13
# Of weights that differ so little; measured 2e-14.
LOGITS = 1e-11
# The metrics are kept in float64, the accuracies in float32, as exact counts.
METRICS = 1e-12
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 162, 41, 60
# 24 steps an epoch of a size that neither 2 nor 3 divides; the last batch is a single image, so
# that shares of it are empty.
PROOF = ("--batch-size", "7", "--epochs", "3")


class Ranks:
    """Runs cases of tests/lightning/ranks.py, each with its own process group."""

    def __init__(self, folder):
        self.folder, self.data = folder, folder / "data"
        draw_dataset(self.data, NUM_TRAIN + NUM_VALIDATION, NUM_TEST)
        self.done = set()

    def run(self, *cases):
        """Run those cases that have not been run."""
        new = [case for case in cases if case["name"] not in self.done]
        flags = ["--data-dir", str(self.data), "--precision", "64", "--threads", "1"]
        listed = [{**case, "flags": [*flags, *case["flags"]]} for case in new]
        (self.folder / "cases.json").write_text(json.dumps(listed))
        if new:
            subprocess.run(
                [sys.executable, "-m", "tests.lightning.ranks", str(self.folder / "cases.json")],
                check=True, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
            )  # fmt: skip
        self.done |= {case["name"] for case in new}

    def ended(self, name, size):
        """Return what each rank left; None of one that was killed."""
        paths = [self.folder / f"{name}.{rank}.json" for rank in range(size)]
        return [json.loads(path.read_text()) if path.exists() else None for path in paths]

    def counts(self, name, size):
        return [ended["counts"] for ended in self.ended(name, size)]

    def state(self, name):
        """Return weights and Adam's slots of the last epoch."""
        saved = read_checkpoint(self.folder / name / "checkpoints" / "last.ckpt")
        arrays = {key: value.numpy() for key, value in saved["state_dict"].items()}
        for number, slots in saved["optimizer_states"][0]["state"].items():
            arrays |= {f"{number}.{key}": slots[key].numpy() for key in ("exp_avg", "exp_avg_sq")}
        return arrays

    def metrics(self, name):
        history = read_record(self.folder / name).history
        return np.array([[row[metric] for metric in EPOCH_METRICS] for row in history])

    def predictions(self, name):
        path = self.folder / name
        return read_predictions(path)[0] if (path / PREDICTIONS).exists() else np.zeros(0)

    def differences(self, name, size, reference):
        """Return what of a training on several processes is not that of one."""
        found = []
        one, several = self.state(reference), self.state(name)
        assert set(one) == set(several)
        if any(not np.abs(one[key] - several[key]).max() <= STATE for key in one):
            found.append("state")
        first, second = (self.metrics(run) for run in (reference, name))
        if first.shape != second.shape or not np.abs(first - second).max() <= METRICS:
            found.append("metrics")
        first, second = (self.predictions(run) for run in (reference, name))
        if first.shape != second.shape or not np.abs(first - second).max() <= LOGITS:
            found.append("predictions")
        (expected,) = self.counts(reference, 1)
        if any(counted != expected for counted in self.counts(name, size)):
            found.append("counts")
        return found


def case(variant, size, flags=PROOF, mutant=None, **more):
    words = re.findall(r"\w+", str(more))
    name = "-".join(filter(None, [variant, str(size), flags[1], flags[3], mutant, *words]))
    flags = [*flags, "--variant", variant]
    return {"name": name, "size": size, "flags": flags, "masks": variant == "dropout",
            "mutant": mutant, **more}  # fmt: skip
