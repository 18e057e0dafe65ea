"""`scripts/benchmark.py`: wrong calls, and benchmarks that are stopped, fail and go on."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import runner
from benchmark.command import SO_FAR, measure_rounds
from benchmark.runner import Conditions
from pipeline.drawn import draw_dataset
from pipeline.errors import RunError, Terminated, UsageError
from pipeline.session import Session, claimed
from tests.disks import small_disk
from tests.measured import OURS, RAW, measured
from tests.programs import run_python
from tests.waiting import is_running, pid_in, until

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "benchmark.py"


def run(*arguments):
    return run_python(SCRIPT, *arguments, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "`--rounds` must be at least 1; received 0"),
        (["--epochs", "1"], "`--epochs` must be at least 2; received 1"),
        (["--images", "10"], "`--images` must be at least 1000; received 10"),
        (["--accuracy", "85"], "`--accuracy` must be in (0, 1); received 85.0"),
        (["--precision", "16"], "`--precision` takes 32, bf16, tf32; received '16'"),
        (["--precision", "tf32"], "`--precision tf32` needs `--device gpu`"),
        (["--against", str(SCRIPT)], "cannot compare with"),
        (["--against", "nowhere.json"], "cannot compare with nowhere.json"),
        (["--device", "gpu"], "`--device gpu`: no NVIDIA GPU can be asked here: "),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--threads", "9999"], "`--threads` must be between 1 and"),
        (["--engines", "theano"], "`--engines` takes lightning, keras-tensorflow"),
        (["--tracks", "theirs"], "`--tracks` takes stock, ours, raw; received 'theirs'"),
        (["--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_call_is_refused_in_a_line(arguments, words, tmp_path):
    done = run(*arguments, "--output-dir", tmp_path / "out")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_stopped_benchmark_goes_on_where_it_was(tmp_path):
    def session(**changes):
        return Session(tmp_path / SO_FAR, {"arms": ["a"], "cpu": "C", **changes})

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
        (tmp_path / SO_FAR).write_text(content)
        assert session().num_kept == 0
    session().part("a, round 1", work)
    session().finish()
    assert list(tmp_path.iterdir()) == []


def test_a_second_benchmark_in_the_folder_is_refused(tmp_path):
    refused = pytest.raises(UsageError, match="is in use by another benchmark")
    with claimed(tmp_path / "new", "benchmark"), refused, claimed(tmp_path / "new", "benchmark"):
        pass
    with claimed(tmp_path / "new", "benchmark"):
        pass
    (tmp_path / "file").touch()
    cannot = pytest.raises(RunError, match="cannot write to")
    with cannot, claimed(tmp_path / "file", "benchmark"):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
def test_an_interrupt_says_how_to_go_on(tmp_path, error):
    going_on = pytest.raises(KeyboardInterrupt, match="to go on: the same call")
    with going_on as caught, claimed(tmp_path, "benchmark"):
        raise error
    assert caught.type is error


def test_a_disk_that_is_read_only_is_told_in_a_line(tmp_path):
    draw_dataset(tmp_path / "data", 1200, 200)
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        disk.set_writable(False)
        done = run("--data-dir", tmp_path / "data", "--output-dir", disk.folder, "--images", "1000")
        assert done.returncode == 1
        assert (
            done.stderr == f"benchmark.py: cannot write to {disk.folder}: Read-only file system\n"
        )


def test_an_contender_that_fails_costs_its_own_rows(monkeypatch, tmp_path, capsys):
    def measure(contender, conditions):
        if contender.name == "raw torch":
            raise RunError("raw torch exited with 1:\nTraceback\nMemoryError: all of it\n")
        return measured(0.5, 0.4)

    monkeypatch.setattr(runner, "measure", measure)
    session = Session(tmp_path / SO_FAR, {})
    found, failed = measure_rounds(2, [OURS, RAW], Conditions(tmp_path), session)
    assert {contender.name: len(runs) for contender, runs in found.items()} == {"ours lightning": 2}
    assert failed == {"raw torch": "raw torch exited with 1: MemoryError: all of it"}
    assert capsys.readouterr().out.count("Traceback") == 1


PARENT = """
import sys
from pathlib import Path
from benchmark import runner
runner.PROGRAMS = Path(sys.argv[1])
runner.measure(runner.Contender("raw torch", "raw", "torch"), runner.Conditions(Path(sys.argv[1])))
"""
CONTENDER = """
import os, sys, time
path = sys.argv[sys.argv.index("--data-dir") + 1] + "/pid"
open(path + ".new", "w").write(str(os.getpid()))
os.rename(path + ".new", path)
time.sleep(120)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's")
def test_a_killed_benchmark_leaves_no_contender_behind(tmp_path):
    (tmp_path / "raw_torch.py").write_text(CONTENDER)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=SCRIPT.parent.parent
    )
    child = pid_in(tmp_path / "pid")
    parent.kill()
    parent.wait()
    until(lambda: not is_running(child))


@pytest.mark.slow
def test_a_small_benchmark_is_written_whole(tmp_path):
    draw_dataset(tmp_path / "drawn", 1000, 200)
    done = run(
        "--data-dir", tmp_path / "drawn", "--images", 1000, "--rounds", 1, "--epochs", 2,
        "--engines", "keras-tensorflow", "--tracks", "ours,raw", "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [row["arm"] for row in found["arms"]] == ["ours keras-tensorflow", "raw tensorflow"]
    assert all(len(runs) == 1 for runs in found["measurements"].values())
    assert found["arms"][0]["faster_than"]["raw tensorflow"]["n"] == 1
    assert (tmp_path / "out" / "benchmark.md").read_text().startswith("# Benchmark")
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 1000
