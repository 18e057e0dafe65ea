"""What the hand-written loops share: their flags, the data and first weights, and the clock."""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import load_dataset
from pipeline.environment import peak_memory_bytes
from pipeline.memory import keep_freed_memory
from pipeline.network import shared_first_weights
from pipeline.preprocess import PreparedData, prepare
from pipeline.recipe import Recipe, preset

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RawRun:
    """What a loop trains: the recipe, the three sets and the shared first weights."""

    recipe: Recipe
    data: PreparedData
    weights: dict[str, Array]


class Clock:
    """Measures one program: its start, its first step, and each epoch."""

    def __init__(self) -> None:
        self.measured: dict[str, Any] = {"epoch_seconds": [], "history": []}

    def built(self) -> None:
        """Note that the first step is about to be taken."""
        self.measured["built_at"] = time.time()
        self._built = time.perf_counter()

    def stepped(self) -> None:
        """Note that the first step, or the first call that makes several, is done."""
        self.measured.setdefault("first_step_seconds", time.perf_counter() - self._built)

    def epoch(self, began: float, **metrics: float) -> None:
        """Note an epoch, validation included, that began at `began`, and its metrics.

        A line on stdout tells whoever measures energy that it has ended.
        """
        self.measured["epoch_seconds"].append(time.perf_counter() - began)
        self.measured["history"].append(metrics)
        print("epoch", flush=True)


def flags(description: str | None) -> argparse.ArgumentParser:
    """Return the flags of a loop."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=("32", "bf16", "tf32"), default="32")
    return parser


def read_run(arguments: argparse.Namespace) -> RawRun:
    """Read the data and draw the shared first weights; what is freed from then on is kept."""
    keep_freed_memory()
    precision = "32" if arguments.precision == "tf32" else arguments.precision
    recipe = preset(
        "base",
        num_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        precision=precision,
    )
    data = prepare(load_dataset(arguments.data_dir), recipe)
    return RawRun(recipe, data, shared_first_weights(recipe))


def finish(clock: Clock, test_loss: float, test_accuracy: float, **ran_on: Any) -> int:
    """Print what was measured as JSON and return the exit code.

    `ran_on` is the `device` that the loop has computed on, `cpu` or `gpu`, and its `libraries`.
    """
    clock.measured |= {
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "peak_memory_bytes": peak_memory_bytes(),
        **ran_on,
    }
    json.dump(clock.measured, sys.stdout)
    return 0
