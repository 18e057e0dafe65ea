import os
import sys

import pytest

from ladder.engines import EngineError
from ladder.exchange import Question, read_trace, write_question
from ladder.serve import Server

# An engine that answers with a value, which a mutant changes, and with how often it was imported.
PROGRAM = """
import os, sys
from pathlib import Path
from ladder.exchange import Trace, read_question, write_trace
from ladder.serve import serve

VALUE, PARENT = 1, os.getpid()

def plant(mutant):
    global VALUE
    VALUE = {"two": 2, "three": 3}[mutant]

def answer(question, trace):
    asked = read_question(question)
    ask = asked.asks[0]
    print("noise that must not get between the replies", flush=True)
    print(f"asked {ask}", file=sys.stderr)
    if ask == "exit":
        return 7
    if ask == "raise":
        raise ValueError("planted")
    if ask == "quit":
        sys.exit("leaving")
    if ask == "kill":
        os.kill(os.getpid(), 9)
    if ask == "kill all":
        os.kill(PARENT, 9)
    if ask != "nothing":
        facts = {"value": VALUE, "parent": PARENT, "process": os.getpid()}
        write_trace(trace, Trace("toy", asked.identity, facts, {}))
    return 0

serve(plant, answer)
"""


@pytest.fixture
def server(tmp_path):
    (tmp_path / "toy.py").write_text(PROGRAM)
    toy = Server("toy", [sys.executable, str(tmp_path / "toy.py")], {"TOY": "1"})
    yield toy
    toy.close()


@pytest.fixture
def ask(server, tmp_path):
    def ask_toy(what, mutant=""):
        question = Question((what,))
        write_question(tmp_path / "q", question)
        server.answer(tmp_path / "q", tmp_path / "t", mutant)
        return read_trace(tmp_path / "t", question).facts

    return ask_toy


def test_many_answers_come_from_one_engine_each_in_its_own_process(ask):
    answers = [ask("value") for _ in range(3)]
    assert [answer["value"] for answer in answers] == [1, 1, 1]
    assert len({answer["parent"] for answer in answers}) == 1
    assert len({answer["process"] for answer in answers} - {os.getpid()}) == 3


def test_a_mutant_is_gone_with_its_answer(ask):
    assert [ask("value", mutant)["value"] for mutant in ("", "two", "", "three", "")] == [
        1, 2, 1, 3, 1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("exit", "(?s)toy exited with 7:.*asked exit"),
        ("raise", "(?s)toy exited with 1:.*asked raise.*ValueError: planted"),
        ("quit", "(?s)toy exited with 1:.*SystemExit: leaving"),
        ("kill", "(?s)toy exited with -9:.*asked kill"),
        ("nothing", "(?s)toy exited with 0:.*asked nothing"),
    ],
)
def test_an_answer_that_fails_says_why_and_the_next_one_comes(ask, what, message):
    with pytest.raises(EngineError, match=message):
        ask(what)
    assert ask("value")["value"] == 1


def test_an_unknown_mutant_is_an_error_never_an_answer_without_it(ask):
    with pytest.raises(EngineError, match=r"(?s)toy exited with 1:.*KeyError: 'four'"):
        ask("value", "four")


def test_an_earlier_answer_is_not_taken_for_this_one(ask, tmp_path):
    ask("value")
    with pytest.raises(EngineError, match="toy exited with 0"):
        ask("nothing")
    assert not (tmp_path / "t").exists()


def test_a_dead_engine_is_named(ask):
    with pytest.raises(EngineError, match="toy died with -9"):
        ask("kill all")
    with pytest.raises(EngineError, match="toy died"):
        ask("value")


def test_an_engine_that_cannot_start_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("raise SystemExit('no library')")
    broken = Server("broken", [sys.executable, str(tmp_path / "broken.py")], {})
    with pytest.raises(EngineError, match=r"(?s)broken died.*no library"):
        broken.answer(tmp_path / "q", tmp_path / "t")
    broken.close()


def test_what_a_killed_answer_leaves_behind_is_removed(tmp_path):
    program = PROGRAM.replace('if ask == "kill":', 'tempfile.mkdtemp()\n    if ask == "kill":')
    (tmp_path / "toy.py").write_text(program.replace("import os,", "import tempfile, os,"))
    toy = Server("toy", [sys.executable, str(tmp_path / "toy.py")], {})
    write_question(tmp_path / "q", Question(("kill",)))
    with pytest.raises(EngineError):
        toy.answer(tmp_path / "q", tmp_path / "t")
    (left,) = [path for path in toy.folder.iterdir() if path.is_dir()]
    toy.close()
    assert not left.exists()
    assert not toy.folder.exists()
