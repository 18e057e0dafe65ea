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
from pipeline.recipe import preset, recipe_from_dict, recipe_to_dict
from pipeline.recipe_file import read_recipe_fields
from pipeline.record import Layer, Record, write_predictions, write_record

CLASS_NAMES = tuple("abcdefghij")
TEST_LABELS = np.arange(200) % 10
EXITS = {"refused": 2, "exit": 7}
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
    """Leave what a trainer leaves, epoch by epoch; some seeds and rates predict worse."""
    run_dir.mkdir(parents=True, exist_ok=True)
    for epoch in range(1, len(record.history) + 1):
        begun = dataclasses.replace(record, status="running", history=record.history[:epoch])
        write_record(run_dir, begun)
        print(f"epoch {epoch}", flush=True)
    seed, rate = record.recipe["seed"], record.recipe["learning_rate"]
    write_run(run_dir, record, num_wrong=seed % 4 + 20 * (rate > 0.00105))


def called() -> tuple[argparse.Namespace, Record]:
    """Return what this process's command line asks for, and the record of its whole training."""
    parser = argparse.ArgumentParser()
    for flag in ("--run-dir", "--config", "--data-dir"):
        parser.add_argument(flag, type=Path)
    for flag, usual in (("--epochs", 3), ("--threads", None)):
        parser.add_argument(flag, type=int, default=usual)
    parser.add_argument("--variant")
    parser.add_argument("--backend")
    parser.add_argument("--resume", action="store_true")
    arguments, _ = parser.parse_known_args()
    engine = f"keras-{arguments.backend}" if arguments.backend else "lightning"
    kept = arguments.run_dir / "recipe.yaml"
    config = kept if arguments.resume and kept.exists() else arguments.config
    if config:
        recipe = recipe_from_dict(read_recipe_fields(config))
    else:
        recipe = preset(arguments.variant, num_epochs=arguments.epochs)
    record = make_record(engine, recipe.variant, recipe=recipe_to_dict(recipe))
    record.dataset["fingerprint"] = load_dataset(arguments.data_dir).fingerprint
    record.execution["num_threads"] = arguments.threads
    return arguments, record


def mode_of(record: Record) -> str:
    """Return `FAKE_TRAINER`: a mode, or `VARIANT:mode`, `ENGINE/mode` for those only."""
    mode = os.environ.get("FAKE_TRAINER", "complete")
    for mark, own in ((":", record.variant), ("/", record.engine)):
        whose, _, meant = mode.rpartition(mark)
        mode = meant if whose in ("", own) else "complete"
    return mode


def train(script: str):
    """Be a trainer, as `mode_of` says."""
    arguments, record = called()
    run_dir, mode = arguments.run_dir, mode_of(record)
    print(f"trained by {script}{', --resume' if arguments.resume else ''}", flush=True)
    begun = dataclasses.replace(record, status="running", history=record.history[:1])
    if mode == "slow":
        (run_dir.parent / f"{run_dir.name} {os.getpid()}").touch()
        time.sleep(6)
    if mode in ("complete", "slow") or (mode == "killed once" and arguments.resume):
        train_whole(run_dir, record)
    elif mode == "nan":
        reason = {"reason": "the loss became nan in epoch 1, step 7", "epoch": 1, "step": 7}
        write_run(run_dir, dataclasses.replace(record, status="failed", failure=reason, test={}))
        sys.exit(1)
    elif mode in ("killed", "killed once"):
        if mode == "killed once":
            write_run(run_dir, begun)
            arguments.config.rename(run_dir / "recipe.yaml")
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode in EXITS:
        print("no such thing", file=sys.stderr)
        sys.exit(EXITS[mode])
    elif mode == "gone":  # as where somebody moves the comparison's folder away meanwhile
        run_dir.parent.rename(run_dir.parent.with_name(f"{run_dir.parent.name} moved"))
        sys.exit(1)
    elif mode in ("sleep", "part", "stubborn", "told"):
        if mode == "part":
            write_run(run_dir, begun)
        elif mode == "stubborn":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        elif mode == "told":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
        Path(os.environ["FAKE_PID"]).write_text(str(os.getpid()))
        time.sleep(60)
