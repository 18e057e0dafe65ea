"""Records, run folders and a trainer that are made up: no framework, no training."""

import argparse
import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.datasets import load_dataset
from pipeline.environment import cpu_name, package_versions
from pipeline.execution import Execution
from pipeline.recipe import preset, recipe_to_dict
from pipeline.record import Layer, Record, write_predictions, write_record

CLASS_NAMES = tuple("abcdefghij")
TEST_LABELS = np.arange(200) % 10
LAYERS = (Layer("hidden", "Linear", (16,), 356_000), Layer("logits", "Linear", (10,), 234))


def make_record(engine="lightning", variant="base", **changes):
    """Return a complete record of three epochs whose gap opens in the second."""
    history = [
        {
            "epoch": epoch,
            "loss": 0.5 / epoch,
            "accuracy": 0.80 + 0.05 * epoch,
            "val_loss": (0.4, 0.3, 0.35)[epoch - 1],
            "val_accuracy": 0.85 + 0.01 * epoch,
            "seconds": (9.0, 2.0, 3.0)[epoch - 1],
        }
        for epoch in (1, 2, 3)
    ]
    record = Record(
        status="complete",
        engine=engine,
        variant=variant,
        command=["train.py"],
        recipe=recipe_to_dict(preset(variant, num_epochs=3)),
        execution={**dataclasses.asdict(Execution()), "loggers": ["csv"]},
        dataset={
            "name": "fashion-mnist",
            "fingerprint": "f",
            "class_names": list(CLASS_NAMES),
            "train": 3000,
            "validation": 750,
            "test": 200,
        },
        environment={"cpu": cpu_name(), "packages": package_versions(), "device": "cpu"},
        parameters=356234,
        history=history,
        test={"loss": 0.31, "accuracy": 0.89},
        timing={
            "startup_seconds": 1.0,
            "first_step_seconds": 0.1,
            "train_seconds": 14.0,
            "images_per_second": 1000.0,
            "peak_memory_bytes": 2**30,
        },
    )
    return dataclasses.replace(record, **changes)


def make_logits(num_wrong=0):
    """Return logits (200, 10) for `TEST_LABELS`, the first `num_wrong` of which miss by one."""
    predicted = TEST_LABELS.copy()
    predicted[:num_wrong] = (predicted[:num_wrong] + 1) % 10
    return 4.0 * np.eye(10)[predicted]


def write_run(run_dir: Path, record: Record, num_wrong=0):
    run_dir.mkdir(parents=True, exist_ok=True)
    write_record(run_dir, record)
    write_predictions(run_dir, make_logits(num_wrong), TEST_LABELS)


def write_trainers(folder: Path):
    """Write both trainer scripts, which behave as `FAKE_TRAINER` says, into `folder`."""
    folder.mkdir()
    text = f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    for name in ("train_keras.py", "train_lightning.py"):
        (folder / name).write_text(f"{text}from tests.fabricated import train\ntrain({name!r})\n")
    return folder


def train_whole(run_dir: Path, record: Record):
    """Leave what a trainer leaves, epoch by epoch."""
    run_dir.mkdir(parents=True, exist_ok=True)
    for epoch in range(1, len(record.history) + 1):
        begun = dataclasses.replace(record, status="running", history=record.history[:epoch])
        write_record(run_dir, begun)
        print(f"epoch {epoch}", flush=True)
    write_run(run_dir, record)


def train(script: str):
    """Be a trainer: `FAKE_TRAINER` is a mode, or `VARIANT:mode`, `ENGINE/mode` for those only."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--backend")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    arguments, _ = parser.parse_known_args()
    engine = f"keras-{arguments.backend}" if arguments.backend else "lightning"
    recipe = recipe_to_dict(preset(arguments.variant, num_epochs=arguments.epochs))
    fingerprint = load_dataset(arguments.data_dir).fingerprint
    dataset = {**make_record().dataset, "fingerprint": fingerprint}
    record = make_record(engine, arguments.variant, recipe=recipe, dataset=dataset)
    mode = os.environ.get("FAKE_TRAINER", "complete")
    if ":" in mode:
        variant, mode = mode.split(":")
        mode = mode if variant == arguments.variant else "complete"
    if "/" in mode:
        crashing, mode = mode.split("/")
        mode = mode if crashing == engine else "complete"
    resumed = ", --resume" if "--resume" in sys.argv else ""
    print(f"trained by {script}{resumed}", flush=True)
    if mode == "complete":
        train_whole(arguments.run_dir, record)
    elif mode == "nan":
        reason = {"reason": "the loss became nan in epoch 1, step 7", "epoch": 1, "step": 7}
        failed = dataclasses.replace(record, status="failed", failure=reason, test={})
        write_run(arguments.run_dir, failed)
        sys.exit(1)
    elif mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "exit":
        sys.exit(7)
    elif mode == "gone":  # as where somebody moves the comparison's folder away meanwhile
        folder = arguments.run_dir.parent
        folder.rename(folder.with_name(f"{folder.name} moved"))
        sys.exit(1)
    elif mode in ("sleep", "part"):
        if mode == "part":
            begun = dataclasses.replace(record, status="running", history=record.history[:1])
            write_run(arguments.run_dir, begun)
        Path(os.environ["FAKE_PID"]).write_text(str(os.getpid()))
        time.sleep(60)
    elif mode in ("stubborn", "told"):
        if mode == "stubborn":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
        Path(os.environ["FAKE_PID"]).write_text(str(os.getpid()))
        time.sleep(60)
