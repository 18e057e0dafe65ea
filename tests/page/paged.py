"""Runs, verdicts and measurements that are made up, for the page."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from pipeline.datasets import load_dataset
from pipeline.drawn import draw_dataset
from pipeline.record import Layer, write_layers, write_predictions, write_record
from reporting.evidence import Source, Sources, gather, read_runs
from reporting.write import render
from tests.fabricated import make_record

MARKUP = "</script><img src=x onerror=alert(1)>\"'&"
CONVOLUTIONS = {
    "keras-tensorflow": Layer("conv1", "Conv2D", (28, 28, 32), 320),
    "lightning": Layer("conv1", "Conv2d", (32, 28, 28), 320),
}
LOGITS = Layer("logits", "Dense", (10,), 10)
ORIGIN = {
    "command": "python scripts/prove.py",
    "dataset": "fashion-mnist",
    "machine": {"cpu": "a processor", "memory_bytes": 2**34},
    "packages": {"keras": "3.0"},
}


class Evidence:
    """A folder of data, runs, a proof and a benchmark; each can be changed before it is read."""

    def __init__(self, folder: Path, num_test: int = 200) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        draw_dataset(self.data_dir, 200, num_test)
        self.labels = load_dataset(self.data_dir).test_labels

    def add_run(self, engine="lightning", of="base", *, num_wrong=5, name=None, **changes):
        record = make_record(engine, of)
        dataset = {
            **record.dataset,
            "fingerprint": load_dataset(self.data_dir).fingerprint,
            "train": 160, "validation": 40, "test": len(self.labels),
        }  # fmt: skip
        timing = {**record.timing, "validation_seconds": 2.0}
        record = dataclasses.replace(record, **{"dataset": dataset, "timing": timing, **changes})
        run_dir = self.folder / "runs" / (name or f"{engine}-{of}")
        run_dir.mkdir(parents=True)
        write_record(run_dir, record)
        predicted = self.labels.astype(int)
        predicted[:num_wrong] = (predicted[:num_wrong] + 1) % 10
        write_predictions(run_dir, 4.0 * np.eye(10)[predicted], self.labels)
        convolution = CONVOLUTIONS.get(engine, CONVOLUTIONS["lightning"])
        write_layers(run_dir, (convolution, LOGITS))
        return run_dir

    def add_pair(self, of="base", **changes):
        for engine in ("keras-tensorflow", "lightning"):
            self.add_run(engine, of, **changes)

    def add_all(self):
        for number, engine in enumerate(("keras-tensorflow", "lightning")):
            for variant in ("base", "dropout"):
                self.add_run(engine, variant, num_wrong=5 + 3 * number)
        write(self.folder / "proof" / "ladder.json", ladder())
        write(self.folder / "proof" / "faults.json", faults())
        write(self.folder / "benchmark" / "benchmark.json", benchmark())
        write(self.folder / "equivalence" / "certificate.json", certificates())
        return self

    def read(self):
        runs = self.folder / "runs"
        folders = sorted(runs.iterdir()) if runs.exists() else []
        sources = [
            Source(self.folder / name, is_committed=False)
            for name in ("proof", "benchmark", "equivalence")
        ]
        return gather(read_runs(folders), Sources(*sources), self.data_dir)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def rung(number, name, status="passed", gap=1e-15, places=("conv1", "logits")):
    return {
        "number": number, "name": name, "status": status, "compared": 100,
        "worst": {"where": f"{places[0]}[0]", "gap": gap},
        "gaps": [{"place": place, "gap": gap, "limit": 1e-13} for place in places],
        "reason": "zeros: without it this rung passes" if status == "explained" else "",
    }  # fmt: skip


def climb(right="keras-tensorflow", lane="float64", status="passed", gap=1e-15):
    rungs = [
        rung(1, "data", places=("setting",), gap=0.0),
        rung(5, "layers", gap=1e-15 if status == "explained" else gap),
        rung(7, "gradients", status, gap),
    ]
    return {
        "left": "lightning", "right": right, "lane": lane, "title": "base · fast path",
        "passed": status != "failed", "rungs": rungs,
    }  # fmt: skip


def ladder():
    explained = climb("keras-jax", status="explained", gap=1e-3)
    return {"origin": ORIGIN, "climbs": [climb(), explained, climb(lane="float32", gap=1e-6)]}


def faults():
    fault = {
        "fault": "torch-slope", "engine": "lightning", "variant": "base",
        "mistake": "another slope",
        "difference": "slopes", "is_harmless": False, "rung": "layers", "status": "failed",
        "where": "act1", "cause": "leaky-slope", "sentence": "0.01", "not_as_expected": [],
    }  # fmt: skip
    changes = {"fault": "ties", "is_harmless": True, "rung": "", "cause": "", "status": "passed"}
    origin = {name: ORIGIN[name] for name in ("command", "machine", "packages")}
    return {**origin, "faults": [fault, {**fault, **changes}]}


def spread(median):
    return {"median": median, "lower": 0.9 * median, "upper": 1.1 * median, "n": 3}


def arm(name, median):
    parts = {part: spread(0.5) for part in ("program", "data", "framework", "build")}
    ratio = {"median": 2.0, "low": 1.5, "high": 2.5, "n": 3}
    return {
        "arm": name, "precision": "32", "thrown_out": "", "epoch_seconds": spread(median),
        "images_per_second": 1000.0, "to_first_step_seconds": spread(2.0), "startup": parts,
        "first_step_seconds": spread(0.5), "warm_up_seconds": spread(0.1),
        "wall_seconds": spread(9.0), "peak_memory_bytes": 2**30, "faster_than": {"stock x": ratio},
    }  # fmt: skip


def certificates():
    fields = {
        "suspect": "lightning", "reference": "keras-tensorflow", "variant": "base",
        "num_epochs": 5, "values": [[0.91, 0.912], [0.911, 0.909]],
    }  # fmt: skip
    found = [
        {"design": "shared-base", "is_planted": False, "verdict": "equivalent",
         "sentence": "equivalent within 0.2 points", **fields},
        {"design": "planted-epoch-fewer", "is_planted": True, "verdict": "not equivalent",
         "sentence": "not equivalent within 0.2 points", **fields},
        {"design": "jax-base", "is_planted": False, "verdict": "undecided",
         "sentence": "undecided: at least 3 seeds of each are needed",
         **{**fields, "values": [[], []]}},
    ]  # fmt: skip
    command = "scripts/equivalence.py"
    return {"command": command, "machine": {"cpu": "a processor"}, "certificates": found}


def benchmark(lightning=(4.0, 4.1, 3.9), keras=(2.0, 2.1, 1.9)):
    return {
        "command": "python scripts/benchmark.py", "rounds": 3,
        "conditions": {"train_images": 1000}, "environment": {"cpu": "a processor", "packages": {}},
        "left_out": {"keras-jax": "not installed"},
        "arms": [arm("ours lightning", 4.0), arm("ours keras-tensorflow", 2.0)],
        "measurements": {
            "ours lightning": [{"epoch_seconds": [9.0, value]} for value in lightning],
            "ours keras-tensorflow": [{"epoch_seconds": [9.0, value]} for value in keras],
        },
    }  # fmt: skip


def page_of(made):
    return render(made.read(), ["python", "scripts/report.py"])


def section(html, name):
    return re.search(rf'<section id="{name}">.*?</section>', html, re.DOTALL).group()


class Tags(HTMLParser):
    """The start tags of a page, with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
