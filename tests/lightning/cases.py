"""Runs trainings of tests/lightning/ranks.py and reads what they left."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from lightning_impl.checkpoint import read_checkpoint
from pipeline.drawn import draw_dataset
from tests.both.several import NUM_TEST, NUM_TRAIN, NUM_VALIDATION, differences, metrics

ROOT = Path(__file__).parents[2]
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
        return metrics(self.folder / name)

    def differences(self, name, size, reference):
        """Return what of a training on several processes is not that of one."""
        found = differences(
            [self.state(run) for run in (reference, name)],
            [self.folder / run for run in (reference, name)],
        )
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
