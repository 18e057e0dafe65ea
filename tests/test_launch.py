"""Runs as child processes: how they end, which folders they may replace, which runs stand."""

import dataclasses
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from filelock import FileLock

from ladder.engines import leashed
from pipeline import launch
from pipeline.errors import UsageError
from pipeline.execution import Execution
from pipeline.launch import (
    LOCK,
    Job,
    check_replaceable,
    read_outcome,
    remove_run,
    reusable_record,
    run_child,
)
from pipeline.recipe import preset
from tests.fabricated import make_record, write_run
from tests.waiting import pid_in

SLEEPER = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"


def job(run_dir, engine="lightning", **changes):
    recipe = preset("base", **{"num_epochs": 3, **changes})
    return Job(engine, recipe, Execution(), ("--epochs", "3"), run_dir)


def test_a_child_that_ignores_the_interrupt_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "SELF_SECONDS", 0.1)
    monkeypatch.setattr(launch, "TOLD_SECONDS", 0.1)
    ignore = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {SLEEPER}"
    child = subprocess.Popen([sys.executable, "-c", ignore, str(tmp_path / "pid")])
    pid_in(tmp_path / "pid")
    launch.end_child(child)
    assert child.returncode == -signal.SIGKILL


def test_a_child_that_was_not_told_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "SELF_SECONDS", 0.1)
    command = [sys.executable, "-c", SLEEPER, str(tmp_path / "pid")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        pid_in(tmp_path / "pid")
        launch.end_child(child)
    assert child.returncode == -signal.SIGINT


def test_an_interrupted_child_interrupts_the_whole():
    with pytest.raises(KeyboardInterrupt):
        run_child([sys.executable, "-c", "raise SystemExit(130)"])
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG")
def test_a_leash_on_a_parent_that_is_gone_runs_nothing(tmp_path):
    command = leashed([sys.executable, "-c", SLEEPER, str(tmp_path / "pid")])
    command[command.index(str(os.getpid()))] = "1"
    assert subprocess.run(command, check=False).returncode == 1
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("content", ["{}", "[1, 2]", "no JSON"])
def test_a_foreign_record_protects_its_folder(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(UsageError, match="not certainly a run folder"):
        remove_run(tmp_path)
    assert (tmp_path / "record.json").exists()


def test_a_file_or_link_in_the_way_is_refused(tmp_path):
    write_run(tmp_path / "real", make_record())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(UsageError, match="is in the way"):
            remove_run(tmp_path / name)
    assert (tmp_path / "real" / "record.json").exists()


@pytest.mark.parametrize("names", [[], [LOCK], [LOCK, "recipe.yaml", "log.txt"]])
def test_what_a_run_leaves_before_its_first_record_is_replaced(tmp_path, names):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("")
    remove_run(folder)
    assert not folder.exists()


@pytest.mark.parametrize("names", [["log.txt"], ["recipe.yaml"], [LOCK, "log.txt"]])
def test_less_than_that_is_not_certainly_a_run(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match="not certainly a run folder"):
        check_replaceable(tmp_path)


def test_a_folder_in_use_is_refused(tmp_path):
    write_run(tmp_path / "run", make_record())
    with (
        FileLock(tmp_path / "run" / LOCK),
        pytest.raises(UsageError, match="in use by another run"),
    ):
        remove_run(tmp_path / "run")
    remove_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_the_same_call_is_reused(tmp_path):
    write_run(tmp_path, make_record())
    assert reusable_record(job(tmp_path), "f") == make_record()
    assert read_outcome(job(tmp_path), 0).record == make_record()


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "interrupted"},
        {"engine": "keras-jax"},
        {"dataset": {"name": "fashion-mnist", "fingerprint": "another"}},
        {"execution": {**make_record().execution, "tf32": True}},
        {"environment": {"cpu": "another", "packages": {}}},
        {"environment": {**make_record().environment, "device": "gpu", "gpu": "H200"}},
        {"environment": {**make_record().environment, "packages": {"torch": "1.0"}}},
    ],
)
def test_another_run_is_not_reused(tmp_path, changes):
    write_run(tmp_path, make_record(**changes))
    assert reusable_record(job(tmp_path), "f") is None


def test_a_run_is_reused_on_the_device_it_became_whatever_was_asked_for(tmp_path):
    on_gpu = {**make_record().environment, "device": "gpu", "gpu": "H200"}
    asked = {**make_record().execution, "device": "gpu"}
    record = make_record(environment=on_gpu, execution=asked)
    write_run(tmp_path, record)
    assert reusable_record(dataclasses.replace(job(tmp_path), gpu="H200"), "f") == record
    assert reusable_record(dataclasses.replace(job(tmp_path), gpu="T4"), "f") is None
    assert reusable_record(job(tmp_path), "f") is None


def test_versions_are_those_of_the_engines_interpreter(tmp_path, monkeypatch):
    write_run(tmp_path, make_record())
    assert reusable_record(job(tmp_path), "f")
    elsewhere = SimpleNamespace(versions=lambda packages: dict.fromkeys(packages, "0.1"))
    monkeypatch.setitem(
        launch.ENGINES,
        "lightning",
        dataclasses.replace(launch.ENGINES["lightning"], find_python=lambda: elsewhere),
    )
    assert reusable_record(job(tmp_path), "f") is None


def test_a_run_of_another_recipe_or_without_predictions_is_not_reused(tmp_path):
    write_run(tmp_path, make_record())
    assert reusable_record(job(tmp_path, seed=1), "f") is None
    (tmp_path / "predictions.npz").unlink()
    assert reusable_record(job(tmp_path), "f") is None
