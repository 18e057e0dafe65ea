"""What a run has written, read and checked."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ladder.files import read_limited
from ladder.reading import built, read_json
from pipeline.errors import RunError
from pipeline.npz import read_member
from pipeline.record import (
    HISTORY_FIELDS,
    LAYERS,
    PREDICTIONS,
    RECORD,
    SCHEMA,
    VALIDATION_SECONDS,
    Layer,
    Record,
)

STATUSES = ("running", "complete", "failed", "interrupted")
MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_PREDICTIONS_BYTES = 256 * 1024 * 1024
MAX_LAYERS_BYTES = 1024 * 1024
MAX_LAYER_SIZE = 2**53
"""No size of a layer's output, and no number of its parameters, may be larger: a double counts
them all."""


def read_record(run_dir: Path) -> Record:
    """Read and check `record.json`.

    Raises:
        RunError: missing, too large, not JSON, of another schema, or with fields of wrong type.
    """
    path = run_dir / RECORD
    try:
        record = built(Record, _of_this_schema(read_json(path, MAX_RECORD_BYTES)), is_whole=True)
        _check(record)
    except FileNotFoundError as error:
        raise RunError(f"{run_dir} is not a run folder: it holds no {RECORD}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    return record


def _check(record: Record) -> None:
    if record.status not in STATUSES:
        raise ValueError(f"unknown status {record.status!r}")
    for name in ("name", "fingerprint"):
        built(str, record.dataset.get(name), f"dataset.{name}")
    for number, row in enumerate(record.history, start=1):
        if set(row) - {VALIDATION_SECONDS} != set(HISTORY_FIELDS) or row["epoch"] != number:
            raise ValueError(f"row {number} of `history` is not that of epoch {number}")
        built(dict[str, float | None], row, "history")


def _of_this_schema(fields: Any) -> Any:
    schema = fields.get("schema") if isinstance(fields, dict) else SCHEMA
    if type(schema) is not int or schema != SCHEMA:
        raise ValueError(f"it has schema {schema!r}; this version reads {SCHEMA}")
    return fields


@dataclass(frozen=True)
class _Layers:
    schema: int
    layers: tuple[Layer, ...]


def read_layers(run_dir: Path) -> list[Layer]:
    """Return the layers that a run trains, in the order in which they run.

    Raises:
        RunError: missing, too large, not JSON, of another schema, or not a table of layers.
    """
    path = run_dir / LAYERS
    try:
        fields = _of_this_schema(read_json(path, MAX_LAYERS_BYTES))
        layers = built(_Layers, fields, is_whole=True).layers
        for layer in layers:
            sizes = (*layer.output_shape, layer.parameters + 1)
            if not (layer.name and layer.type and 1 <= min(sizes) <= max(sizes) <= MAX_LAYER_SIZE):
                raise ValueError(f"a layer has a name, a type and sizes; received {layer}")
        if not layers or len({layer.name for layer in layers}) < len(layers):
            raise ValueError("it must name at least one layer, and each by another name")
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    return list(layers)


def read_predictions(run_dir: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return test logits (N, classes) and true labels (N,) of a run.

    Raises:
        RunError: missing, too large, damaged, or of unexpected shape.
    """
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
