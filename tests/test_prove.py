"""`scripts/prove.py`: wrong calls, and engines that die: never a pass, never a hang."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from ladder.causes import Diagnosis
from ladder.checks import Gap, Report
from ladder.compare import Difference
from ladder.engines import EngineError
from ladder.exchange import Question, Trace, read_question, write_trace
from ladder.rungs import RUNGS, RungResult, Verdict
from ladder.verdict import verdict_from_kept, verdict_lines, verdict_to_kept
from parity_tests import climbs, engine_room
from parity_tests.catalogue import MUTANTS
from parity_tests.engine_room import EngineRoom
from parity_tests.questions import ladder_recipe, on_device, points_question
from parity_tests.replays import REPLAYS
from parity_tests.standard import prove_ladder, prove_mutants, prove_replays, standard_attempts
from pipeline.answers import execution_of
from pipeline.datasets import load_dataset
from pipeline.drawn import draw_dataset
from pipeline.session import Session
from tests.programs import run_python
from tests.waiting import pid_in, until

PROVE = Path(__file__).resolve().parent.parent / "scripts" / "prove.py"


def prove(*arguments, **environment):
    return run_python(PROVE, *arguments, timeout=120, env=environment)


@pytest.fixture
def drawn(tmp_path):
    draw_dataset(tmp_path / "drawn", 300, 110)
    return tmp_path / "drawn"


@pytest.mark.parametrize("work", [[], ["--replays"], ["--faults"]], ids=str)
def test_an_engine_that_dies_leaves_no_verdict(tmp_path, drawn, work):
    broken = tmp_path / "broken"
    broken.mkdir()
    # Each engine's program imports its framework first, and there it ends.
    for name in ("torch", "keras"):
        (broken / f"{name}.py").write_text(f"raise SystemExit('{name} is broken here')\n")
    output = tmp_path / "proof"
    done = prove(*work, "--data-dir", drawn, "--output-dir", output, PYTHONPATH=str(broken))
    assert done.returncode == 1
    assert "is broken here" in (done.stdout if work == ["--faults"] else done.stderr)
    assert "the same computation" not in done.stdout
    assert "Traceback" not in done.stderr
    if work != ["--faults"]:  # each mutant has an outcome of its own: no verdict
        assert not list(output.glob("*.json"))
    else:
        assert "mutants not as expected" in done.stderr


def verdict(left, right, route, *_):
    """Return a verdict with all kinds of values in it."""
    places = (
        Difference("conv1.kernel[0, 1]", 0.25, math.nan, "gap inf"),
        Difference("logits.kernel", [128, 10], [10, 128], "shapes"),
        Difference("optimizer", {"name": "adam", "betas": [0.9, 0.999]}, "missing"),
        Difference("batches", True, None, gap=1e-7, ulps=math.inf),
    )
    failed = Report(7, places[0], places, (Gap("conv1", math.inf, 0.0), Gap("logits", 0.1, 1.0)))
    rungs = [RungResult(number, rung.name, "passed", Report(3, places[3]))
             for number, rung in enumerate(RUNGS, start=1)]  # fmt: skip
    causes = (Diagnosis("transposed", "logits", "it is transposed"),)
    rungs[4] = RungResult(5, RUNGS[4].name, "failed", failed, causes, "")
    rungs[5] = RungResult(6, RUNGS[5].name, "skipped", reason="not asked for")
    return Verdict(left, right, route.dtype, route.title, tuple(rungs))


def test_a_verdict_that_was_kept_is_the_same(tmp_path):
    (attempt, *_) = standard_attempts(["keras-jax"], ["base"], ["float64"], 1)
    whole = verdict(attempt.left, attempt.right, attempt.route)
    kept = Session(tmp_path / "so-far", {})
    kept.keep("one", verdict_to_kept(whole))
    again = verdict_from_kept(Session(tmp_path / "so-far", {}).kept("one"))
    assert repr(again) == repr(whole)
    assert list(verdict_lines(again)) == list(verdict_lines(whole))


@pytest.fixture
def ladder(tmp_path, drawn):
    """Return a function that climbs with engines that are made up: verdicts, lost, and asked."""
    dataset = load_dataset(drawn)
    attempts = list(standard_attempts(["keras-tensorflow", "keras-jax"], ["base"], ["float64"], 1))

    def climb_all(broken=()):
        asked = []

        def climb(left, right, route, mutant=""):
            asked.append(right)
            if right in broken:
                raise EngineError(f"{right} died with -9")
            return verdict(left, right, route)

        session = Session(tmp_path / "proof-so-far.json", {})
        climber = SimpleNamespace(climb=climb, room=EngineRoom())
        found = prove_ladder(climber, dataset, tmp_path, attempts, lambda _: None, "me", session)
        return *found, asked

    return climb_all


def test_an_engine_that_dies_costs_its_own_climbs(ladder, tmp_path):
    verdicts, lost, _ = ladder(broken=["keras-jax"])
    assert {found.right for found in verdicts} == {"keras-tensorflow"}
    (name,) = lost
    assert name == "lightning → keras-jax · float64 · base · fast path"
    assert json.loads((tmp_path / "ladder.json").read_text())["no_verdict"] == {
        name: "keras-jax died with -9"
    }
    assert f"died\n\n- {name}" in (tmp_path / "ladder.md").read_text()


def test_the_next_call_climbs_what_has_no_verdict_and_that_alone(ladder, tmp_path):
    ladder(broken=["keras-jax"])
    verdicts, lost, asked = ladder()
    assert (asked, lost) == (["keras-jax"], {})
    page = (tmp_path / "ladder.md").read_text()
    (tmp_path / "proof-so-far.json").unlink()
    whole, _, asked = ladder()
    assert len(asked) == len(whole) == 4
    assert repr(verdicts) == repr(whole)
    assert (tmp_path / "ladder.md").read_text() == page


def test_mutants_and_replays_are_kept_too(tmp_path, drawn):
    dataset, asked = load_dataset(drawn), []
    mutants = [mutant for mutant in MUTANTS if mutant.variant == "base"][:3]
    replays = [each for each in REPLAYS if each.pair == "tutorial"][:2]
    dying = {mutants[1].name, replays[1].mutant}

    def climb(left, right, route, mutant=""):
        asked.append(mutant)
        if mutant in dying:
            raise EngineError("died")
        return verdict(left, right, route)

    def call():
        asked.clear()
        session = Session(tmp_path / "proof-so-far.json", {})
        fixed = (SimpleNamespace(climb=climb, room=EngineRoom()), dataset, tmp_path)
        outcomes = prove_mutants(*fixed, mutants, lambda _: None, "me", session)
        return outcomes, *prove_replays(*fixed, replays, lambda _: None, "me", session)

    outcomes, replayed, lost = call()
    assert [outcome.verdict is None for outcome in outcomes] == [False, True, False]
    assert [each.replay for each in replayed] == replays[:1]
    assert lost == {replays[1].name: "died"}
    again = sorted(dying)
    dying.clear()
    outcomes, replayed, lost = call()
    assert sorted(asked) == again
    assert all(outcome.verdict for outcome in outcomes)
    assert (len(replayed), lost) == (2, {})


@pytest.mark.parametrize(
    ("left", "right", "mutant", "engine"),
    [
        ("lightning", "keras-jax", "", "keras-jax"),
        ("keras-tensorflow", "lightning", "loss-sum", "lightning"),
        ("keras-torch", "lightning", "", "keras-torch"),
        ("keras-tensorflow", "keras-jax", "", None),
    ],
)
def test_where_the_network_parts_portproof_is_asked_why(monkeypatch, left, right, mutant, engine):
    parted = Verdict(left, right, "float64", "", (RungResult(1, "layers", "failed", Report(1)),))
    found, asked = Diagnosis("epsilon 1 | 2", "conv1", ""), []

    def why(*arguments):
        asked.append(arguments)
        if len(asked) > 1:
            raise climbs.CheckError("it died")
        return found

    monkeypatch.setattr(climbs.Climber, "_climb", lambda *_: parted)
    monkeypatch.setattr(climbs, "why", why)
    climber = climbs.Climber(None, None, None, None)
    verdicts = [climber.climb(left, right, climbs.Route("dropout"), mutant) for _ in range(2)]
    if engine is None:
        assert (verdicts, asked) == ([parted, parted], [])
        return
    assert asked == 2 * [(engine, mutant, "dropout")]
    assert verdicts[0].rungs[0].diagnoses == (found,)
    assert (verdicts[1].rungs[0].diagnoses, verdicts[1].rungs[0].reason) == (
        (),
        "portproof: it died",
    )


def test_questions_count_among_what_a_climber_keeps(monkeypatch):
    asked = []

    def ask(engine, question):
        asked.append(engine)
        return Trace(engine, question.identity, {}, {"a": np.zeros(100, np.uint8)})

    def question(recipe, *_):
        return Question(("layers",), {"seed": recipe.seed}, {"a": np.zeros(100, np.uint8)})

    monkeypatch.setattr(climbs, "points_question", question)
    monkeypatch.setattr(climbs, "ladder_question", question)
    monkeypatch.setattr(climbs, "KEPT_BYTES", 250)
    climber = climbs.Climber(SimpleNamespace(ask=ask), None, None, None)
    routes, material = [climbs.Route(seed=seed) for seed in (0, 1)], SimpleNamespace(data_dir="d")
    first = climber.question(routes[0], material)
    assert climber.question(routes[0], material) is first
    climber.answer("keras-jax", first)
    climber.question(routes[1], material)  # has no room beside both
    climber.answer("keras-jax", first)
    assert asked == [climbs.REFERENCE, "keras-jax", climbs.REFERENCE]
    again = climber.question(routes[0], material)
    assert again is not first
    assert again.identity == first.identity
    assert asked[3:] == [climbs.REFERENCE]


SLEEPING = """
import os, time
from pathlib import Path
from ladder.serve import serve
def answer(question, trace):
    Path(__file__).with_name("pid.new").write_text(str(os.getpid()))
    Path(__file__).with_name("pid.new").rename(Path(__file__).with_name("pid"))
    time.sleep(60)
serve(lambda mutant: None, answer)
"""
ROOM = """
import signal, sys
from pathlib import Path
from ladder.exchange import Question
from parity_tests.engine_room import EngineRoom
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
with EngineRoom(programs=Path(sys.argv[1])) as room:
    ask = lambda: room.ask("lightning", Question(("all",), {"precision": "32"}))
    room.at_once(ask, ask)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what hangs up is told at once on Linux only")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_proof_that_is_ended_leaves_no_engine_behind(tmp_path, how):
    (tmp_path / "in_lightning.py").write_text(SLEEPING)
    root = PROVE.parent.parent
    parent = subprocess.Popen(
        [sys.executable, "-c", ROOM, str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": ".", "TMPDIR": str(tmp_path)},
    )
    answering = psutil.Process(pid_in(tmp_path / "pid"))
    engine = answering.parent()
    parent.send_signal(how)
    try:
        assert parent.wait(10) == -how
    finally:
        parent.kill()
    gone, _ = psutil.wait_procs([answering, engine], timeout=10)
    assert len(gone) == 2
    if how == signal.SIGINT:  # time enough to clean up
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in_lightning.py", "pid"]


INTERRUPTED = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_an_interrupted_proof_says_how_to_go_on(drawn, tmp_path):
    flags = ["--engines", "keras-tensorflow", "--variants", "base", "--lanes", "float32"]
    places = ["--data-dir", str(drawn), "--output-dir", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(PROVE), *flags, *places],
        text=True,
        stderr=subprocess.PIPE,
    )
    engines = []
    try:
        engines = until(psutil.Process(process.pid).children)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "prove.py: interrupted; to go on: the same call\n")
    gone, _ = psutil.wait_procs(engines, timeout=10)
    assert gone == engines


def test_a_question_that_is_asked_on_a_gpu_gets_a_process_of_its_own(monkeypatch, tmp_path):
    """CUDA does not survive the fork by which a server answers."""
    asked = []

    def answer(engine, question, trace, *, precision, timeout_seconds):
        found = read_question(question)
        asked.append((engine.name, precision, found.settings.get("device")))
        write_trace(trace, Trace(engine.name, found.identity, {}, {}))

    monkeypatch.setattr(engine_room, "answer", answer)
    monkeypatch.setattr(EngineRoom, "_server", lambda *_: pytest.fail("it was asked of a server"))
    draw_dataset(tmp_path / "drawn", 400, 150)
    dataset = load_dataset(tmp_path / "drawn")
    with EngineRoom() as room:
        climber = climbs.new_climber(room, dataset, tmp_path / "material", "gpu")
        question = on_device(
            points_question(ladder_recipe("base", "64"), climber.real, False), "gpu"
        )
        assert room.ask("lightning", question).engine == "lightning"
        with pytest.raises(ValueError, match="on the CPU only"):
            room.ask("lightning", question, "a-fault")
        # The reference is asked for its points; an empty answer ends the question there.
        with pytest.raises(KeyError, match="point"):
            climber.question(climbs.Route(), climber.real)
    assert asked == [("lightning", "64", "gpu")] * 2
    same = points_question(ladder_recipe("base", "64"), climber.real, False)
    assert on_device(same, "cpu") is same
    assert (execution_of(same).device, execution_of(question).device) == ("cpu", "gpu")
