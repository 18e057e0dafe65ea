"""Runs that go on, and those that may not."""

import dataclasses
import shutil
import sys

import pytest

from pipeline.command import trainer_main
from pipeline.drawn import draw_dataset
from pipeline.environment import package_versions
from pipeline.errors import UsageError
from pipeline.network import read_weights
from pipeline.processes import this_process
from pipeline.recipe import preset, recipe_to_dict
from pipeline.recipe_file import read_recipe_fields
from pipeline.record import write_record
from pipeline.recorded import read_record
from tests.run.made_up import VAL_LOSSES, content, fake_implementation, interrupted_at, refusing


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


def test_a_complete_run_is_not_run_again(call, tmp_path):
    call(fake_implementation())
    before = content(tmp_path / "run")
    impl = fake_implementation()
    code, out, err = call(impl, "--resume")
    assert (code, err, impl.began) == (0, "", [])
    assert f"{tmp_path / 'run'} is complete: test accuracy 0.9833" in out
    assert content(tmp_path / "run") == before


def test_a_rank_of_a_complete_run_waits_for_nobody(call, start, tmp_path, monkeypatch):
    call(fake_implementation())
    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    this_process.cache_clear()
    try:
        impl = fake_implementation()
        assert start(impl, resume=True) == read_record(tmp_path / "run")
    finally:
        this_process.cache_clear()
    assert impl.began == []


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
    call(fake_implementation())
    before = content(tmp_path / "run")
    code, _, err = call(refusing(), "--resume", "--epochs", "9")
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "1"], "another recipe: `seed` was 0, received seed=1"),
        (["--variant", "dropout"], "another recipe: `variant` was 'base', received variant='drop"),
        (["--learning-rate", "0.1"], "another recipe: `learning_rate` was 0.001, received"),
        (["--plain"], "its `plain` was False, received plain=True"),
        (["--threads", "1"], "its `num_threads` was None, received num_threads=1"),
    ],
)
def test_another_recipe_or_execution_is_refused_by_name(call, interrupted, flags, message):
    before = content(interrupted)
    code, out, err = call(fake_implementation(), *flags, "--resume")
    assert (code, out) == (2, "")
    assert "error: cannot resume " in err
    assert message in err
    assert err.count("\n") == 1
    assert content(interrupted) == before


def test_the_same_recipe_in_other_words_goes_on(call, interrupted):
    assert call(fake_implementation(), "--seed", "0", "--learning-rate", "1e-3", "--resume")[0] == 0


def test_a_seed_behind_the_saved_recipes_back_is_refused(start, interrupted):
    with pytest.raises(UsageError, match="its `seed` was 0, received seed=1"):
        start(fake_implementation(), resume=True, seed=1)


def test_other_versions_are_refused(start, interrupted, monkeypatch):
    monkeypatch.setattr("pipeline.resume.package_versions", lambda: {"torch": "1.0"})
    with pytest.raises(UsageError, match=r"its `\w+` was .*, received \w+="):
        start(fake_implementation(), resume=True)


def test_a_version_that_the_engine_does_not_use_is_no_matter(start, interrupted, monkeypatch):
    others = {**package_versions(), "jax": "0.1", "tensorflow": None}
    monkeypatch.setattr("pipeline.resume.package_versions", lambda: others)
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
