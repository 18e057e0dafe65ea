"""`scripts/benchmark.py`: wrong calls, and benchmarks that are stopped, fail and go on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import runner
from benchmark.command import SO_FAR, measure_rounds
from benchmark.runner import Conditions
from pipeline.drawn import draw_dataset
from pipeline.errors import RunError
from pipeline.session import Session
from tests.measured import OURS, RAW, measured
from tests.programs import run_python
from tests.waiting import is_running, pid_in, until

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "benchmark.py"


def run(*arguments):
    return run_python(SCRIPT, *arguments, timeout=300)


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
