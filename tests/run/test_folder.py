"""Which folder a run takes, and what becomes of it where the run is refused or fails."""

import shutil
import time

import pytest
from filelock import FileLock

from pipeline.command import trainer_main
from pipeline.recorded import read_record
from pipeline.run_folder import LOCK
from tests.run.made_up import FILES, content, fake_implementation, refusing


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(
    tmp_path, drawn_data, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    real = time.strftime  # which others ask of given times while they are imported
    now = lambda form, *at: real(form, *at) if at else form.split("%")[0] + "now"  # noqa: E731
    monkeypatch.setattr("pipeline.run.time.strftime", now)
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


@pytest.mark.parametrize(("is_there", "left"), [(True, [LOCK]), (False, None)])
def test_an_implementation_that_finds_the_call_wrong_leaves_nothing(call, tmp_path, is_there, left):
    run_dir = tmp_path / "run"
    if is_there:
        run_dir.mkdir()
    code, _, err = call(refusing(), run_dir=run_dir)
    assert (code, err) == (2, "train_lightning.py: error: no such device\n")
    assert left == ([path.name for path in run_dir.iterdir()] if run_dir.exists() else None)


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
