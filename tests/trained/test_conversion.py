"""Runs taken into the other framework. Dropout masks differ between frameworks, so all are base."""

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ladder.arrays import digest, read_arrays, write_arrays
from pipeline.drawn import draw_dataset
from pipeline.errors import RunError, UsageError
from pipeline.record import LAST_WEIGHTS, RECORD, series
from pipeline.recorded import read_predictions, read_record
from tests.training import Trainings
from trained import conversion
from trained.conversion import LOGITS, convert, logit_gap
from trained.run_folder import read_run

ROOT = Path(__file__).parents[2]
LIGHTNING, KERAS = "lightning", "keras-tensorflow"
pytestmark = pytest.mark.usefixtures("asked_warm")
FLOAT64 = ("--precision", "64", "--threads", "1")
PARTED = 1e-14
"""Largest gap of a weight after two epochs, three steps each, part of them in either framework.

Rounding in another order: 5.1e-16 measured, on weights below 0.5.
"""


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, drawn_data, warm_engines):
    folder = tmp_path_factory.mktemp("it's a run")
    return {
        engine: Trainings(engine, folder, drawn_data, warm_engines.server(engine))
        for engine in (LIGHTNING, KERAS)
    }


@pytest.fixture(scope="module")
def runs(trainings):
    """By implementation and number of epochs, in float64; trained when first asked for."""

    class Runs(dict):
        def __missing__(self, key):
            engine, epochs = key
            flags = ("--epochs", str(epochs), *FLOAT64)
            self[key] = trainings[engine].forked(f"{engine}-{epochs}", *flags)
            return self[key]

    return Runs()


def weight_gap(left, right):
    arrays = [read_arrays(run / LAST_WEIGHTS)[0] for run in (left, right)]
    assert set(arrays[0]) == set(arrays[1]) != set()
    return max(float(np.abs(arrays[0][name] - arrays[1][name]).max()) for name in arrays[0])


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [(KERAS, LIGHTNING), (LIGHTNING, KERAS)])
def test_an_epoch_here_and_one_there_are_two_epochs(
    source, target, runs, trainings, drawn_data, tmp_path
):
    run_dir = trainings[target].folder / f"{target} goes on"
    done = convert(runs[source, 1].folder, target, run_dir, 2, drawn_data)
    assert done.epochs == 1
    assert done.logit_gap <= done.allowed_gap
    record = read_record(run_dir)
    assert (record.status, record.engine, len(record.history)) == ("interrupted", target, 1)
    assert record.environment["converted_from"]["engine"] == source
    command = done.resume_command(record.execution)
    assert command[-3:] == ["--run-dir", str(run_dir), "--resume"]
    assert "--threads 1" in " ".join(command)
    resumed = trainings[target].forked(run_dir.name, "--epochs", "2", *FLOAT64, "--resume")
    assert (resumed.code, resumed.err) == (0, "")
    whole = runs[KERAS, 2]
    assert weight_gap(run_dir, whole.folder) < PARTED
    assert weight_gap(run_dir, runs[source, 1].folder) > 1e-4  # it has trained
    assert series(resumed.record, "val_loss") == pytest.approx(series(whole.record, "val_loss"))
    logits = [read_predictions(run.folder)[0] for run in (resumed, whole)]
    assert np.abs(logits[0] - logits[1]).max() < 1e-12


@pytest.fixture
def adopt_changed(monkeypatch):
    """Let the target adopt each array of the state as a function of its name and itself has it."""
    ask = conversion.ask_engine

    def change_by(change):
        def asked(engine, name, recipe, arrays, **settings):
            if name == "adopt":
                arrays = {key: change(key, array) for key, array in arrays.items()}
            return ask(engine, name, recipe, arrays, **settings)

        monkeypatch.setattr(conversion, "ask_engine", asked)

    return change_by


@pytest.mark.slow
def test_without_the_optimizer_state_the_second_epoch_would_be_another(
    runs, trainings, drawn_data, monkeypatch, adopt_changed
):
    """The twin: the weights alone, as a newcomer carries them over."""
    adopt_changed(lambda key, array: array * (not key.startswith("state.adam.m")))
    monkeypatch.setattr(conversion, "_require_same_bits", lambda *_: None)
    run_dir = trainings[LIGHTNING].folder / "without slots"
    convert(runs[KERAS, 1].folder, LIGHTNING, run_dir, 2, drawn_data)
    trainings[LIGHTNING].forked(run_dir.name, "--epochs", "2", *FLOAT64, "--resume")
    assert weight_gap(run_dir, runs[KERAS, 2].folder) > 1e-4


@pytest.mark.slow  # the runs, which all tests here share
def test_a_state_that_was_written_wrong_is_seen_and_nothing_is_left(
    runs, drawn_data, tmp_path, adopt_changed
):
    adopt_changed(lambda key, array: array + 1e-15 if key == "state.hidden.bias" else array)
    target = tmp_path / "target"
    with pytest.raises(RunError, match=r"holds another hidden\.bias"):
        convert(runs[LIGHTNING, 1].folder, KERAS, target, None, drawn_data)
    assert not target.exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_of_keras_is_a_source_and_a_target(backend, runs, drawn_data, tmp_path):
    engine = f"keras-{backend}"
    there = convert(runs[LIGHTNING, 1].folder, engine, tmp_path / "there", None, drawn_data)
    back = convert(tmp_path / "there", LIGHTNING, tmp_path / "back", None, drawn_data)
    assert (there.epochs, back.epochs) == (1, 1)
    assert weight_gap(tmp_path / "back", runs[LIGHTNING, 1].folder) == 0


def test_the_command_that_goes_on_works_from_the_folder_it_is_said_in(monkeypatch, tmp_path):
    done = conversion.Conversion(
        Path("there"), LIGHTNING, epochs=1, num_images=1, logit_gap=0.0, allowed_gap=0.0,
        tolerance=LOGITS["32"],
    )  # fmt: skip
    for here, script in (
        (ROOT, "scripts/train_lightning.py"),
        (tmp_path, ROOT / "scripts" / "train_lightning.py"),
    ):
        monkeypatch.chdir(here)
        assert done.resume_command({})[:2] == ["python", str(script)]
        assert Path(done.resume_command({})[1]).is_file()


def test_logits_that_part_or_are_not_finite_do_not_pass():
    logits = np.linspace(-9, 9, 30).reshape(3, 10)
    assert logit_gap(logits, logits, LOGITS["32"])[0] == 0
    for wrong in (logits + 2e-4, logits * np.nan, logits[:2], logits[:, :9]):
        with pytest.raises(RunError, match="logits"):
            logit_gap(logits, wrong, LOGITS["32"])
    with pytest.raises(RunError, match="apart"):
        logit_gap(logits, logits + 1e-10, LOGITS["64"])


def test_a_state_of_another_network_is_refused(runs, drawn_data, tmp_path):
    run = shutil.copytree(runs[KERAS, 1].folder, tmp_path / "run")
    path = run / "checkpoints" / "training-state.safetensors"
    arrays, words = read_arrays(path)
    state = {**arrays, "extra": np.zeros(1)}
    (epochs,) = (value.split(",")[0] for value in words.values())
    write_arrays(path, state, dict.fromkeys(words, f"{epochs}, {digest(state, epochs)}"))
    with pytest.raises(RunError, match="unexpected extra"):
        convert(run, LIGHTNING, tmp_path / "target", None, drawn_data)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: {**state, "extra": np.zeros(1)}, "unexpected extra"),
        (lambda state: {**state, "adam.m.conv1.bias": np.full(32, np.nan)}, "not finite"),
        (lambda state: {**state, "conv1.bias": np.full(32, np.inf)}, "not finite"),
        (lambda state: {**state, "adam.step": np.asarray(0)}, "no step"),
    ],
)
def test_a_hostile_state_is_refused(change, reason, runs):
    run = read_run(runs[KERAS, 1].folder)
    state, _ = read_arrays(run.folder / "checkpoints" / "training-state.safetensors")
    conversion._check_state(dict(state), run.recipe, 1, run)
    with pytest.raises(RunError, match=reason):
        conversion._check_state(change(dict(state)), run.recipe, 1, run)
    with pytest.raises(RunError, match="has seen 2 epochs"):
        conversion._check_state(dict(state), run.recipe, 2, run)


def test_a_checkpoint_that_is_a_pickle_runs_no_code(runs, drawn_data, tmp_path):
    run = shutil.copytree(runs[LIGHTNING, 1].folder, tmp_path / "run")
    planted = f"import pathlib, pickle, sys\nclass A:\n def __reduce__(self):\n  return (pathlib.Path.touch, (pathlib.Path({str(tmp_path / 'ran')!r}),))\npickle.dump(A(), open(sys.argv[1], 'wb'))"  # noqa: E501
    subprocess.run(
        [sys.executable, "-c", planted, str(run / "checkpoints" / "last.ckpt")], check=True
    )
    with pytest.raises(RunError, match="cannot read"):
        convert(run, KERAS, tmp_path / "target", None, drawn_data)
    assert not (tmp_path / "ran").exists()


def test_a_wrong_call_is_refused_before_anything_is_written(runs, drawn_data, tmp_path):
    run, target = runs[KERAS, 2].folder, tmp_path / "target"
    with pytest.raises(UsageError, match="not a run folder"):
        convert(tmp_path, LIGHTNING, target, None, drawn_data)
    with pytest.raises(UsageError, match="num_epochs"):
        convert(run, LIGHTNING, target, 0, drawn_data)
    with pytest.raises(UsageError, match="at least the 2"):
        convert(run, LIGHTNING, target, 1, drawn_data)
    draw_dataset(tmp_path / "other", 200, 60, seed=1)
    with pytest.raises(UsageError, match="was trained on"):
        convert(run, LIGHTNING, target, None, tmp_path / "other")
    assert not target.exists()
    with pytest.raises(UsageError, match="not empty"):
        convert(run, LIGHTNING, run, None, drawn_data)
    assert json.loads((run / RECORD).read_text())["status"] == "complete"


@pytest.mark.slow
def test_the_script_says_the_figure_and_how_to_go_on(runs, drawn_data, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "convert.py"), "--run", str(runs[KERAS, 1].folder),
         "--to", "lightning", "--run-dir", str(tmp_path / "there"), "--data-dir", str(drawn_data)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "logits of 60 test images: at most" in done.stdout
    trainer = ROOT / "scripts" / "train_lightning.py"
    assert f"to go on: python {shlex.quote(str(trainer))} --threads 1 --run-dir" in done.stdout
    assert dataclasses.replace(read_record(tmp_path / "there")).command[0] == "convert.py"
