"""A run's folder: what it is called, what lies in it, and how it is written."""

import dataclasses
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ladder.files import finite, write_bytes, write_json, write_text

RECORD = "record.json"
RECIPE = "recipe.yaml"
HISTORY = "history.csv"
LAYERS = "layers.json"
PREDICTIONS = "predictions.npz"
LOG = "log.txt"
REPORT = "report.txt"
PLOTS = "plots"
LAST_WEIGHTS = "weights-last.safetensors"
BEST_WEIGHTS = "weights-best.safetensors"

SCHEMA = 1
EPOCH_METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")
HISTORY_FIELDS = ("epoch", *EPOCH_METRICS, "seconds")
VALIDATION_SECONDS = "validation_seconds"
"""Beside these in a row of the record, but for epochs that were trained before it was measured."""
STARTUP_PHASES = ("program", "data", "framework", "build")


@dataclass(frozen=True)
class Record:
    """What one run was and what came of it; `record.json`."""

    status: str
    """`running`, `complete`, `failed` or `interrupted`."""
    engine: str
    """`lightning`, `keras-tensorflow`, `keras-jax` or `keras-torch`."""
    variant: str
    command: list[str]
    recipe: dict[str, Any]
    execution: dict[str, Any]
    dataset: dict[str, Any]
    """`folder` (missing in older records), `name`, `fingerprint` (SHA-256 over the four files'),
    `class_names`, and image counts."""
    environment: dict[str, Any]
    """Versions, CPU, `device` (`cpu` or `gpu`), `gpu` (its name, None on the CPU), threads."""
    parameters: int
    history: list[dict[str, Any]] = field(default_factory=list)
    """A row an epoch: `epoch` from 1, four metrics (None where not finite), `seconds`, and
    `validation_seconds`, which `seconds` include."""
    test: dict[str, float] = field(default_factory=dict)
    """`loss` and `accuracy` of the last weights on the test images; empty until complete."""
    timing: dict[str, float] = field(default_factory=dict)
    """`startup_seconds` (from the process's start until all is built) and what it consists of:
    `program_seconds` (Python and the pipeline's imports), `data_seconds`, `framework_seconds`
    (its import) and `build_seconds`; `first_step_seconds` (until the first step ends, or the
    first `first_call_steps` where several are one call, and what is compiled for it),
    `train_seconds` (all epochs, validation included), `validation_seconds` (all epochs'; missing
    where an epoch's was not measured), `images_per_second` (training images over the median epoch,
    validation included) and `peak_memory_bytes` (of the process)."""
    failure: dict[str, Any] | None = None
    """Why the run failed: `reason`, and for a loss of rank 0 that is not finite `epoch` and `step`,
    the last of those where several are one call."""
    schema: int = SCHEMA


def device_of(record: Record) -> str | None:
    """Return a run's device: `cpu`, or the GPU's name; None where training never began."""
    device = record.environment.get("device")
    return str(record.environment.get("gpu") or device) if device else None


def write_record(run_dir: Path, record: Record) -> None:
    """Write `record.json` and `history.csv`."""
    write_json(run_dir / RECORD, finite(dataclasses.asdict(record)))
    rows = [",".join(HISTORY_FIELDS)]
    rows += [",".join(_cell(row[name]) for name in HISTORY_FIELDS) for row in record.history]
    write_text(run_dir / HISTORY, "\n".join(rows) + "\n")


@dataclass(frozen=True)
class Layer:
    """A layer of the network that a run trains, as the framework has built it."""

    name: str
    type: str
    """The framework's own class."""
    output_shape: tuple[int, ...]
    """Without the batch, in the framework's own order of axes."""
    parameters: int


def write_layers(run_dir: Path, layers: Sequence[Layer]) -> None:
    """Write `layers.json`: the layers in the order in which they run."""
    rows = [dataclasses.asdict(layer) for layer in layers]
    write_json(run_dir / LAYERS, {"schema": SCHEMA, "layers": rows})


def write_predictions(
    run_dir: Path, logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """Write test logits (N, classes) and true labels (N,) of the last weights."""
    content = io.BytesIO()
    np.savez_compressed(content, logits=logits, labels=np.asarray(labels, np.int64))
    write_bytes(run_dir / PREDICTIONS, content.getvalue())


def series(record: Record, name: str) -> list[float]:
    """Return one column of the history, NaN where a value was not finite."""
    return [math.nan if row[name] is None else float(row[name]) for row in record.history]


def _cell(value: Any) -> str:
    if value is None:
        return "nan"
    return str(value) if isinstance(value, int) else f"{value:.9g}"
