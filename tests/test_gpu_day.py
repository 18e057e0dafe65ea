"""The stages of a GPU's first day, on a machine without one: planted stages, a GPU that is not."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from benchmark import gpu_day
from benchmark.gpu_day import DONE, FAILED, SKIPPED, STOPPED, Day, Stage
from benchmark.nvidia import visible_gpus
from pipeline.command import trainer_parser
from pipeline.engines import ENGINES
from pipeline.errors import RunError, UsageError
from tests.fake_gpu import FakeGpu
from tests.programs import run_python

ROOT = Path(__file__).resolve().parent.parent
RECORD = {"gpu": {"name": "Card", "uuid": "GPU-a", "mig": 0}, "commit": "c",
          "machine": {"cpu": "C", "cores": 2}}  # fmt: skip
APPEND = "import pathlib; p = pathlib.Path({path!r}); p.open('a').write('x'); print('hello')"
INTERRUPTED = """
import pathlib, time
try:
    print("at it", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path({path!r}).write_text("kept")
"""


def stage(name, code="pass", **more):
    return Stage(name, f"{name}'s purpose", 1.0, (("-c", code),), **more)


def day(folder, **identity):
    return Day(folder, {"code": "1", "gpu": "GPU-a", **identity}, RECORD)


def counting(folder, name="counted"):
    return stage(name, APPEND.format(path=str(folder / name)))


def test_a_stage_that_is_done_is_kept_unless_what_it_rests_on_has_changed(tmp_path, capsys):
    counted, count = counting(tmp_path), tmp_path / "counted"
    assert day(tmp_path).carry_out(counted) == DONE
    assert "  hello" in capsys.readouterr().out
    assert (tmp_path / "counted.log").read_text() == "hello\n"
    assert day(tmp_path).carry_out(counted) == DONE
    assert count.read_text() == "x"
    assert "kept from an earlier call, took 0.0 min" in capsys.readouterr().out
    for number, changed in enumerate(({"code": "2"}, {"gpu": "GPU-b"}), 2):
        assert day(tmp_path, **changed).carry_out(counted) == DONE
        assert count.read_text() == "x" * number
    another = Stage("counted", "", 1.0, (*counted.commands, ("-c", "pass")))
    assert not day(tmp_path, gpu="GPU-b").is_done(another)
    for content in ("", "[]", '{"stages": 1}', '{"stages": {"counted": 1}}', "[" * 100_000):
        (tmp_path / gpu_day.RECORD).write_text(content)
        assert not day(tmp_path).is_done(counted)


def test_a_stage_sees_the_gpus_that_it_asks_for(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    for name, gpus in (("one", ()), ("both", ("GPU-a", "GPU-b"))):
        assert day(tmp_path).carry_out(stage(name, code, gpus=gpus)) == DONE
        assert (tmp_path / f"{name}.log").read_text() == ",".join(gpus or ["GPU-a"]) + "\n"
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 3"}) == ["2", "3"]
    monkeypatch.setitem(sys.modules, "pynvml", FakeGpu())
    assert visible_gpus({}) == ["0"]


def test_a_stage_that_fails_is_reported_and_the_others_go_on(tmp_path):
    stages = [
        stage("broken", "print('why'); raise SystemExit(3)"),
        stage("absent", lacks="not installed: tensorflow"),
        stage("tolerant", "raise SystemExit(1)", good=(0, 1)),
        counting(tmp_path),
    ]
    with pytest.raises(RunError, match="broken: failed; the same call tries again"):
        gpu_day.carry_out_all(day(tmp_path), stages, None)
    kept = json.loads((tmp_path / gpu_day.RECORD).read_text())
    statuses = {name: each["status"] for name, each in kept["stages"].items()}
    assert statuses == {"broken": FAILED, "absent": SKIPPED, "tolerant": DONE, "counted": DONE}
    assert kept["gpu"]["uuid"] == "GPU-a"
    page = (tmp_path / gpu_day.PAGE).read_text()
    assert "| broken | broken's purpose | failed | 0.0 | exit codes [3] |" in page
    assert "| absent | absent's purpose | skipped | 0.0 | not installed: tensorflow |" in page
    repaired = [stage("broken"), *stages[1:]]
    gpu_day.carry_out_all(day(tmp_path), repaired, None)
    assert (tmp_path / "counted").read_text() == "x"


def test_results_are_copied_without_what_goes_on_or_can_be_made_again(tmp_path):
    work, results = tmp_path / "work", tmp_path / "results"
    names = ["a.json", "a.md", "proof-so-far.json", ".lock", "run/b.json"]
    write = f"""
import pathlib
work = pathlib.Path({str(work)!r})
(work / "run").mkdir(parents=True)
for name in {names}:
    (work / name).touch()
"""
    results.mkdir()
    assert day(results).carry_out(stage("ladder", write, work=work)) == DONE
    copied = {path.name for path in (results / "ladder").iterdir()}
    assert copied == {"a.json", "a.md"}


def test_a_stage_that_takes_too_long_is_told_to_end_and_tried_again(tmp_path):
    kept = tmp_path / "kept"
    slow = stage("slow", INTERRUPTED.format(path=str(kept)))
    began = time.monotonic()
    with pytest.raises(RunError, match="slow: stopped"):
        gpu_day.carry_out_all(day(tmp_path), [slow, counting(tmp_path)], 2 / 60)
    assert time.monotonic() - began < 30
    assert kept.read_text() == "kept"
    assert (tmp_path / "counted").exists()
    assert not day(tmp_path).is_done(slow)
    assert day(tmp_path).outcomes["slow"]["status"] == STOPPED


def test_a_stage_that_ignores_the_end_of_its_time_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "GRACE_SECONDS", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    began = time.monotonic()
    assert day(tmp_path).carry_out(stage("deaf", deaf), 1 / 60) == STOPPED
    assert time.monotonic() - began < 30


def findings(**problems):
    return {
        "engines": {
            name: {"problem": problems.get(name.replace("-", "_")), "gpus": ["Card"]}
            for name in ENGINES
        }
    }


def test_what_is_not_installed_or_sees_no_gpu_is_skipped_by_name(tmp_path):
    whole = {each.name: each for each in gpu_day.plan(tmp_path, findings(), short=False)}
    assert list(whole) == ["tests", "benchmark", "ladder", "compare", "several"]
    assert whole.pop("several").lacks == "fewer than two GPUs"
    assert not any(each.lacks for each in whole.values())
    assert "keras-tensorflow,keras-jax,keras-torch" in whole["ladder"].commands[0]
    assert len(whole["tests"].commands) == 2
    assert "20" in whole["compare"].commands[0]
    found = findings(keras_tensorflow="not installed: tensorflow")
    found["engines"]["keras-torch"]["gpus"] = []
    part = {each.name: each for each in gpu_day.plan(tmp_path, found, short=True)}
    assert "keras-jax" in part["ladder"].commands[0]
    assert "lightning,keras-jax" in part["compare"].commands[0]
    # Not the one that is installed and sees none: it would be measured on the CPU.
    assert "keras-tensorflow,lightning,keras-jax" in part["benchmark"].commands[0]
    bare = findings(**dict.fromkeys(("keras_tensorflow", "keras_jax", "keras_torch"), "no keras"))
    part = {each.name: each for each in gpu_day.plan(tmp_path, bare, short=True)}
    assert part["ladder"].lacks.startswith("keras-tensorflow: no keras; ")
    assert not any(part[name].lacks for name in ("tests", "benchmark", "compare"))
    gpus = ["GPU-a", "GPU-b"]
    (several,) = gpu_day.plan(tmp_path, found, short=True, gpus=gpus)[-1:]
    assert "1,2 --engines lightning,keras-jax" in " ".join(several.commands[0])
    assert len(several.commands) == 5
    assert not several.lacks
    assert gpu_day._missing("torch_that_is_not", "json") == "not installed: torch_that_is_not"
    with pytest.raises(UsageError, match="`--stages` takes tests, benchmark"):
        gpu_day.chosen_of(list(part.values()), "all")


def test_every_call_of_the_plan_is_one_that_its_script_takes(tmp_path):
    """Parsed by the scripts themselves; without a GPU or data they refuse what comes after."""
    for short in (True, False):
        for each in gpu_day.plan(tmp_path, findings(), short=short, gpus=("GPU-a", "GPU-b")):
            for command in each.commands:
                if command[0] == "-m":
                    continue
                if trainer := re.fullmatch(r"scripts/train_(\w+)\.py", command[0]):
                    trainer_parser(trainer[1]).parse_args(command[1:])
                    continue
                code = f"import sys; sys.path.insert(0, '.'); from importlib.util import *; " \
                       f"s = spec_from_file_location('it', {command[0]!r}); " \
                       f"m = module_from_spec(s); s.loader.exec_module(m); " \
                       f"p = getattr(m, 'parser', None) or " \
                       f"__import__('benchmark.command', fromlist=['parser']).parser; " \
                       f"p().parse_args({list(command[1:])!r})"  # fmt: skip
                done = run_python("-c", code, cwd=ROOT)
                assert done.returncode == 0, done.stderr


def test_the_doctors_findings_are_read_among_other_lines(tmp_path):
    log = tmp_path / "doctor.log"
    log.write_text('a warning\n{\n "ok": true, "engines": {}\n}\ndoctor.py: nothing\n')
    assert gpu_day.read_findings(log) == {"ok": True, "engines": {}}
    log.write_text("Killed")
    with pytest.raises(RunError, match="left no findings"):
        gpu_day.read_findings(log)


def test_a_whole_day_on_a_gpu_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pynvml", FakeGpu())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    answer = json.dumps(findings())
    doctor = stage("doctor", f"print({answer!r})")
    monkeypatch.setattr(gpu_day, "doctor_stage", lambda data: doctor)
    monkeypatch.setattr(gpu_day, "versions_in_use", lambda: {"jax": "0.99"})
    monkeypatch.setattr(gpu_day, "plan", lambda *_, **__: [counting(tmp_path), stage("other")])
    folder = tmp_path / "day"
    assert gpu_day.main(["--output-dir", str(folder), "--stages", "counted"]) == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    kept = json.loads((folder / gpu_day.RECORD).read_text())
    assert list(kept["stages"]) == ["doctor", "counted"]
    assert kept["packages"] == {"jax": "0.99"}
    monkeypatch.setattr(gpu_day, "versions_in_use", lambda: {"jax": "1.0"})
    assert gpu_day.main(["--output-dir", str(folder), "--stages", "counted"]) == 0
    assert (tmp_path / "counted").read_text() == "xx"  # done again with other versions
    assert (kept["gpu"]["name"], kept["gpu"]["driver_cuda"]) == ("Card", "13.1")
    monkeypatch.setattr(gpu_day, "doctor_stage", lambda data: stage("doctor", "raise ValueError"))
    assert gpu_day.main(["--output-dir", str(folder)]) == 1
    assert "gave no findings" in capsys.readouterr().err
    assert gpu_day.main(["--minutes", "0"]) == 2


def test_without_a_gpu_it_is_a_wrong_call_in_a_line():
    done = run_python("scripts/gpu.py", cwd=ROOT, env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "gpu.py: error: " in done.stderr


def stays_on_the_gpu(source):
    """Return the calls of `.numpy` in a source that fail for a tensor on a GPU."""
    return re.findall(r"(?<!\.cpu\(\))\.numpy\((?!force=True)", source)


def test_answers_come_home_from_a_gpu():
    assert stays_on_the_gpu("logits.numpy()")
    assert not stays_on_the_gpu("logits.cpu().numpy(); logits.numpy(force=True)")
    rooms = [*(ROOT / "lightning_impl").glob("*.py"), ROOT / "ladder/adapters/lightning.py"]
    assert [str(path) for path in rooms if stays_on_the_gpu(path.read_text())] == []
