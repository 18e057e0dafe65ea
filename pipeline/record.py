"""A run's folder: what it is called, what lies in it, and how it is written and read."""

import dataclasses
import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ladder.files import (
    finite,
    read_json,
    read_limited,
    write_bytes,
    write_json,
    write_text,
)
from pipeline.errors import RunError

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
STATUSES = ("running", "complete", "failed", "interrupted")
MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_PREDICTIONS_BYTES = 256 * 1024 * 1024
MAX_LAYERS_BYTES = 1024 * 1024
MAX_LAYER_SIZE = 2**53
"""No size of a layer's output, and no number of its parameters, may be larger: a double counts
them all."""


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


def read_record(run_dir: Path) -> Record:
    """Read and check `record.json`.

    Raises:
        RunError: missing, too large, not JSON, of another schema, or with fields of wrong type.
    """
    path = run_dir / RECORD
    try:
        fields = read_json(path, MAX_RECORD_BYTES)
    except FileNotFoundError as error:
        raise RunError(f"{run_dir} is not a run folder: it holds no {RECORD}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    _check(path, fields)
    return Record(**fields)


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


def read_layers(run_dir: Path) -> list[Layer]:
    """Return the layers that a run trains, in the order in which they run.

    Raises:
        RunError: missing, too large, not JSON, of another schema, or not a table of layers.
    """
    path = run_dir / LAYERS
    try:
        fields = read_json(path, MAX_LAYERS_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(fields, dict):
        raise RunError(f"{path} must hold a JSON object")
    _check_schema(path, fields)
    if set(fields) != {"schema", "layers"}:
        found = sorted(set(fields) ^ {"schema", "layers"})
        raise RunError(f"{path}: unexpected or missing fields {found}")
    rows = fields["layers"]
    if not isinstance(rows, list) or not rows:
        raise RunError(f"{path}: `layers` must be a list of at least one layer")
    layers = [_layer(path, number, row) for number, row in enumerate(rows, start=1)]
    if len({layer.name for layer in layers}) < len(layers):
        raise RunError(f"{path}: two layers have the same name")
    return layers


def _layer(path: Path, number: int, row: Any) -> Layer:
    names = {item.name for item in dataclasses.fields(Layer)}
    if not isinstance(row, dict) or set(row) != names:
        raise RunError(f"{path}: layer {number} must have the fields {', '.join(sorted(names))}")
    for name in ("name", "type"):
        if not isinstance(row[name], str) or not row[name]:
            raise RunError(f"{path}: `{name}` of layer {number} must be a word")
    shape = row["output_shape"]
    if not isinstance(shape, list) or not all(_is_count(size, least=1) for size in shape):
        raise RunError(f"{path}: `output_shape` of layer {number} must be a list of sizes")
    if not _is_count(row["parameters"], least=0):
        raise RunError(f"{path}: `parameters` of layer {number} must be a count")
    return Layer(row["name"], row["type"], tuple(shape), row["parameters"])


def _is_count(value: Any, *, least: int) -> bool:
    return type(value) is int and least <= value <= MAX_LAYER_SIZE


def write_predictions(
    run_dir: Path, logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """Write test logits (N, classes) and true labels (N,) of the last weights."""
    content = io.BytesIO()
    np.savez_compressed(content, logits=logits, labels=np.asarray(labels, np.int64))
    write_bytes(run_dir / PREDICTIONS, content.getvalue())


def read_predictions(run_dir: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return test logits (N, classes) and true labels (N,) of a run.

    Raises:
        RunError: missing, too large, damaged, or of unexpected shape.
    """
    from pipeline.npz import read_member

    path = run_dir / PREDICTIONS
    try:
        content = io.BytesIO(read_limited(path, MAX_PREDICTIONS_BYTES))
        with zipfile.ZipFile(content) as archive:
            logits, labels = (
                read_member(archive, name, MAX_PREDICTIONS_BYTES) for name in ("logits", "labels")
            )
    except Exception as error:  # zipfile, zlib and NumPy each raise their own
        raise RunError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise RunError(f"{path} holds logits {logits.shape} and labels {labels.shape}")
    if logits.dtype.kind != "f" or labels.dtype != np.int64:
        raise RunError(f"{path} holds {logits.dtype} logits and {labels.dtype} labels")
    return logits, labels


def series(record: Record, name: str) -> list[float]:
    """Return one column of the history, NaN where a value was not finite."""
    return [math.nan if row[name] is None else float(row[name]) for row in record.history]


def _check(path: Path, fields: Any) -> None:
    if not isinstance(fields, dict):
        raise RunError(f"{path} must hold a JSON object")
    _check_schema(path, fields)
    known = {item.name: item for item in dataclasses.fields(Record)}
    if set(fields) != set(known):
        raise RunError(f"{path}: unexpected or missing fields {sorted(set(fields) ^ set(known))}")
    kinds: dict[str, type | tuple[type, ...]] = {
        "status": str, "engine": str, "variant": str, "command": list, "recipe": dict,
        "execution": dict, "dataset": dict, "environment": dict, "parameters": int,
        "history": list, "test": dict, "timing": dict, "failure": (dict, type(None)),
        "schema": int,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind):
            raise RunError(f"{path}: `{name}` has the wrong type {type(fields[name]).__name__}")
    for name in ("name", "fingerprint"):
        if not isinstance(fields["dataset"].get(name), str):
            raise RunError(f"{path}: `dataset.{name}` must be a word")
    if fields["status"] not in STATUSES:
        raise RunError(f"{path}: unknown status {fields['status']!r}")
    _check_history(path, fields["history"])
    _check_numbers(path, "test", fields["test"])
    _check_numbers(path, "timing", fields["timing"])


def _check_schema(path: Path, fields: dict[str, Any]) -> None:
    if fields.get("schema") != SCHEMA or isinstance(fields["schema"], bool | float):
        raise RunError(f"{path} has schema {fields.get('schema')!r}; this version reads {SCHEMA}")


def _check_history(path: Path, rows: Sequence[Any]) -> None:
    for number, row in enumerate(rows, start=1):
        is_row = isinstance(row, dict) and set(row) - {VALIDATION_SECONDS} == set(HISTORY_FIELDS)
        if not is_row or row["epoch"] != number:
            raise RunError(f"{path}: row {number} of `history` is not that of epoch {number}")
        _check_numbers(path, "history", row)


def _check_numbers(path: Path, name: str, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RunError(f"{path}: `{name}.{key}` must be a number; received {value!r}")


def _cell(value: Any) -> str:
    if value is None:
        return "nan"
    return str(value) if isinstance(value, int) else f"{value:.9g}"
