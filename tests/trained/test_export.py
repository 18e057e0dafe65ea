"""Files for other programs, each of which is run by itself before it is called exported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ladder import interpreters
from ladder.arrays import read_arrays, write_arrays
from pipeline.datasets import load_dataset
from pipeline.errors import RunError, UsageError
from pipeline.record import LAST_WEIGHTS
from pipeline.recorded import read_predictions
from trained.export import FILES, FORMS, export, write_about
from trained.run_folder import read_run

ROOT = Path(__file__).parents[2]
ENGINES = {"lightning": "lightning", "keras": "keras-tensorflow"}
pytestmark = pytest.mark.usefixtures("asked_warm")


def test_what_is_exported_gives_the_runs_logits(runs, drawn_data, tmp_path):
    run = read_run(runs["lightning"])
    exported = export(run, "onnx", tmp_path, drawn_data)
    assert 0 <= exported.logit_gap <= exported.allowed_gap < 1e-4
    about = json.loads(write_about(tmp_path, run, [exported]).read_text())
    check_onnx(tmp_path / "model.onnx", about, "lightning", run.folder, drawn_data)


@pytest.mark.slow
@pytest.mark.parametrize("impl", FORMS)
def test_each_form_gives_the_runs_logits(impl, runs, drawn_data, tmp_path):
    folder = tmp_path / "to give 'away'"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "export.py"), "--run", str(runs[ENGINES[impl]]),
         "--output-dir", str(folder), "--data-dir", str(drawn_data)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    files = {FILES[form] for form in FORMS[impl]}
    assert set(os.listdir(folder)) == {*files, "export.json"}
    about = json.loads((folder / "export.json").read_text())
    assert {file["file"] for file in about["files"]} == files
    for file in about["files"]:
        assert file["images"] == 60
        assert 0 <= file["logit_gap"] <= file["allowed_gap"] < 1e-4
        assert file["input"]["layout"] == ("NCHW" if impl == "lightning" else "NHWC")
    assert done.stdout.count("60 test images, logits at most") == len(files)
    check_onnx(folder / "model.onnx", about, impl, runs[ENGINES[impl]], drawn_data)


def check_onnx(path, about, impl, run, data):
    """Run the file as a stranger would, from what it says of itself."""
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    written = onnx.load(path)
    # onnxruntime 1.14, of February 2023, reads them.
    assert ([each.version for each in written.opset_import], written.ir_version) == ([18], 8)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    said = next(file for file in about["files"] if file["form"] == "onnx")
    assert (taken.name, taken.shape) == ("image", said["input"]["shape"])
    assert (given.name, given.shape) == ("logits", said["output"]["shape"])
    assert "divided by 255" in session.get_modelmeta().custom_metadata_map["input"]
    images = load_dataset(data).test_images.astype(np.float32) / 255
    images = images[:, np.newaxis] if impl == "lightning" else images[..., np.newaxis]
    for number in (1, 7, 60):
        logits = session.run(None, {"image": images[:number]})[0]
        assert np.abs(logits - read_predictions(run)[0][:number]).max() < 1e-4


def test_a_file_that_gives_other_logits_is_not_exported(runs, drawn_data, tmp_path):
    run = shutil.copytree(runs["lightning"], tmp_path / "run")
    weights, _ = read_arrays(run / LAST_WEIGHTS)
    write_arrays(run / LAST_WEIGHTS, {**weights, "logits.bias": weights["logits.bias"] + 0.01})
    with pytest.raises(RunError, match=r"logits lie up to 0\.0\d+ apart"):
        export(read_run(run), "onnx", tmp_path / "out", drawn_data)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_missing_or_in_the_way_is_a_wrong_call(runs, drawn_data, tmp_path, monkeypatch):
    run = read_run(runs["lightning"])
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="there already"):
        export(run, "onnx", tmp_path, drawn_data)
    monkeypatch.setattr(interpreters, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"keras-lightning-parity\[export\]"):
        export(run, "onnx", tmp_path / "out", drawn_data)
    assert not (tmp_path / "out").exists()
