import io
import re
import runpy
import shlex
import subprocess

import numpy as np
import pytest
from PIL import Image

from pipeline.command import trainer_parser
from pipeline.datasets import load_dataset
from reporting.readme import README, ROOT, render
from tests.programs import run_python

TEXT = README.read_text()
COMMANDS = [
    line
    for block in re.findall(r"(?s)```sh\n(.*?)```", TEXT)
    for line in block.splitlines()
    if line.strip()
]
SCRIPTS = [line for line in COMMANDS if line.startswith("python ")]
TARGETS = sorted(set(re.findall(r"make ([a-z-]+)", TEXT)) - {"that"})


def small(arguments):
    """Shrink what takes long: one epoch, and two engines that are not slow to start."""
    shrunk = list(arguments)
    for flag, value in (("--epochs", "1"), ("--engines", "lightning")):
        if flag in shrunk:
            shrunk[shrunk.index(flag) + 1] = value
    if shrunk[1].startswith("scripts/train") and "--resume" not in shrunk:
        shrunk += ["--batch-size", "50"]
    return shrunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anywhere")
    photo = Image.new("L", (90, 60), "white")
    photo.paste("black", (30, 10, 60, 50))
    photo.save(folder / "photo.jpg")
    return folder


@pytest.mark.parametrize("command", [line for line in SCRIPTS if "scripts/" in line])
def test_the_commands_of_the_readme_are_understood(command):
    _, script, *flags = shlex.split(command)
    made = runpy.run_path(str(ROOT / script))
    impl = script.partition("train_")[2].removesuffix(".py")
    parser = trainer_parser(impl) if impl else made["parser"]()
    parser.parse_args(flags)
    with pytest.raises(SystemExit):
        parser.parse_args([*flags, "--unheard-of"])


def test_parquet_files_become_a_data_set_as_the_readme_says(drawn_data, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    drawn = load_dataset(drawn_data)
    wanted = {"train": (drawn.train_images, drawn.train_labels),
              "test": (drawn.test_images, drawn.test_labels)}  # fmt: skip
    for part, (images, labels) in wanted.items():
        rows = []
        for image, label in zip(images, labels, strict=True):
            Image.fromarray(image).save(content := io.BytesIO(), "PNG")
            rows.append({"image": {"bytes": content.getvalue(), "path": None}, "label": int(label)})
        pandas.DataFrame(rows).to_parquet(tmp_path / f"{part}.parquet")
    (program,) = re.findall(r"(?s)```python\n(from pathlib.*?)```", TEXT)
    run_python("-c", program, check=True, cwd=tmp_path)
    found = load_dataset(tmp_path / "my-data")
    for (images, labels), part in zip(wanted.values(), ("train", "test"), strict=True):
        order = np.argsort(labels, kind="stable")
        assert (getattr(found, f"{part}_images") == images[order]).all()
        assert (getattr(found, f"{part}_labels") == labels[order]).all()


@pytest.mark.slow
@pytest.mark.parametrize("command", SCRIPTS)
def test_the_commands_of_the_readme_work_from_any_folder(command, folder, drawn_data):
    _, *arguments = small(shlex.split(command))
    checkouts = ("scripts/", "parity_tests/")
    paths = [ROOT / word if word.startswith(checkouts) else word for word in arguments]
    done = run_python(*paths, cwd=folder, env={"FASHION_MNIST_DIR": str(drawn_data)})
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_commands():
    assert len(SCRIPTS) >= 8
    assert {"compare", "test"} <= set(TARGETS)


def test_each_target_is_one_that_make_lists():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert set(TARGETS) <= listed
    assert "no-such-target" not in listed


def test_the_made_parts_are_up_to_date():
    assert render(TEXT) == TEXT, "run `make readme`"


def test_a_stale_part_is_seen():
    stale = TEXT.replace("<!-- results -->\n", "<!-- results -->\n| old |\n")
    assert render(stale) == TEXT != stale
