"""The benchmark: contenders, statistics, what is thrown out, and the hand-written loops."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmark import report, runner
from benchmark.command import SO_FAR, measure_rounds
from benchmark.difference import differences, read_older
from benchmark.runner import (
    Conditions,
    Contender,
    baselines,
    contenders_of,
    measure,
    steady_seconds,
)
from ladder import interpreters
from ladder.files import write_json
from pipeline.drawn import draw_dataset
from pipeline.errors import RunError, Terminated, UsageError
from pipeline.recipe import preset
from pipeline.session import Session, claimed
from reporting.repeated import paired_ratio, spread
from tests.disks import no_space, small_disk

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "benchmark.py"
ENGINES = ("lightning", "keras-tensorflow", "keras-jax", "keras-torch")


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


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


def test_every_contender_has_its_controls():
    contenders, left_out = contenders_of(ENGINES, ("stock", "ours", "raw"))
    assert left_out == {}
    names = [contender.name for contender in contenders]
    assert len(names) == len(set(names)) == 4 + 4 + 3
    for contender in contenders:
        assert set(baselines(contender)) <= set(names)
        assert len(list(baselines(contender))) == (2 if contender.track == "ours" else 0)
    contenders, _ = contenders_of(["lightning"], ("stock", "ours", "raw"), ("32", "bf16"))
    names = [contender.name for contender in contenders]
    assert len(set(names)) == 6
    ours = next(contender for contender in contenders if contender.name == "ours lightning bf16")
    assert ours.precision == "bf16"
    assert list(baselines(ours)) == ["stock lightning bf16", "raw torch bf16", "ours lightning"]


@pytest.fixture
def without(monkeypatch):
    """Return a function that takes packages away, as far as anybody asks what is installed."""
    real = interpreters.find_spec

    def take(*packages):
        monkeypatch.setattr(
            interpreters, "find_spec", lambda name: None if name in packages else real(name)
        )

    return take


def test_what_cannot_run_is_named(without):
    without("tensorflow")
    contenders, left_out = contenders_of(ENGINES, ("stock", "ours", "raw"))
    missing = {"stock keras-tensorflow", "ours keras-tensorflow", "raw tensorflow"}
    assert left_out == dict.fromkeys(missing, "not installed: tensorflow")
    assert not missing & {contender.name for contender in contenders}
    _, left_out = contenders_of(("lightning", "keras-jax"), ("raw",), ["bf16"])
    assert left_out == {"raw jax bf16": "this loop is written for float32"}


def test_a_loop_by_hand_needs_its_framework_alone(without):
    without("keras", "lightning", "torchvision")
    contenders, left_out = contenders_of(ENGINES, ("ours", "raw"))
    assert [contender.name for contender in contenders] == [
        "raw torch",
        "raw tensorflow",
        "raw jax",
    ]
    assert left_out["ours keras-jax"] == "not installed: keras"
    without("jax")
    assert "raw jax" in contenders_of(ENGINES, ("raw",))[1]


def test_each_contender_has_a_program():
    contenders, left_out = contenders_of(ENGINES, ("stock", "ours", "raw"), with_alternatives=True)
    assert not left_out
    conditions = runner.Conditions(Path("data"))
    for each in [*contenders, runner.Contender("peak", "peak", "torch")]:
        assert Path(runner._program(each, conditions, Path("scratch"))[0]).is_file()


def test_a_loop_by_hand_says_all_that_it_needs():
    script = """
import sys
import benchmark.raw
files = {name.split(".")[0]: getattr(module, "__file__", None) or "" for name, module in
         sys.modules.items()}
print(*(name for name, file in files.items() if "site-packages" in file))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=True, cwd=SCRIPT.parents[1])  # fmt: skip
    needed = {name for name in done.stdout.split() if not name.startswith("_")}
    assert needed == set(runner.LOOPS_NEED)


def test_the_reference_is_of_what_is_there(without, monkeypatch):
    monkeypatch.setattr(runner, "measure", lambda contender, conditions: {"history": contender})

    def reference():
        contender = runner.reference_history(Conditions(Path("data")))
        return contender.track, contender.engine, contender.precision, contender.options

    assert reference() == ("ours", "lightning", "64", ("--plain",))
    without("lightning")
    assert reference() == ("ours", "keras-tensorflow", "64", ("--plain",))
    without("lightning", "keras")
    assert reference() == ("raw", "torch", "32", ())
    without("numpy")
    with pytest.raises(RunError, match="nothing can run here: not installed: numpy"):
        reference()


def test_ratios_are_paired_by_round():
    ratio = paired_ratio([4.0, 8.0, 6.0], [2.0, 4.0, 2.0])
    assert ratio.median == 2.0
    assert ratio.low == 2.0
    assert ratio.high == 3.0
    assert paired_ratio([3.0], [2.0]).low is None
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no values"):
        spread([])
    assert spread([1.0, 2.0, 3.0]).median == 2.0


def test_warm_up_is_apart():
    assert steady_seconds({"epoch_seconds": [9.0, 1.0, 3.0]}) == 2.0


def test_flops_are_those_of_the_network():
    # 45.8 MFLOP for a training image, from the shapes by hand: see the docstring.
    assert report.training_flops(preset("base")) == pytest.approx(45.8e6, rel=0.01)
    assert report.evaluation_flops(preset("base")) == pytest.approx(15.4e6, rel=0.01)


def measured(*losses, val_accuracy=0.8, seconds=1.0):
    history = [
        {"loss": loss, "val_loss": loss, "accuracy": 0.8, "val_accuracy": val_accuracy}
        for loss in losses
    ]
    return {
        "epoch_seconds": [seconds] * len(losses),
        "history": history,
        "startup_seconds": 1.0,
        "first_step_seconds": 1.0,
        "wall_seconds": 9.0,
        "test_accuracy": val_accuracy,
        "peak_memory_bytes": 2**30,
    }


REFERENCE = [{"loss": 0.5, "val_loss": 0.5}]
OURS, RAW = Contender("ours lightning", "ours", "lightning"), Contender("raw torch", "raw", "torch")
STOCK = Contender("stock lightning", "stock", "lightning")
NARROW = Contender("ours lightning bf16", "ours", "lightning", "bf16")


def test_a_training_that_strays_is_thrown_out():
    def why(contender, *runs):
        return report.why_thrown_out(contender, runs, REFERENCE, 0.8)

    assert why(OURS, measured(0.5, 0.3)) == ""
    words = why(RAW, measured(0.5, 0.3), measured(0.53, 0.3))
    assert words == "loss of epoch 1 is 0.030 off the reference trajectory"
    assert why(RAW, measured(float("nan"), 0.3))
    assert why(STOCK, measured(0.9, val_accuracy=0.78)) == ""
    assert "0.700" in why(STOCK, measured(0.5, val_accuracy=0.7))


def test_the_table_has_ratios_and_what_was_thrown_out():
    contenders = [STOCK, OURS, RAW, NARROW]
    startup = {"program": 0.1, "data": 0.2, "framework": 0.6, "build": 0.1}
    runs = {
        STOCK.name: [measured(0.9, 0.8, seconds=4.0, val_accuracy=0.9)] * 2,
        OURS.name: [{**measured(0.5, 0.4, seconds=2.0), "startup": startup}] * 2,
        RAW.name: [measured(0.7, 0.4, seconds=1.0)] * 2,
        NARROW.name: [measured(0.5, 0.4, seconds=1.0)] * 2,
    }
    rows = report.summarize(contenders, runs, REFERENCE, (12_000, 3_000), 1e12, 0.85)
    assert rows[1]["faster_than"]["stock lightning"]["median"] == 2.0
    assert rows[1]["faster_than"]["raw torch"]["median"] == 0.5
    found = {
        "arms": rows, "environment": {"cpu": "C", "cores": 2, "packages": {"torch": "2"}},
        "conditions": {
            "train_images": 12_000, "validation_images": 3_000, "batch_size": 64,
            "precisions": ["32", "bf16"], "num_epochs": 2, "accuracy": 0.85, "device": "cpu",
        },
        "command": "x", "rounds": 2, "peak_flops": 1e12, "left_out": {"raw jax": "no jax"},
    }  # fmt: skip
    text = "\n".join(report.markdown(found))
    assert "| ours lightning | 2.00 (2.00–2.00) | 6,000 | 2.00× (2.00–2.00) | 0.50× (" in text
    assert "| ours lightning bf16 | 1.00 (1.00–1.00) | 12,000 | – | – | 2.00× (2" in text
    start = "2.0 (2.0–2.0) | 0.1 + 0.2 + 0.6 + 0.1 + 1.0 | 0.0 | not in each run | 9.0 |"
    assert f"| ours lightning | {start}" in text
    # An epoch of 4 s after a second of start-up.
    assert "| stock lightning | 2.0 (2.0–2.0) | – | 0.0 | 5.0 | 9.0 |" in text
    assert "raw torch (thrown out: loss of epoch 1" in text
    assert "Not measured: raw jax: no jax." in text


def test_the_time_to_an_accuracy_ends_with_the_epoch_that_reaches_it():
    run = measured(0.5, 0.4, 0.3, seconds=2.0)
    run["history"][1]["val_accuracy"] = 0.9
    assert report.to_accuracy(run, 0.85) == 1.0 + 2 * 2.0
    assert report.to_accuracy(run, 0.8) == 1.0 + 2.0
    assert report.to_accuracy(run, 0.95) is None
    run["history"][0]["val_accuracy"] = float("nan")
    assert report.to_accuracy(run, 0.85) == 5.0


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


def test_a_disk_that_fills_up_under_a_benchmark_is_told_in_a_line(tmp_path):
    session = Session(tmp_path / SO_FAR, {})
    session.keep("a", 1)
    cannot = pytest.raises(RunError, match=r"cannot write to .*: No space left on device")
    with cannot, claimed(tmp_path, "benchmark"), no_space():
        session.keep("b", 2)
    assert Session(tmp_path / SO_FAR, {}).kept("a") == 1


def test_a_folder_that_goes_away_under_a_benchmark_is_told_in_a_line(tmp_path):
    folder, moved = tmp_path / "out", tmp_path / "moved"
    cannot = pytest.raises(RunError, match=r"cannot write to .*: No such file or directory")
    with cannot, claimed(folder, "benchmark"):
        session = Session(folder / SO_FAR, {})
        session.keep("a", 1)
        folder.rename(moved)
        session.keep("b", 2)
    assert not folder.exists()
    assert Session(moved / SO_FAR, {}).kept("a") == 1


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
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ratio(median, low, high):
    return {"median": median, "low": low, "high": high, "n": 4}


def test_a_new_run_says_how_it_differs(tmp_path):
    older = {
        "conditions": {"batch_size": 64, "device": "cpu"},
        "environment": {"cpu": "A", "packages": {"torch": "2.14", "jax": None}},
        "arms": [{"arm": "ours lightning", "faster_than": {"stock lightning": ratio(2, 1.9, 2.1),
                                                           "raw torch": ratio(1, 0.9, 1.1)}}],
    }  # fmt: skip
    write_json(tmp_path / "older.json", older)
    newer = {
        "conditions": {"batch_size": 64, "device": "cpu"},
        "environment": {"cpu": "B", "packages": {"torch": "2.15", "jax": None}},
        "arms": [{"arm": "ours lightning", "faster_than": {"stock lightning": ratio(3, 2.9, 3.1),
                                                           "raw torch": ratio(1, 0.8, 1.0)}},
                 {"arm": "ours keras-jax", "faster_than": {"raw jax": ratio(1, 1, 1)}}],
    }  # fmt: skip
    assert list(differences(read_older(tmp_path / "older.json"), newer)) == [
        "cpu: A then, B now",
        "packages.torch: 2.14 then, 2.15 now",
        "ours lightning against stock lightning: 2.00× then, 3.00× now; "
        "the intervals do not overlap",
        "ours lightning against raw torch: 1.00× then, 1.00× now; the intervals overlap",
    ]
    assert next(iter(differences(older, older))).endswith("2.00× now; the intervals overlap")
    wrong = ({"conditions": 1}, {"environment": None}, {"arms": 1}, {"arms": [{}]},
             {"arms": [{"arm": "a", "faster_than": {"b": {}}}]})  # fmt: skip
    changed = [json.dumps({**older, **change}) for change in wrong]
    for content in ("", "[]", "{}", *changed):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(UsageError, match=r"cannot compare with .*other\.json"):
            read_older(tmp_path / "other.json")


@pytest.fixture(scope="module")
def conditions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, 700, 110)
    return Conditions(folder, num_epochs=2)


@pytest.fixture(scope="module")
def reference(conditions):
    return runner.reference_history(conditions)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax"])
def test_a_hand_written_loop_is_the_same_training(conditions, reference, framework):
    contender = Contender(f"raw {framework}", "raw", framework)
    found = measure(contender, conditions)
    assert len(found["epoch_seconds"]) == 2
    for name, value in reference[0].items():
        assert found["history"][0][name] == pytest.approx(value, abs=2e-4), name
    assert found["first_step_seconds"] > 0


GRAPH_LOOP = """
import sys
import torch
from benchmark.contenders import raw_torch as contender
torch.cuda.synchronize = lambda: None
contender.GraphLoop.replay_of = lambda loop, work: lambda: (work(), loop.at.add_(PACE))
contender.Loop = contender.GraphLoop
sys.exit(contender.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("pace", [1, 0])
def test_so_is_the_loop_for_a_gpu(conditions, reference, monkeypatch, tmp_path, pace):
    """All but the capture; a counter that stands still trains another network."""
    (tmp_path / "raw_torch.py").write_text(GRAPH_LOOP.replace("PACE", str(pace)))
    monkeypatch.setattr(runner, "PROGRAMS", tmp_path)
    found = measure(Contender("raw torch", "raw", "torch"), conditions)
    gaps = [abs(found["history"][0][name] - value) for name, value in reference[0].items()]
    assert (max(gaps) < 2e-4) == (pace == 1)


SCANNED_LOOP = """
import sys
from benchmark.contenders import raw_jax as contender
real = contender.Runner.__init__
def scanning(self, *arguments):
    real(self, *arguments)
    self.scans, scan = True, self.many
    self.many = lambda state, batches: scan(state, batches) if SCANS else (
        state, scan(state, batches)[1])
contender.Runner.__init__ = scanning
sys.exit(contender.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("scans", [True, False])
def test_so_is_the_scan_for_a_gpu(conditions, reference, monkeypatch, tmp_path, scans):
    """A scan whose state is lost trains another network."""
    (tmp_path / "raw_jax.py").write_text(SCANNED_LOOP.replace("SCANS", str(scans)))
    monkeypatch.setattr(runner, "PROGRAMS", tmp_path)
    found = measure(Contender("raw jax", "raw", "jax"), conditions)
    gaps = [abs(found["history"][0][name] - value) for name, value in reference[0].items()]
    assert (max(gaps) < 2e-4) == scans


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "alternative"),
    [("lightning", "nchw"), ("lightning", "autotune"), ("lightning", "eager"),
     ("keras-tensorflow", "xla")],
)  # fmt: skip
def test_a_setting_another_way_is_the_same_training(conditions, reference, engine, alternative):
    contender = next(
        contender
        for contender in contenders_of([engine], ["ours"], with_alternatives=True)[0]
        if contender.alternative == alternative
    )
    found = measure(contender, conditions)
    for name, value in reference[0].items():
        assert found["history"][0][name] == pytest.approx(value, abs=2e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["lightning", "keras-tensorflow", "keras-jax", "keras-torch"])
def test_a_stock_program_says_what_it_ran_on(conditions, engine):
    (contender,), _ = contenders_of([engine], ["stock"])
    found = measure(contender, conditions)
    assert found["device"] == "cpu"
    assert len(found["epoch_seconds"]) == 2


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise SystemExit('planted')", "(?s)raw torch exited with 1:.*planted"),
        ("print('no JSON')", "(?s)raw torch printed no measurement:.*no JSON"),
    ],
)
def test_an_contender_that_fails_is_named(conditions, monkeypatch, tmp_path, program, words):
    (tmp_path / "raw_torch.py").write_text(program)
    monkeypatch.setattr(runner, "PROGRAMS", tmp_path)
    with pytest.raises(RunError, match=words):
        measure(Contender("raw torch", "raw", "torch"), conditions)


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
