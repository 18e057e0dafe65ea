"""A run from data to record, around an implementation that is made up: NumPy only, no framework."""

import csv
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets import load_dataset
from pipeline.journal import Journal
from pipeline.network import read_weights, shared_first_weights
from pipeline.recipe import preset
from pipeline.record import EPOCH_METRICS
from pipeline.recorded import read_layers, read_predictions, read_record
from tests.fabricated import LAYERS, make_record
from tests.run.made_up import FILES, NUM_EPOCHS, VAL_LOSSES, fake_implementation, interrupted_at


@pytest.mark.parametrize("image_size", [28, 1])
def test_a_run_leaves_its_pictures(start, tmp_path, image_size):
    start(fake_implementation(), num_epochs=1, image_size=image_size)
    names = ["accuracy", "confusion", "correct", "incorrect", "loss"]
    assert sorted(path.stem for path in (tmp_path / "run" / "plots").glob("*.png")) == names


def test_a_run_leaves_a_whole_folder(start, tmp_path, drawn_data, capsys):
    impl = fake_implementation()
    record = start(impl)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert read_record(tmp_path / "run") == record
    assert (record.status, record.engine, record.variant) == ("complete", "lightning", "base")
    assert record.parameters == 356_234
    assert read_layers(tmp_path / "run") == list(LAYERS)
    assert record.recipe["num_epochs"] == NUM_EPOCHS
    assert record.environment["device"] == "a toy"
    assert record.dataset["fingerprint"] == load_dataset(drawn_data).fingerprint
    assert [record.dataset[part] for part in ("train", "validation", "test")] == [160, 40, 60]
    assert [row["epoch"] for row in record.history] == [1, 2, 3]
    assert [row["val_loss"] for row in record.history] == list(VAL_LOSSES)
    assert record.test["accuracy"] == pytest.approx(59 / 60)
    assert record.failure is None
    phases = [f"{phase}_seconds" for phase in ("program", "data", "framework", "build")]
    assert set(record.timing) == {*phases, "startup_seconds", "first_step_seconds",
                                  "first_call_steps", "train_seconds", "validation_seconds",
                                  "images_per_second", "peak_memory_bytes"}  # fmt: skip
    assert all(record.timing[phase] > 0 for phase in phases)
    total = sum(record.timing[phase] for phase in phases)
    assert record.timing["startup_seconds"] == pytest.approx(total)
    assert impl.epochs == [0, 1, 2]
    assert impl.began[0][2].keys() == shared_first_weights(preset("base")).keys()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:-1]] == [f"epoch {n}/3" for n in (1, 2, 3)]
    assert lines[-1].startswith("lightning base: test accuracy 0.9833, test loss ")


def test_history_report_predictions_and_log_say_the_same(start, tmp_path, drawn_data):
    record = start(fake_implementation())
    with (tmp_path / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx([1, 1 / 2, 1 / 3])
    report = (tmp_path / "run" / "report.txt").read_text()
    assert f"test loss {record.test['loss']:.4f}, test accuracy 0.9833: 59 images" in report
    logits, labels = read_predictions(tmp_path / "run")
    np.testing.assert_array_equal(labels, load_dataset(drawn_data).test_labels)
    assert (logits.argmax(axis=1) != labels).tolist() == [True] + [False] * 59
    assert (tmp_path / "run" / "log.txt").read_text() == "framework noise\n"


def test_last_and_best_weights_are_kept(start, tmp_path):
    start(fake_implementation())
    for name, epoch in (("last", 3), ("best", 2)):
        weights = read_weights(tmp_path / "run" / f"weights-{name}.safetensors", preset("base"))
        assert all((array == epoch).all() for array in weights.values())


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_recorded(call, tmp_path, loss):
    impl = fake_implementation(lambda epoch, step: loss if (epoch, step) == (1, 2) else 0.1)
    code, _, err = call(impl)
    expected = f"the loss became {loss} in epoch 2, step 3; a smaller --learning-rate may help"
    assert (code, err) == (1, f"train_lightning.py: {expected}\n")
    record = read_record(tmp_path / "run")
    assert record.status == "failed"
    assert record.failure == {"reason": expected, "epoch": 2, "step": 3}
    assert len(record.history) == 1
    assert not (tmp_path / "run" / "predictions.npz").exists()


def test_logits_that_are_not_finite_fail_the_run_and_are_recorded(call, tmp_path):
    code, _, err = call(fake_implementation(logits=lambda right: right * np.nan))
    assert code == 1
    assert err.startswith("train_lightning.py: the logits of 60 of 60 samples are not finite")
    assert err.count("\n") == 1
    assert read_record(tmp_path / "run").status == "failed"


def test_a_bug_in_a_half_is_recorded_and_shown(call, tmp_path):
    code, _, err = call(fake_implementation(at=lambda epoch, step: 1 / 0))
    assert code == 1
    assert "ZeroDivisionError: division by zero" in err
    record = read_record(tmp_path / "run")
    assert (record.status, record.failure) == ("failed", {"reason": "division by zero"})


def test_an_interrupt_is_recorded_and_says_how_to_go_on(call, tmp_path):
    code, _, err = call(interrupted_at(2))
    assert code == 130
    assert err.startswith("train_lightning.py: interrupted; to go on: ")
    assert err.endswith(f"train_lightning.py --epochs 3 {' '.join(sys.argv[3:])} --resume\n")
    assert err.count("\n") == 1
    record = read_record(tmp_path / "run")
    assert (record.status, record.failure) == ("interrupted", {"reason": "interrupted"})
    assert len(record.history) == 2


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize("measured_from", [0, 1])
def test_validation_seconds_are_those_of_the_epochs_in_the_record(
    tmp_path, monkeypatch, measured_from
):
    """The second epoch is trained again: the checkpoint has seen only the first."""
    clock = Clock()
    monkeypatch.setattr("pipeline.journal.time", clock)
    journal = Journal(tmp_path, make_record(history=[], timing={}), 100, lambda line: None)
    journal.begin_training(LAYERS)
    for epoch, seconds in ((0, 1.0), (1, 2.0), (1, 4.0), (2, 8.0)):
        journal.resume_at(epoch)
        journal.begin_epoch()
        clock.now += 16
        journal.begin_validation()
        clock.now += seconds
        journal.end_validation()
        clock.now += 32
        journal.end_epoch(epoch, dict.fromkeys(EPOCH_METRICS, 0.5), {})
    for row in journal.record.history[:measured_from]:  # of an earlier version
        del row["validation_seconds"]
    journal.end_training()
    rows = read_record(tmp_path).history
    assert [row.get("validation_seconds") for row in rows][measured_from:] == [1, 4, 8][
        measured_from:
    ]
    assert [row["seconds"] for row in rows] == [17, 20, 24]  # without what is saved of them
    timing = read_record(tmp_path).timing
    assert timing["train_seconds"] == 61
    assert timing.get("validation_seconds") == (None if measured_from else 13)


# A whole trainer process with a made-up half, for what needs a process of its own.
PROCESS = """
import sys
from pipeline import run_report
from pipeline.command import trainer_main
for picture in ("plot_curves", "plot_confusion", "plot_classified"):  # seconds each
    setattr(run_report, picture, lambda *_, **__: None)
from tests.run.made_up import fake_implementation
sys.exit(trainer_main("lightning", fake_implementation, sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("shell", "epochs"), [("{} | head -1", "40"), ("{} >&- 2>&-", "3"), ("{} <&- >/dev/null", "3")]
)
def test_a_reader_that_goes_away_is_no_bug(shell, epochs, tmp_path, drawn_data):
    (tmp_path / "toy.py").write_text(textwrap.dedent(PROCESS))
    command = [sys.executable, str(tmp_path / "toy.py"), "--epochs", epochs,
               "--data-dir", str(drawn_data), "--run-dir", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(
        ["sh", "-c", shell.format('"$@"'), "sh", *command], capture_output=True, text=True,
        check=False, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0
    record = read_record(tmp_path / "run")
    if "head" in shell:
        assert done.stdout == f"lightning base: {tmp_path / 'run'}\n"
        assert record.status == "failed"
        assert len(record.history) < 40
    else:
        assert record.status == "complete"


@pytest.mark.parametrize(
    ("quota", "asked", "threads"), [(1, None, 1), (1, 2, 2), (4, None, None), (8, None, None)]
)
def test_a_containers_quota_sets_the_threads_that_nobody_named(
    start, monkeypatch, quota, asked, threads
):
    """The record keeps what was asked for, so that the run goes on where there is no quota."""
    monkeypatch.setattr("pipeline.implementation.usable_cores", lambda: min(quota, 4))
    monkeypatch.setattr("pipeline.implementation.bound_cores", lambda: 4)
    impl = fake_implementation()
    record = start(impl, num_threads=asked)
    ((_, execution, _),) = impl.began
    assert execution.num_threads == threads
    assert record.execution["num_threads"] == asked
