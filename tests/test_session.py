"""Work that is kept part by part, in a folder that one command holds at a time."""

import math
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.drawn import draw_dataset
from pipeline.errors import Terminated
from pipeline.run_folder import LOCK
from pipeline.session import Session, claimed
from tests.disks import small_disk
from tests.programs import run_python

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_work_that_was_stopped_goes_on_where_it_was(tmp_path):
    def session(**changes):
        return Session(tmp_path / "so-far.json", {"arms": ["a"], "cpu": "C", **changes})

    calls = []

    def work():
        calls.append("work")
        return {"loss": float("nan"), "seconds": 1.5}

    assert session().num_kept == 0
    first = session().part("a, round 1", work)
    again = session().part("a, round 1", work)
    assert calls == ["work"]
    assert again["seconds"] == first["seconds"]
    assert math.isnan(again["loss"])
    assert session(cpu="D").num_kept == 0  # another machine: measured anew
    assert session().num_kept == 1
    for content in ("", "[]", '{"identity": 1}', "[" * 100_000):
        (tmp_path / "so-far.json").write_text(content)
        assert session().num_kept == 0
    session().part("a, round 1", work)
    session().finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
def test_an_interrupt_says_how_to_go_on(tmp_path, error):
    going_on = pytest.raises(KeyboardInterrupt, match="to go on: the same call")
    with going_on as caught, claimed(tmp_path, "benchmark"):
        raise error
    assert caught.type is error


@pytest.mark.parametrize(
    ("script", "what", "flags"),
    [
        ("compare.py", "comparison", ()),
        ("prove.py", "proof", ()),
        ("benchmark.py", "benchmark", ("--images", "1000")),
        ("equivalence.py", "certificate", ()),
    ],
)
def test_a_folder_in_use_and_one_that_is_read_only_are_told_in_a_line(
    tmp_path, script, what, flags
):
    draw_dataset(tmp_path / "data", 1200, 200)

    def call(folder):
        where = ("--data-dir", tmp_path / "data", "--output-dir", folder)
        done = run_python(SCRIPTS / script, *flags, *where, timeout=120)
        return done.returncode, done.stderr

    taken = tmp_path / "taken"
    taken.mkdir()
    with FileLock(taken / LOCK):
        assert call(taken) == (2, f"{script}: error: {taken} is in use by another {what}\n")
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        disk.set_writable(False)
        for folder in (disk.folder, disk.folder / "new"):
            line = f"{script}: cannot write to {folder}: Read-only file system\n"
            assert call(folder) == (1, line)
