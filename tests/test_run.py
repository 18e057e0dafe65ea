"""A run from data to record, around an implementation that is made up: NumPy only, no framework."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

from pipeline.command import trainer_main
from pipeline.datasets import load_dataset
from pipeline.drawn import draw_dataset
from pipeline.environment import package_versions
from pipeline.errors import UsageError
from pipeline.execution import Execution
from pipeline.journal import Journal, NonFiniteLossError
from pipeline.network import read_weights, shared_first_weights
from pipeline.recipe import preset, read_recipe_fields, recipe_to_dict
from pipeline.record import (
    EPOCH_METRICS,
    read_layers,
    read_predictions,
    read_record,
    write_record,
)
from pipeline.run import LOCK, run_training
from tests.fabricated import LAYERS, make_record

NUM_EPOCHS = 3
VAL_LOSSES = (0.5, 0.3, 0.4)
FILES = {"record.json", "recipe.yaml", "history.csv", "layers.json", "log.txt", "predictions.npz",
         "report.txt", "plots", "weights-last.safetensors", "weights-best.safetensors",
         LOCK}  # fmt: skip


def fake_implementation(at=lambda epoch, step: 0.1, logits=None, configure=None):
    """An implementation whose weights are all the epoch's number; `at` gives a step's loss.

    It predicts every label right but the first, whatever its weights.
    """

    def train(recipe, data, execution, journal, weights):
        os.write(2, b"framework noise\n")  # as C++ code does
        impl.began.append((recipe, execution, weights))
        journal.begin_training(LAYERS)
        for epoch in range(len(journal.record.history), recipe.num_epochs):
            impl.epochs.append(epoch)
            journal.begin_epoch()
            for step in range(3):
                journal.end_step(epoch, step, at(epoch, step))
            journal.begin_validation()
            journal.end_validation()
            metrics = {"loss": 1 / (epoch + 1), "accuracy": 0.5, "val_accuracy": 0.6}
            now = {name: np.full_like(array, epoch + 1) for name, array in first.items()}
            journal.end_epoch(epoch, {**metrics, "val_loss": VAL_LOSSES[epoch % 3]}, now)
        return "the model"

    def predict_logits(model, images, recipe, execution):
        assert model == "the model"
        right = np.eye(10)[images.labels] * 5
        right[0] = np.roll(right[0], 1)
        return right if logits is None else logits(right)

    first = shared_first_weights(preset("base"))
    impl = SimpleNamespace(
        configure=configure or (lambda recipe, execution: {"device": "a toy"}),
        train=train, predict_logits=predict_logits, began=[], epochs=[],
    )  # fmt: skip
    return impl


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Drawing takes seconds: only one test here has it done."""
    if "pictures" not in request.node.name:
        for name in ("plot_curves", "plot_confusion", "plot_classified"):
            monkeypatch.setattr(f"pipeline.run_report.{name}", lambda *_, **__: None)


@pytest.fixture
def start(tmp_path, drawn_data):
    """Return a function that runs a made-up half in `tmp_path / "run"`."""

    def run(impl, *, resume=False, engine="lightning", run_dir=None, **changes):
        names = [field.name for field in dataclasses.fields(Execution) if field.name in changes]
        execution = Execution(**{name: changes.pop(name) for name in names})
        return run_training(
            engine=engine,
            load_implementation=lambda: impl,
            recipe=preset("base", **{"num_epochs": NUM_EPOCHS, **changes}),
            execution=execution,
            data_dir=drawn_data,
            run_dir=run_dir or tmp_path / "run",
            resume=resume,
        )

    return run


@pytest.fixture
def call(tmp_path, drawn_data, monkeypatch, capsys):
    """Return a function that calls a trainer with a made-up half: exit code, stdout, stderr."""

    def trainer(impl, *flags, data=drawn_data, run_dir=None):
        where = ["--data-dir", str(data), "--run-dir", str(run_dir or tmp_path / "run")]
        argv = ["train_lightning.py", "--epochs", str(NUM_EPOCHS), *where, *flags]
        monkeypatch.setattr(sys, "argv", argv)
        code = trainer_main("lightning", lambda: impl, argv[1:])
        return code, *capsys.readouterr()

    return trainer


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_the_command_in_the_record_is_the_one_that_was_called(call, tmp_path):
    assert call(fake_implementation())[0] == 0
    assert read_record(tmp_path / "run").command[:3] == ["train_lightning.py", "--epochs", "3"]


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


def interrupted_at(epoch):
    def at(now, step):
        if now == epoch:
            raise KeyboardInterrupt
        return 0.1

    return fake_implementation(at)


def test_an_interrupt_is_recorded_and_says_how_to_go_on(call, tmp_path):
    code, _, err = call(interrupted_at(2))
    assert code == 130
    assert err.startswith("train_lightning.py: interrupted; to go on: ")
    assert err.endswith(f"train_lightning.py --epochs 3 {' '.join(sys.argv[3:])} --resume\n")
    assert err.count("\n") == 1
    record = read_record(tmp_path / "run")
    assert (record.status, record.failure) == ("interrupted", {"reason": "interrupted"})
    assert len(record.history) == 2


def test_the_command_to_go_on_names_the_folder_that_was_chosen(start, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "3"])
    with pytest.raises(
        KeyboardInterrupt, match=r"train.py --epochs 3 --run-dir '.*/a run' --resume"
    ):
        start(interrupted_at(0), run_dir=tmp_path / "a run")


def test_an_interrupted_run_goes_on_where_it_was(call, tmp_path):
    call(interrupted_at(2))
    impl = fake_implementation()
    code, _, err = call(impl, "--resume")
    assert (code, err, impl.epochs) == (0, "", [2])
    record = read_record(tmp_path / "run")
    assert (record.status, record.failure) == ("complete", None)
    assert [row["val_loss"] for row in record.history] == list(VAL_LOSSES)
    best = read_weights(tmp_path / "run" / "weights-best.safetensors", preset("base"))
    assert (best["conv1.bias"] == 2).all()


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
    assert [row["seconds"] for row in rows] == [49, 52, 56]
    timing = read_record(tmp_path).timing
    assert timing["train_seconds"] == 157
    assert timing.get("validation_seconds") == (None if measured_from else 13)


def test_a_complete_run_is_not_run_again(call, tmp_path):
    call(fake_implementation())
    before = content(tmp_path / "run")
    impl = fake_implementation()
    code, out, err = call(impl, "--resume")
    assert (code, err, impl.began) == (0, "", [])
    assert f"{tmp_path / 'run'} is complete: test accuracy 0.9833" in out
    assert content(tmp_path / "run") == before


def test_a_complete_run_goes_on_to_more_epochs(call, tmp_path):
    call(fake_implementation())
    impl = fake_implementation()
    code, out, err = call(impl, "--resume", "--epochs", "5")
    assert (code, err, impl.epochs) == (0, "", [3, 4])
    assert [line.split("  ")[0] for line in out.splitlines()[1:-1]] == ["epoch 4/5", "epoch 5/5"]
    record = read_record(tmp_path / "run")
    assert (record.status, len(record.history)) == ("complete", 5)
    assert record.recipe == recipe_to_dict(preset("base", num_epochs=5))
    assert read_recipe_fields(tmp_path / "run" / "recipe.yaml")["num_epochs"] == 5
    assert record.command[-3:] == ["--resume", "--epochs", "5"]
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", *"12345"]
    best = read_weights(tmp_path / "run" / "weights-best.safetensors", preset("base"))
    assert (best["conv1.bias"] == 2).all()


def test_a_run_that_goes_on_shows_no_result_of_fewer_epochs(call, tmp_path):
    call(fake_implementation())
    code, _, err = call(interrupted_at(4), "--resume", "--epochs", "6")
    assert code == 130
    assert err.endswith("--resume --epochs 6\n")
    record = read_record(tmp_path / "run")
    assert (record.status, len(record.history), record.test) == ("interrupted", 4, {})
    assert not (tmp_path / "run" / "predictions.npz").exists()
    impl = fake_implementation()
    assert call(impl, "--resume", "--epochs", "5")[0] == 0  # and fewer than it was to be
    assert impl.epochs == [4]
    assert read_record(tmp_path / "run").status == "complete"


def test_fewer_epochs_than_it_has_trained_are_refused(call, tmp_path):
    call(fake_implementation())
    before = content(tmp_path / "run")
    code, _, err = call(fake_implementation(), "--resume", "--epochs", "2")
    assert code == 2
    assert err.endswith(
        "run: it has trained 3 epochs, received num_epochs=2; name at least as many, or start a "
        "new run\n"
    )
    assert content(tmp_path / "run") == before


def test_a_wrong_call_to_go_on_leaves_a_complete_run_complete(call, tmp_path):
    def refuse(recipe, execution):
        raise UsageError("no such device")

    call(fake_implementation())
    before = content(tmp_path / "run")
    code, _, err = call(fake_implementation(configure=refuse), "--resume", "--epochs", "9")
    assert (code, err) == (2, "train_lightning.py: error: no such device\n")
    assert content(tmp_path / "run") == before


def test_a_bare_resume_goes_by_the_record(tmp_path, drawn_data, monkeypatch, capsys):
    first = ["--epochs", "3", "--data-dir", str(drawn_data), "--run-dir", str(tmp_path / "run")]
    settings = ["--threads", "1", "--plain", "--deterministic", "--device", "cpu"]
    trainer_main("lightning", lambda: interrupted_at(1), [*first, *settings])
    before = read_record(tmp_path / "run")
    assert before.dataset["folder"] == str(drawn_data)
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path))  # the record knows better
    impl, bare = fake_implementation(), ["--resume", *first[-2:]]
    assert trainer_main("lightning", lambda: impl, bare) == 0
    record = read_record(tmp_path / "run")
    assert (impl.epochs, record.execution) == ([1, 2], before.execution)
    assert record.command == before.command
    # A run goes by the device that it was on, not by the word for it.
    assert trainer_main("lightning", lambda: impl, [*bare, "--device", "auto"]) == 0
    capsys.readouterr()
    assert trainer_main("lightning", lambda: impl, [*bare, "--threads", "2"]) == 2
    assert "its `num_threads` was" in capsys.readouterr().err


def test_a_resume_by_the_other_trainer_names_the_right_one(interrupted, capsys):
    assert (
        trainer_main("keras", fake_implementation, ["--resume", "--run-dir", str(interrupted)]) == 2
    )
    assert (
        f"it is a run of lightning; go on with scripts/train_lightning.py --run-dir {interrupted} "
        "--resume\n"
    ) in capsys.readouterr().err


def test_data_that_have_moved_are_asked_for_by_name(call, interrupted, drawn_data, tmp_path):
    record = read_record(interrupted)
    gone = {**record.dataset, "folder": str(tmp_path / "gone")}
    write_record(interrupted, dataclasses.replace(record, dataset=gone))
    bare = ["--resume", "--run-dir", str(interrupted)]
    draw_dataset(tmp_path / "others", 200, 60, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASHION_MNIST_DIR", str(tmp_path / "others"))
        assert trainer_main("lightning", fake_implementation, bare) == 2
    assert (
        trainer_main("lightning", fake_implementation, [*bare, "--data-dir", str(drawn_data)]) == 0
    )
    assert read_record(interrupted).dataset["folder"] == str(drawn_data)


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(
    tmp_path, drawn_data, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.run.time.strftime", lambda form: form.split("%")[0] + "now")
    flags = ["--epochs", "1", "--data-dir", str(drawn_data)]
    for _ in range(3):
        assert trainer_main("lightning", fake_implementation, flags) == 0
    names = [f"lightning-base-now{suffix}" for suffix in ("", "-2", "-3")]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    assert {read_record(path).status for path in (tmp_path / "runs").iterdir()} == {"complete"}
    assert trainer_main("lightning", fake_implementation, [*flags, "--batch-size", "999"]) == 2
    assert len(list((tmp_path / "runs").iterdir())) == 3
    (tmp_path / "runs").rename(tmp_path / "aside")
    (tmp_path / "runs").symlink_to("nowhere")
    assert trainer_main("lightning", fake_implementation, flags) == 1


@pytest.fixture
def interrupted(call, tmp_path):
    call(interrupted_at(1))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "1"], "another recipe: `seed` was 0, received seed=1"),
        (["--variant", "dropout"], "another recipe: `variant` was 'base', received variant='drop"),
        (["--learning-rate", "0.1"], "another recipe: `learning_rate` was 0.001, received"),
    ],
)
def test_another_recipe_is_refused_naming_what_differs(call, interrupted, flags, message):
    before = content(interrupted)
    code, out, err = call(fake_implementation(), *flags, "--resume")
    assert (code, out) == (2, "")
    assert f"error: cannot resume with {message}" in err
    assert err.count("\n") == 1
    assert content(interrupted) == before


def test_the_same_recipe_in_other_words_goes_on(call, interrupted):
    assert call(fake_implementation(), "--seed", "0", "--learning-rate", "1e-3", "--resume")[0] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "its `seed` was 0, received seed=1"),  # behind the saved recipe's back
        ({"engine": "keras-tensorflow"}, "its `engine` was 'lightning', received engine='keras-"),
        ({"plain": True}, "its `plain` was False, received plain=True"),
        ({"num_threads": 1}, "its `num_threads` was None, received num_threads=1"),
    ],
)
def test_another_engine_or_execution_is_refused(start, interrupted, changes, message):
    before = content(interrupted)
    with pytest.raises(UsageError, match=f"cannot resume {interrupted}: {message}"):
        start(fake_implementation(), resume=True, **changes)
    assert content(interrupted) == before


def test_other_versions_are_refused(start, interrupted, monkeypatch):
    monkeypatch.setattr("pipeline.run.package_versions", lambda: {"torch": "1.0"})
    with pytest.raises(UsageError, match=r"its `\w+` was .*, received \w+="):
        start(fake_implementation(), resume=True)


def test_a_version_that_the_engine_does_not_use_is_no_matter(start, interrupted, monkeypatch):
    others = {**package_versions(), "jax": "0.1", "tensorflow": None}
    monkeypatch.setattr("pipeline.run.package_versions", lambda: others)
    assert start(fake_implementation(), resume=True).status == "complete"


def resolving(**resolved):
    return fake_implementation(configure=lambda recipe, execution: resolved)


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ({"device": "cpu"}, {"device": "gpu", "gpu": "H200"},
         "it began on cpu, and would go on on H200; add --device cpu"),
        ({"device": "gpu", "gpu": "H200"}, {"device": "cpu", "gpu": None},
         "it began on H200, and would go on on cpu"),
        ({"device": "gpu", "gpu": "H200"}, {"device": "gpu", "gpu": "T4"},
         "it began on H200, and would go on on T4"),
    ],
)  # fmt: skip
def test_another_device_is_refused_whatever_the_call_says(start, tmp_path, then, now, message):
    first = interrupted_at(1)
    first.configure = lambda recipe, execution: then
    with pytest.raises(KeyboardInterrupt):
        start(first, device="auto")
    before = read_record(tmp_path / "run")
    for device in ("auto", now["device"]):
        with pytest.raises(UsageError, match=f"cannot resume {tmp_path / 'run'}: {message}$"):
            start(resolving(**now), resume=True, device=device)
    assert read_record(tmp_path / "run") == before
    assert start(resolving(**then), resume=True, device=then["device"]).status == "complete"


def test_another_logger_goes_on(start, interrupted):
    assert (
        start(fake_implementation(), resume=True, loggers=("csv", "tensorboard")).status
        == "complete"
    )


def test_other_data_are_refused(call, interrupted, tmp_path):
    draw_dataset(tmp_path / "others", 200, 60, seed=1)
    code, _, err = call(fake_implementation(), "--resume", data=tmp_path / "others")
    assert code == 2
    assert "it was trained on idx-set shapes (sha256 " in err
    assert "received idx-set others (sha256 " in err
    assert f"from {tmp_path / 'others'}; name the folder of its data by --data-dir" in err


@pytest.mark.parametrize("name", ["record.json", "recipe.yaml"])
def test_a_folder_without_a_run_cannot_be_resumed(call, interrupted, name):
    (interrupted / name).unlink()
    code, _, err = call(fake_implementation(), "--resume")
    assert code == 2
    assert name in err
    assert err.count("\n") == 1
    shutil.rmtree(interrupted)
    assert call(fake_implementation(), "--resume")[0] == 2
    assert not interrupted.exists()


@pytest.mark.parametrize("damage", ["{", "{}", '{"schema": 2}'])
def test_a_damaged_record_is_refused(call, interrupted, damage):
    (interrupted / "record.json").write_text(damage)
    code, _, err = call(fake_implementation(), "--resume")
    assert code == 1
    assert f"{interrupted / 'record.json'}" in err
    assert err.count("\n") == 1
    assert (interrupted / "record.json").read_text() == damage


def test_a_folder_that_is_not_empty_is_refused_and_untouched(call, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    code, out, err = call(fake_implementation())
    assert (code, out) == (2, "")
    assert "run is not empty; choose another --run-dir, or add --resume" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_an_earlier_run_is_refused_and_untouched(call, tmp_path):
    call(fake_implementation())
    before = content(tmp_path / "run")
    assert call(fake_implementation())[0] == 2
    assert content(tmp_path / "run") == before


def test_an_empty_folder_is_taken(call, tmp_path):
    (tmp_path / "run").mkdir()
    assert call(fake_implementation())[0] == 0


@pytest.mark.parametrize(
    "left", [[], [".recipe.yaml.a1b2.part"], ["recipe.yaml", "log.txt", ".record.json.c3.part"]]
)
def test_what_a_kill_left_before_the_first_record_is_no_hindrance(call, tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in (LOCK, *left):
        (tmp_path / "run" / name).write_text("")
    assert call(fake_implementation(), "--resume")[0] == 2
    assert call(fake_implementation())[0] == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_there_is_a_record_before_the_framework_is_configured(call, tmp_path):
    def look(recipe, execution):
        assert read_record(tmp_path / "run").status == "running"
        return {}

    assert call(fake_implementation(configure=look))[0] == 0


def test_a_wrong_call_leaves_an_empty_folder_empty(call, tmp_path):
    def refuse(recipe, execution):
        raise UsageError("no such device")

    (tmp_path / "run").mkdir()
    assert call(fake_implementation(configure=refuse))[0] == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_a_folder_in_use_is_refused(call, interrupted, flags):
    before = content(interrupted)
    with FileLock(interrupted / LOCK):
        code, out, err = call(fake_implementation(), *flags)
    assert (code, out) == (2, "")
    assert f"error: {interrupted} is in use by another run" in err
    assert content(interrupted) == before


def test_data_that_are_wrong_leave_no_folder(call, tmp_path, drawn_data):
    shutil.copytree(drawn_data, tmp_path / "data")
    with (tmp_path / "data" / "train-labels-idx1-ubyte").open("ab") as file:
        file.truncate(100)
    for data in (tmp_path / "data", tmp_path / "none", tmp_path):
        code, out, err = call(fake_implementation(), data=data)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_a_half_that_finds_the_call_wrong_leaves_no_folder(call, tmp_path):
    def refuse(recipe, execution):
        raise UsageError("no such device")

    code, _, err = call(fake_implementation(configure=refuse), run_dir=tmp_path / "run")
    assert (code, err) == (2, "train_lightning.py: error: no such device\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["file", "file/run", "a" * 300])
def test_a_folder_that_cannot_be_written_fails_in_one_line(call, tmp_path, where):
    (tmp_path / "file").write_text("")
    code, out, err = call(fake_implementation(), run_dir=tmp_path / where)
    assert (code, out) == (1, "")
    assert err.startswith(f"train_lightning.py: cannot write to {tmp_path / where}: ")
    assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == ""


def test_a_disk_that_fills_up_fails_in_one_line(call, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    impl = fake_implementation()
    monkeypatch.setattr("pipeline.journal.write_weights", full)
    code, _, err = call(impl)
    assert code == 1
    assert (
        err == f"train_lightning.py: cannot write to {tmp_path / 'run'}: No space left on device\n"
    )
    assert read_record(tmp_path / "run").status == "failed"


def test_a_path_of_any_name_will_do(call, tmp_path):
    odd = tmp_path / "a ü'\n$(x) --resume"
    assert call(fake_implementation(), run_dir=odd)[0] == 0
    assert read_record(odd).status == "complete"


# A whole trainer process with a made-up half, for what needs a process of its own.
PROCESS = """
import sys
from pipeline.command import trainer_main
from tests.test_run import fake_implementation
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
        check=False, cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONPATH": "."},
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


def test_the_error_names_epoch_and_step_from_one():
    error = NonFiniteLossError(3, 7, float("nan"))
    assert (error.epoch, error.step) == (3, 7)
    assert "in epoch 3, step 7" in str(error)
    assert json.dumps({"reason": str(error)})
    error = NonFiniteLossError(3, 25, float("nan"), num_steps=25)
    assert (error.epoch, error.step) == (3, 25)
    assert "in epoch 3, steps 1 to 25 (a new run with --plain tells which);" in str(error)


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
