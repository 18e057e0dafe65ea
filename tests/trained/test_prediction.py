import json
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ladder.arrays import read_arrays, write_arrays
from pipeline.datasets import load_dataset
from pipeline.errors import UsageError
from pipeline.record import RECORD
from pipeline.recorded import read_predictions
from trained.prediction import printable
from trained.run_folder import predict, read_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, drawn_data):
    """The test images as PNG files, in a folder whose name needs quotes."""
    folder = tmp_path_factory.mktemp("my 'own' pictures")
    for number, image in enumerate(load_dataset(drawn_data).test_images):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def main(monkeypatch, tmp_path, asked_warm):
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(ROOT / "scripts" / "predict.py"))["main"]


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_both_implementations_say_of_saved_test_images_what_they_said_in_the_run(
    main, runs, pictures, tmp_path, capsys
):
    flags = [f"--run={folder}" for folder in runs.values()]
    flags += [str(pictures), "--json", "--output", str(tmp_path / "a b" / "seen.png")]
    code, captured = main(flags), capsys.readouterr()
    assert (code, captured.err) == (0, "")
    found = json.loads(captured.out)
    assert [run["engine"] for run in found["runs"]] == list(runs)
    assert [Path(image["file"]).name for image in found["images"]] == sorted(os.listdir(pictures))
    for number, folder in enumerate(runs.values()):
        said = [list(image["predictions"][number]["probabilities"].values())
                for image in found["images"]]  # fmt: skip
        # The same batches of the same bytes by the same program: not a bit differs.
        assert np.array_equal(said, softmax(read_predictions(folder)[0]))
    with Image.open(tmp_path / "a b" / "seen.png") as image:
        assert image.format == "PNG"
        assert image.height > 24 * 150


def test_images_that_are_a_pixel_off_are_seen(main, runs, drawn_data):
    run = read_run(runs["lightning"])
    images = np.roll(load_dataset(drawn_data).test_images, 1, axis=2)[..., np.newaxis]
    assert not np.array_equal(predict(run, images), read_predictions(run.folder)[0])


def test_bad_files_cost_a_line_each_and_the_rest_goes_on(main, runs, pictures, tmp_path, capsys):
    good = pictures / "003.png"
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:150])
    (tmp_path / "no picture.txt").write_text("hello")
    (tmp_path / "bare").mkdir()
    bad = [tmp_path / name for name in ("empty.png", "cut.png", "no picture.txt", "bare", "none")]
    code = main(["--run", *map(str, (runs["lightning"], *bad[:2], good, *bad[2:]))])
    assert code == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 6
    assert all(sum(str(path) in line for line in lines) == 1 for path in bad)
    assert lines[-1] == "predict.py: 5 of 6 could not be classified; see above"
    assert captured.out.startswith(f"{good}: ")
    assert (tmp_path / "runs" / "predictions.png").exists()


def test_where_nothing_is_a_picture_no_engine_is_started(main, runs, tmp_path, capsys):
    (tmp_path / "empty.png").write_bytes(b"")
    assert main(["--run", str(runs["lightning"]), "empty.png", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["failures"] == [{"file": "empty.png", "reason": "it is empty"}]
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_none_or_damaged_is_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        read_run(tmp_path)
    run = shutil.copytree(runs["lightning"], tmp_path / "run")
    with pytest.raises(UsageError, match=rf"is a file; name the folder of a run; its run is {run}"):
        read_run(run / "checkpoints" / "last.ckpt")
    with pytest.raises(UsageError, match=r"is a file; name the folder of a run$"):
        read_run(Path(__file__))
    weights = run / "weights-last.safetensors"
    arrays, _ = read_arrays(weights)
    write_arrays(weights, {**arrays, "extra": np.zeros(1, np.float32)})
    with pytest.raises(UsageError, match="unexpected extra"):
        read_run(run)
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UsageError, match="cannot read"):
        read_run(run)
    fields = json.loads((run / RECORD).read_text())
    for name, value, reason in (
        ("engine", "paddle", "unknown engine"),
        ("dataset", {**fields["dataset"], "class_names": ["one"]}, "10 classes"),
        ("recipe", {**fields["recipe"], "image_size": -3}, "image_size"),
    ):
        (run / RECORD).write_text(json.dumps({**fields, name: value}))
        with pytest.raises(UsageError, match=reason):
            read_run(run)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.png"], "--run"),
        (["--run", "nowhere"], "IMAGE"),
        (["--run", "nowhere", "a.png"], "not a run folder"),
        (["--run", "nowhere", "a.png", "--background", "blue"], "--background"),
    ],
)
def test_a_wrong_call_is_said_in_a_line(main, arguments, words, capsys):
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_picture_that_cannot_be_written_is_a_wrong_call(main, runs, pictures, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = ["--run", str(runs["lightning"]), str(pictures / "001.png"), "--output", "file/a.png"]
    assert main(flags) == 2
    assert "`--output`: cannot write to file/a.png" in capsys.readouterr().err


def test_names_steer_no_terminal():
    assert printable(Path("a\x1b[31m\n\udcff.png")) == r"a\x1b[31m\n\udcff.png"
    assert printable(Path("Schöner 'Schuh' – 鞋.png")) == "Schöner 'Schuh' – 鞋.png"
