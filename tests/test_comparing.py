"""`scripts/compare.py` with trainers that are made up."""

import contextlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.drawn import draw_dataset
from pipeline.errors import UsageError
from tests.disks import small_disk
from tests.fabricated import write_trainers
from tests.waiting import is_running, pid_in, until

SO_FAR = "comparison-so-far.json"
SCRIPT = Path(__file__).parents[1] / "scripts" / "compare.py"
DRIVER = """
import runpy, sys
from pathlib import Path
script, trainers, *arguments = sys.argv[1:]
sys.argv[0] = script
sys.exit(runpy.run_path(script)["main"](arguments, Path(trainers)))
"""


@pytest.fixture
def trainers(tmp_path, monkeypatch):
    """The folder of made-up trainers, beside drawn data."""
    draw_dataset(tmp_path / "data", 200, 20)
    monkeypatch.setenv("FAKE_PID", str(tmp_path / "pid"))
    return write_trainers(tmp_path / "trainers")


def flags_of(folder):
    return [
        "--epochs", "3", "--data-dir", str(folder / "data"), "--output-dir", str(folder / "out")
    ]  # fmt: skip


@pytest.fixture
def compare(trainers, tmp_path, monkeypatch, capfd):
    """Call compare.py with made-up trainers; return exit code, stdout and stderr."""
    # A process of its own would import for seconds; `call` starts one where it takes one.
    main = runpy.run_path(str(SCRIPT))["main"]

    def compare_here(*flags, mode="complete", draws=False):
        if not draws:  # pictures take longer than all else
            monkeypatch.setattr("reporting.comparison_page.write_pictures", lambda *_: None)
        monkeypatch.setenv("FAKE_TRAINER", mode)
        try:
            code = main([*flags_of(tmp_path), *flags], trainers)
        except SystemExit as error:
            code = error.code
        return code, *capfd.readouterr()

    return compare_here


@pytest.fixture
def call(trainers, tmp_path):
    """Start compare.py with made-up trainers; return the process."""
    started = []

    def start(*flags, mode="complete", stdout=subprocess.PIPE):
        command = [sys.executable, "-c", DRIVER, str(SCRIPT), str(trainers), *flags_of(tmp_path)]
        process = subprocess.Popen(
            [*command, *flags], env={**os.environ, "FAKE_TRAINER": mode}, text=True,
            stdout=stdout, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_all_runs_complete_and_are_compared(compare, tmp_path):
    code, out, err = compare(draws=True)
    assert (code, err) == (0, "")
    assert "[4/4] lightning, dropout: test accuracy 0.8900" in out
    assert "trained by train_keras.py" in out
    lines = out.splitlines()
    assert lines[-2] == f"written: {tmp_path / 'out' / 'comparison.md'}"
    assert lines[-1] == f"the page: {tmp_path / 'out' / 'report.html'}"
    assert "Lightning, dropout" in (tmp_path / "out" / "report.html").read_text()
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(run["engine"], run["variant"]) for run in data["runs"]] == [
        ("keras-tensorflow", "base"), ("keras-tensorflow", "dropout"),
        ("lightning", "base"), ("lightning", "dropout"),
    ]  # fmt: skip


def test_it_says_what_it_will_do_and_after_each_epoch_what_is_left(compare):
    code, out, _ = compare("--variants", "base")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == (
        "trainings, one after the other: 2 (keras-tensorflow, lightning; base), then their report"
    )
    assert lines[1] == "6 of 6 epochs to go; after the first one: how long"
    left = [
        int(n) for n in re.findall(r"(?m)^epoch \d  \((\d) of 6 epochs to go, about \d+ s\)$", out)
    ]
    assert left[-1] >= 1
    assert left == sorted(set(left), reverse=True)  # made-up epochs end faster than lines are heard
    assert lines.count("epoch 3") >= 1  # nothing is left after the last
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", out)  # no terminal, no control characters


def test_on_a_terminal_what_is_left_stays_below_the_lines(call, tmp_path):
    """And the lines themselves are those of any other output."""
    import pty

    ours, theirs = pty.openpty()
    process = call("--engines", "lightning", "--variants", "base", stdout=theirs)
    os.close(theirs)
    screen = b""
    with contextlib.suppress(OSError):  # Linux's end of a terminal's output
        while part := os.read(ours, 65536):
            screen += part
    os.close(ours)
    assert finish(process)[0] == 0
    assert b"trained by train_lightning.py" in screen
    # Drawn anew some times a second: a short epoch may end between two.
    assert re.search(rb"[12] of 3 epochs to go, about ", screen)
    assert screen.count(b"\x1b[?25l") == screen.count(b"\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("nan", "the loss became nan in epoch 1, step 7"),
        ("killed", "ended by signal SIGKILL"),
        ("exit", "exit code 7"),
        ("silent", "is not a run folder"),
    ],
)
def test_a_failing_run_is_named_and_the_others_go_on(compare, tmp_path, mode, reason):
    code, out, err = compare("--engines", "lightning", mode=f"base:{mode}")
    assert code == 1
    assert "lightning, base failed: " in err
    assert reason in err
    assert "[2/2] lightning, dropout: test accuracy 0.8900" in out
    runs = json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"]
    assert out.splitlines()[-1] == f"the page: {tmp_path / 'out' / 'report.html'}"
    assert reason in runs[0]["reason"]
    assert runs[1]["reason"] is None


def test_a_page_that_cannot_be_written_costs_the_page_alone(compare, tmp_path):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    code, out, err = compare("--engines", "lightning")
    assert code == 1
    assert f"there is no page: cannot write {tmp_path / 'out' / 'report.html'}" in err
    assert out.splitlines()[-1] == f"written: {tmp_path / 'out' / 'comparison.md'}"


@pytest.mark.parametrize(
    ("told", "mode", "code", "words"),
    [
        (signal.SIGINT, "sleep", 130, "interrupted"),  # as a terminal's Ctrl-C
        (signal.SIGTERM, "told", 143, "terminated"),
    ],
)
def test_a_comparison_that_is_told_to_end_ends_its_child(call, tmp_path, told, mode, code, words):
    process = call("--engines", "lightning", mode=mode)
    child = pid_in(tmp_path / "pid")
    (os.killpg if told == signal.SIGINT else os.kill)(process.pid, told)
    ended, _, err = finish(process)
    assert (ended, err.splitlines()[-1]) == (code, f"compare.py: {words}; to go on: the same call")
    assert ("told to end" in err) == (mode == "told")
    assert not is_running(child)
    assert not (tmp_path / "out" / "comparison.md").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG")
def test_a_killed_parent_leaves_no_child(call, tmp_path):
    process = call("--engines", "lightning", mode="stubborn")
    child = pid_in(tmp_path / "pid")
    assert is_running(child)
    process.kill()
    until(lambda: not is_running(child))


def test_a_foreign_folder_is_refused_before_any_work(compare, tmp_path):
    foreign = tmp_path / "out" / "lightning-dropout"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("years of work")
    code, out, err = compare("--engines", "lightning")
    assert code == 2
    assert "is not certainly a run folder, so it is not deleted" in err
    assert "[1/2]" not in out
    assert (foreign / "thesis.txt").read_text() == "years of work"


def test_runs_are_replaced_unless_they_are_to_be_reused(compare, tmp_path):
    arguments = ("--engines", "lightning", "--variants", "base")
    assert compare(*arguments)[0] == 0
    code, out, _ = compare(*arguments, "--reuse")
    assert code == 0
    assert f"kept from an earlier call, {tmp_path / 'out' / 'lightning-base'}" in out
    assert "trained by" not in out
    code, out, _ = compare(*arguments)
    assert code == 0
    assert "trained by" in out


def test_a_killed_call_goes_on_where_it_was(call, compare, tmp_path):
    process = call("--engines", "lightning", mode="dropout:part")
    child = pid_in(tmp_path / "pid")
    process.kill()
    process.communicate()
    until(lambda: not is_running(child))
    assert (tmp_path / "out" / SO_FAR).exists()
    code, out, err = compare("--engines", "lightning")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:3] == [
        "of an earlier call 1 stand and 1 go on",
        "2 of 6 epochs to go, about 20 s",  # its only epoch took 9 s
    ]
    assert f"[1/2] lightning, base: kept from an earlier call, {tmp_path}" in out
    assert f"[2/2] lightning, dropout: going on, {tmp_path}" in out
    assert out.count("trained by") == out.count("trained by train_lightning.py, --resume") == 1
    assert not (tmp_path / "out" / SO_FAR).exists()


def test_another_call_does_not_go_on_with_it(call, compare, tmp_path):
    process = call("--engines", "lightning", mode="dropout:part")
    pid_in(tmp_path / "pid")
    process.kill()
    process.communicate()
    code, out, _ = compare("--engines", "lightning", "--epochs", "2")
    assert code == 0
    assert "kept from" not in out
    assert "going on" not in out
    assert out.count("trained by") == 2


def test_the_same_call_tries_again_what_failed_and_that_alone(compare, tmp_path):
    assert compare("--engines", "lightning", mode="base:exit")[0] == 1
    code, out, _ = compare("--engines", "lightning")
    assert code == 0
    assert "[2/2] lightning, dropout: kept from an earlier call" in out
    assert out.count("trained by") == 1


def test_a_disk_that_is_full_is_told_in_a_line(compare, tmp_path):
    with small_disk(tmp_path / "out", 64 * 1024) as disk:
        code, out, err = compare("--engines", "lightning", draws=True)
        assert (code, err) == (
            1, f"compare.py: cannot write to {disk.folder}: No space left on device\n"
        )  # fmt: skip
        assert out.count("trained by") == 2
        assert not list(disk.folder.rglob(".*.part"))
        disk.grow(16 * 1024**2)
        code, out, err = compare("--engines", "lightning")
        assert (code, err) == (0, "")
        assert out.count("kept from an earlier call") == 2


def test_a_folder_that_goes_away_is_told_in_a_line_and_goes_on_where_it_is_back(compare, tmp_path):
    code, out, err = compare("--engines", "keras-tensorflow,lightning", mode="lightning/gone")
    assert code == 1
    assert err == f"compare.py: cannot write to {tmp_path / 'out'}: No such file or directory\n"
    assert not (tmp_path / "out").exists()
    (tmp_path / "out moved").rename(tmp_path / "out")
    code, out, err = compare("--engines", "keras-tensorflow,lightning")
    assert (code, err) == (0, "")
    assert out.count("kept from an earlier call") == 2


@pytest.mark.parametrize(("seen", "device"), [("H200", "gpu"), (None, "cpu")])
def test_all_runs_get_the_device_that_each_engine_sees(monkeypatch, capsys, seen, device):
    gpus = {"keras-tensorflow": [seen] if seen else [], "lightning": ["H200"]}
    found = {name: {"problem": None, "gpus": claimed} for name, claimed in gpus.items()}
    monkeypatch.setattr("pipeline.devices.has_gpu_driver", lambda: True)
    monkeypatch.setattr("pipeline.devices.examine_engine", lambda engine: found[engine.name])
    script = runpy.run_path(str(SCRIPT))
    jobs = script["planned"](script["parser"]().parse_args(["--variants", "base"]))
    assert [(job.gpu, job.execution.device) for job in jobs] == [(seen, device)] * 2
    assert all(" ".join(job.flags).endswith(f"--device {device}") for job in jobs)
    assert ("all run on the CPU" in capsys.readouterr().out) == (seen is None)


def chosen_engines(text, monkeypatch, missing):
    reasons = dict.fromkeys(missing, "not installed: something")
    monkeypatch.setattr(
        "ladder.interpreters.Engine.why_not", lambda engine: reasons.get(engine.name)
    )
    return runpy.run_path(str(SCRIPT))["chosen_engines"](text)


def test_an_engine_asked_for_that_cannot_run_is_a_wrong_call(monkeypatch):
    with pytest.raises(UsageError, match="keras-jax cannot run here: not installed: something"):
        chosen_engines("lightning,keras-jax", monkeypatch, ["keras-jax"])
    assert chosen_engines("lightning,keras-jax", monkeypatch, []) == ["lightning", "keras-jax"]


def test_a_default_engine_that_cannot_run_is_left_out_and_named(monkeypatch, capsys):
    assert chosen_engines(None, monkeypatch, ["keras-tensorflow"]) == ["lightning"]
    expected = "keras-tensorflow cannot run here: not installed: something; left out"
    assert expected in capsys.readouterr().out
    with pytest.raises(UsageError, match="lightning cannot run here"):
        chosen_engines(None, monkeypatch, ["keras-tensorflow", "lightning"])
