import dataclasses
import io
import json
import math

import numpy as np
import pytest

from pipeline import recorded
from pipeline.errors import RunError
from pipeline.record import series, write_layers, write_predictions, write_record
from pipeline.recorded import read_layers, read_predictions, read_record
from tests.fabricated import LAYERS, TEST_LABELS, make_logits, make_record, write_run


def test_history_csv_has_a_row_an_epoch(tmp_path):
    write_record(tmp_path, make_record())
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,accuracy,val_loss,val_accuracy,seconds"
    assert lines[1] == "1,0.5,0.85,0.4,0.86,9"
    assert len(lines) == 4


def test_values_that_are_not_finite_become_none_and_come_back_as_nan(tmp_path):
    history = make_record().history
    history[2]["val_loss"], history[1]["loss"] = math.nan, math.inf
    write_record(tmp_path, make_record(history=history))
    record = read_record(tmp_path)
    assert record.history[2]["val_loss"] is None
    assert [math.isnan(value) for value in series(record, "val_loss")] == [False, False, True]
    assert [math.isnan(value) for value in series(record, "loss")] == [False, True, False]
    assert (tmp_path / "history.csv").read_text().splitlines()[3].split(",")[3] == "nan"


def damaged(**changes):
    return json.dumps({**dataclasses.asdict(make_record()), **changes})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON object"),
        (damaged(schema=2), "has schema 2; this version reads 1"),
        (damaged(extra=1), r"unexpected or missing fields \['extra'\]"),
        (json.dumps({"schema": 1}), "unexpected or missing fields"),
        (damaged(status="done"), "unknown status 'done'"),
        (damaged(parameters="many"), "parameters has a wrong type: 'many'"),
        (damaged(history=[{"epoch": 1}]), "row 1 of `history`"),
        (damaged(history=[make_record().history[0] | {"more": 1}]), "row 1 of `history`"),
        (
            damaged(history=[make_record().history[0] | {"validation_seconds": "1"}]),
            "history.validation_seconds has a wrong type: '1'",
        ),
        (damaged(history=make_record().history[1:]), "row 1 of `history` is not that of epoch 1"),
        (damaged(test={"loss": "low"}), "test.loss has a wrong type: 'low'"),
        (damaged(timing={"train_seconds": True}), "timing.train_seconds has a wrong type: True"),
    ],
)
def test_damaged_and_foreign_records_are_refused(content, message, tmp_path):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(RunError, match=message):
        read_record(tmp_path)


def test_a_folder_without_record_is_not_a_run_folder(tmp_path):
    with pytest.raises(RunError, match=r"is not a run folder: it holds no record\.json"):
        read_record(tmp_path)


def test_predictions_come_back_as_they_were(tmp_path):
    write_predictions(tmp_path, make_logits(3), TEST_LABELS)
    logits, labels = read_predictions(tmp_path)
    np.testing.assert_array_equal(logits, make_logits(3), strict=True)
    np.testing.assert_array_equal(labels, TEST_LABELS, strict=True)


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz(logits=np.array([{}], object), labels=np.zeros(1, int)), "allow_pickle=False"),
        (npz(logits=np.zeros((2, 10))), "labels"),
        (npz(logits=np.zeros((2, 10)), labels=np.zeros(3, int)), r"labels \(3,\)"),
        (npz(logits=np.zeros(2), labels=np.zeros(2, int)), r"logits \(2,\)"),
    ],
)
def test_damaged_predictions_and_pickles_are_refused(content, message, tmp_path):
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_predictions(tmp_path)


def damaged_layers(**changes):
    row = {"name": "conv1", "type": "Conv2D", "output_shape": [28, 28, 32], "parameters": 320}
    return json.dumps({"schema": 1, "layers": [{**row, "name": "a"}, {**row, **changes}]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 2, "layers": []}', "has schema 2; this version reads 1"),
        ('{"schema": true, "layers": []}', "has schema True"),
        ('{"schema": 1}', r"unexpected or missing fields \['layers'\]"),
        ('{"schema": 1, "layers": []}', "at least one layer"),
        ('{"schema": 1, "layers": {"a": 1}}', "layers has a wrong type or length"),
        ('{"schema": 1, "layers": [["a"]]}', r"layers\[0\] must be a JSON object"),
        (damaged_layers(extra=1), r"layers\[1\]: unexpected or missing fields \['extra'\]"),
        (damaged_layers(name="a"), "each by another name"),
        (damaged_layers(name=""), "a layer has a name, a type and sizes"),
        (damaged_layers(type=3), r"layers\[1\].type has a wrong type: 3"),
        (damaged_layers(output_shape=10), r"layers\[1\].output_shape has a wrong type"),
        (damaged_layers(output_shape=[0]), r"sizes; received .*output_shape=\(0,\)"),
        (damaged_layers(output_shape=[None, 10]), r"output_shape\[0\] has a wrong type: None"),
        (damaged_layers(parameters=-1), "sizes; received .*parameters=-1"),
        (damaged_layers(parameters=1.0), r"layers\[1\].parameters has a wrong type: 1.0"),
        (damaged_layers(parameters=True), r"layers\[1\].parameters has a wrong type: True"),
        (damaged_layers(parameters=2**53 + 1), "sizes; received .*parameters=9007"),
    ],
)
def test_damaged_and_foreign_layers_are_refused(content, message, tmp_path):
    (tmp_path / "layers.json").write_text(content)
    with pytest.raises(RunError, match=message):
        read_layers(tmp_path)


@pytest.mark.parametrize(
    ("limit", "read"),
    [
        ("MAX_RECORD_BYTES", read_record),
        ("MAX_PREDICTIONS_BYTES", read_predictions),
        ("MAX_LAYERS_BYTES", read_layers),
    ],
)
def test_oversized_files_are_refused(limit, read, tmp_path, monkeypatch):
    write_run(tmp_path, make_record())
    write_layers(tmp_path, LAYERS)
    assert read(tmp_path)
    monkeypatch.setattr(recorded, limit, 100)
    with pytest.raises(RunError, match="larger than the 100 bytes"):
        read(tmp_path)
