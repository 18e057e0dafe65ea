"""Runs of an implementation that is made up."""

import dataclasses
import sys

import pytest

from pipeline.command import trainer_main
from pipeline.execution import Execution
from pipeline.recipe import preset
from pipeline.run import run_training
from tests.run.made_up import NUM_EPOCHS, interrupted_at


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


@pytest.fixture
def interrupted(call, tmp_path):
    call(interrupted_at(1))
    return tmp_path / "run"
