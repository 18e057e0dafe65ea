"""Measure both trainers against what a newcomer writes, interleaved in fresh processes.

`python -m benchmark.against_stock --rounds 4 --output F` uses the first quarter of Fashion-MNIST,
12,000 training and 3,000 validation images, so that a round takes minutes. What is reported is
seconds an epoch, validation included: the median of the epochs after the first, which warms up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.command import OneLineParser, guarded
from pipeline.datasets import find_dataset, load_dataset
from pipeline.drawn import write_first_images
from pipeline.engines import ENGINES, trainer_arguments
from pipeline.environment import describe_machine, package_versions
from pipeline.errors import RunError
from pipeline.record import read_record, series
from portproof.files import write_json

ROOT = Path(__file__).resolve().parent.parent
NUM_TRAIN, NUM_TEST = 15_000, 2_500


@dataclass(frozen=True)
class Arm:
    """One program to measure; `command` builds it from the data and a scratch folder."""

    name: str
    baseline: str | None
    """The arm that its ratio is taken to."""
    environment: dict[str, str]
    command: Callable[[Path, Path], list[str]]


def arms(num_epochs: int) -> list[Arm]:
    """Return the stock arm and ours for each framework."""
    stock = ROOT / "benchmark" / "arms"
    epochs = ["--epochs", str(num_epochs)]

    def ours(engine: str) -> Callable[[Path, Path], list[str]]:
        script, *first = trainer_arguments(engine)

        def command(data: Path, scratch: Path) -> list[str]:
            places = ["--data-dir", str(data), "--run-dir", str(scratch / "run"), "--device", "cpu"]
            return [str(ROOT / "scripts" / script), *first, *epochs, *places]

        return command

    def stock_arm(script: str, *flags: str) -> Callable[[Path, Path], list[str]]:
        return lambda data, scratch: [
            str(stock / script), "--data-dir", str(data), *epochs, *flags,
        ]  # fmt: skip

    tensorflow = {"KERAS_BACKEND": "tensorflow"}
    return [
        Arm("stock Lightning", None, {}, stock_arm("stock_lightning.py")),
        Arm("our Lightning", "stock Lightning", {}, ours("lightning")),
        Arm("stock Keras-TensorFlow", None, tensorflow, stock_arm("stock_keras.py")),
        Arm("our Keras-TensorFlow", "stock Keras-TensorFlow", {}, ours("keras-tensorflow")),
    ]


def measure(arm: Arm, data: Path) -> dict[str, Any]:
    """Run an arm in a fresh process and return its epochs' seconds and last val_accuracy.

    Raises:
        RunError: the arm failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, *arm.command(data, Path(scratch))],
            env={**os.environ, **arm.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RunError(f"{arm.name} exited with {done.returncode}:\n{done.stderr[-2000:]}")
        if arm.name.startswith("stock"):
            return json.loads(done.stdout)
        record = read_record(Path(scratch) / "run")
    return {
        "epoch_seconds": series(record, "seconds"),
        "val_accuracy": series(record, "val_accuracy")[-1],
        "peak_memory_bytes": record.timing["peak_memory_bytes"],
    }


def steady_seconds(measured: dict[str, Any]) -> float:
    """Return the median of the epochs after the first."""
    return statistics.median(measured["epoch_seconds"][1:])


def summarize(
    measurements: dict[str, list[dict[str, Any]]], arms_measured: list[Arm]
) -> list[dict[str, Any]]:
    """Return each arm's median and range of seconds, and its speed-up paired by round."""
    rows = []
    for arm in arms_measured:
        seconds = [steady_seconds(measured) for measured in measurements[arm.name]]
        row: dict[str, Any] = {
            "arm": arm.name,
            "epoch_seconds_median": statistics.median(seconds),
            "epoch_seconds": seconds,
            "val_accuracy": [measured["val_accuracy"] for measured in measurements[arm.name]],
            "peak_memory_bytes": max(
                measured["peak_memory_bytes"] for measured in measurements[arm.name]
            ),
        }
        if arm.baseline is not None:
            stock = [steady_seconds(measured) for measured in measurements[arm.baseline]]
            ratios = [ours / theirs for ours, theirs in zip(stock, seconds, strict=True)]
            row |= {"speed_up": ratios, "speed_up_median": statistics.median(ratios)}
        rows.append(row)
    return rows


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    flags = OneLineParser(prog="benchmark.against_stock", description=__doc__)
    flags.add_argument("--rounds", type=int, default=4, metavar="N")
    flags.add_argument("--epochs", type=int, default=3, metavar="N", help="a process (3)")
    flags.add_argument("--data-dir", type=Path, metavar="D")
    flags.add_argument("--output", type=Path, metavar="F", help="JSON file to write")
    return flags


def run(arguments: argparse.Namespace) -> None:
    """Measure all arms in rounds, every other one in reverse order, and show the result."""
    chosen = arms(arguments.epochs)
    measurements: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in chosen}
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_dataset(find_dataset(arguments.data_dir))
        write_first_images(dataset, Path(folder), NUM_TRAIN, NUM_TEST)
        for number in range(arguments.rounds):
            for arm in chosen if number % 2 == 0 else chosen[::-1]:
                measured = measure(arm, Path(folder))
                measurements[arm.name].append(measured)
                seconds = steady_seconds(measured)
                print(f"round {number + 1}  {arm.name:24} {seconds:6.2f} s", flush=True)
    rows = summarize(measurements, chosen)
    for row in rows:
        ratio = f"  {row['speed_up_median']:.2f}x faster" if "speed_up" in row else ""
        print(f"{row['arm']:24} {row['epoch_seconds_median']:6.2f} s an epoch{ratio}")
    if arguments.output:
        command = ["python", "-m", "benchmark.against_stock", "--rounds", str(arguments.rounds)]
        environment = {**describe_machine(), "packages": package_versions()}
        write_json(
            arguments.output,
            {
                "command": [*command, "--epochs", str(arguments.epochs)],
                "train_images": NUM_TRAIN * 4 // 5,
                "validation_images": NUM_TRAIN // 5,
                "environment": environment,
                "engines": {name: ENGINES[name].environment() for name in ("keras-tensorflow",)},
                "arms": rows,
            },
        )


if __name__ == "__main__":
    flags = parser().parse_args()
    sys.exit(guarded("benchmark.against_stock", lambda: run(flags)))
