import subprocess
import sys

import psutil
import pytest

from ladder.engines import EngineError, answer
from ladder.exchange import Question, read_trace, write_question
from ladder.interpreters import Engine
from pipeline.engines import ENGINES

# A whole engine: it answers with the variable it was started with.
PROGRAM = """
import os, sys
from pathlib import Path
from ladder.exchange import Trace, read_question, write_trace
question = read_question(Path(sys.argv[1]))
{first}
facts = {{name: os.environ.get(name) for name in ("TOY", "TOY64")}}
write_trace(Path(sys.argv[2]), Trace("toy", question.identity, facts, {{}}))
print("noise"); print("complaint", file=sys.stderr)
{last}
"""
QUESTION = Question(("all",), {"seed": 1})


@pytest.fixture
def toy(tmp_path):
    """Return a function that makes a toy engine, which does as told, and asks it."""

    def ask(first="", last="", precision="32", seconds=60.0, **changes):
        (tmp_path / "toy.py").write_text(PROGRAM.format(first=first, last=last))
        fields = {"name": "toy", "program": (str(tmp_path / "toy.py"),), "packages": ("json",),
                  "variables": {"TOY": "a"}, "float64_variables": {"TOY64": "b"}}  # fmt: skip
        write_question(tmp_path / "q", QUESTION)
        engine = Engine(**{**fields, **changes})
        answer(engine, tmp_path / "q", tmp_path / "t", precision=precision, timeout_seconds=seconds)
        return read_trace(tmp_path / "t", QUESTION)

    return ask


@pytest.mark.parametrize(("precision", "variable"), [("32", None), ("64", "b")])
def test_an_engine_answers_in_its_own_environment(toy, precision, variable, monkeypatch):
    monkeypatch.delenv("TOY64", raising=False)
    assert toy(precision=precision).facts == {"TOY": "a", "TOY64": variable}


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        ({"first": "raise ValueError('planted')"}, r"(?s)toy exited with 1:.*ValueError: planted"),
        ({"last": "sys.exit(7)"}, "(?s)toy exited with 7:.*complaint"),
        ({"last": "os.kill(os.getpid(), 9)"}, "toy exited with -9"),
        ({"last": "os.remove(sys.argv[2])"}, "(?s)toy exited with 0 and left no trace:.*complaint"),
        ({"first": "import time; time.sleep(60)", "seconds": 0.5}, r"toy gave no answer in 0.5 s"),
        ({"program": ("-m", "ladder.nowhere")}, "No module named ladder.nowhere"),
    ],
)
def test_an_engine_that_dies_says_why(toy, ways, message):
    with pytest.raises(EngineError, match=message):
        toy(**ways)


def test_an_earlier_answer_is_not_taken_for_this_one(toy, tmp_path):
    toy()
    with pytest.raises(EngineError, match="exited with 3"):
        toy(first="sys.exit(3)")
    assert not (tmp_path / "t").exists()


def test_jax_has_float64_where_it_is_asked_for_alone():
    assert "JAX_ENABLE_X64" in ENGINES["keras-jax"].environment("64")
    assert "JAX_ENABLE_X64" not in ENGINES["keras-jax"].environment("32")


PARENT = """
import subprocess, sys, time
from ladder.engines import leashed
child = "import time; print(1, flush=True); time.sleep(60)"
started = subprocess.Popen(leashed([sys.executable, "-c", child]))
print(started.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")
def test_an_engine_ends_when_what_started_it_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "1\n"
        parent.kill()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone
