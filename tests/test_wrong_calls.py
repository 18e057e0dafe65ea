"""Calls of the scripts that are wrong: one line, exit code 2, and nothing is written.

Those of the trainers are in test_command.py.
"""

import runpy
import sys
from pathlib import Path

import pytest

from pipeline.run_folder import LOCK

SCRIPTS = Path(__file__).parents[1] / "scripts"
CALLS = {
    "prove.py": [
        (["--seeds", "0"], "`--seeds` must be at least 1; received 0"),
        (["--engines", "theano"], "`--engines` takes keras-tensorflow, keras-jax, keras-torch"),
        (["--variants", "wide"], "`--variants` takes base, dropout; received 'wide'"),
        (["--lanes", "float16"], "`--dtypes` takes float64, float32; received 'float16'"),
        (["--practice"], "`--practice` goes with `--mutants`"),
        (["--faults", "--replays"], "not allowed with"),
        (["--short", "--full"], "not allowed with"),
        (["--engines", ""], "`--engines` takes keras-tensorflow, keras-jax, keras-torch"),
        (["--faults", "--seeds", "2"], "`--mutants` and `--replays` have their own engines"),
        (["--full", "--engines", "keras-jax"], "`--full` takes every engine"),
        (["--short", "--seeds", "2"], "`--short` has its own variants, precisions and seed"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--device", "gpu", "--short"], "is for the ladder and `--processes`, without `--short`"),
        (["--device", "gpu", "--faults"], "`--device gpu` is for the ladder"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--processes", "2,0"], "--processes"),
        (["--processes", "2", "--engines", "keras-torch"], "keras-torch"),
    ],
    "benchmark.py": [
        (["--rounds", "0"], "`--rounds` must be at least 1; received 0"),
        (["--epochs", "1"], "`--epochs` must be at least 2; received 1"),
        (["--images", "10"], "`--images` must be at least 1000; received 10"),
        (["--accuracy", "85"], "`--accuracy` must be in (0, 1); received 85.0"),
        (["--precision", "16"], "`--precision` takes 32, bf16, tf32; received '16'"),
        (["--precision", "tf32"], "`--precision tf32` needs `--device gpu`"),
        (["--against", __file__], "cannot compare with"),
        (["--against", "nowhere.json"], "cannot compare with nowhere.json"),
        (["--device", "gpu"], "`--device gpu`: no NVIDIA GPU can be asked here: "),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--threads", "9999"], "`--threads` must be between 1 and"),
        (["--engines", "theano"], "`--engines` takes lightning, keras-tensorflow"),
        (["--tracks", "theirs"], "`--tracks` takes stock, ours, raw; received 'theirs'"),
        (["--data-dir", "nowhere"], "nowhere"),
    ],
    "compare.py": [
        (["--engines", "caffe"], "received 'caffe'"),
        (["--variants", "base,wide"], "received 'wide'"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--batch-size", "161"], "at most the 160 training images"),
        (["--init", "/nonexistent"], "/nonexistent"),
        (["--data-dir", "/nonexistent"], "does not exist"),
        (["--unknown"], "--unknown"),
    ],
    "equivalence.py": [
        (["--seeds", "0"], "`--seeds` must be at least 1"),
        (["--designs", "nonsense"], "nonsense"),
        (["--at-once", "-1"], "`--at-once` must be at least 1"),
        (["--judge", "--merge", "nowhere.sqlite"], "nowhere.sqlite is not a file of runs"),
        (["--on", "nowhere"], "`--on` takes local, HOST:PORT or ray://HOST:PORT, not 'nowhere'"),
    ],
    "published.py": [(["--pairs", "ResNet51"], "`--pairs` takes VGG16, ")],
}


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [(script, *call) for script, calls in CALLS.items() for call in calls],
)
def test_a_wrong_call_is_refused_in_a_line(
    script, flags, words, drawn_data, tmp_path, monkeypatch, capfd
):
    """In this process: one of its own would import for seconds."""
    monkeypatch.setenv("FASHION_MNIST_DIR", str(drawn_data))
    path = str(SCRIPTS / script)
    monkeypatch.setattr(sys, "argv", [path, *flags, "--output-dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    said = capfd.readouterr().err
    assert ended.value.code == 2, said
    assert words in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.name not in ("out", LOCK)] == []
