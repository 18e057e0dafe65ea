"""The benchmark's contenders: which there are, what they need, and that they train the same."""

from pathlib import Path

import pytest

from benchmark import runner
from benchmark.runner import Conditions, Contender, baselines, contenders_of, measure
from ladder import interpreters
from pipeline.drawn import draw_dataset
from pipeline.errors import RunError
from tests.measured import ENGINES
from tests.programs import run_python


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
    done = run_python("-c", script, check=True, cwd=Path(__file__).parents[1])
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


@pytest.fixture(scope="module")
def conditions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, 700, 110)
    return Conditions(folder, num_epochs=2)


@pytest.fixture(scope="module")
def reference(conditions):
    return runner.reference_history(conditions)


def gap_of(contender, conditions, reference):
    """Return how far a contender's first epoch is from the reference's."""
    found = measure(contender, conditions)
    assert len(found["epoch_seconds"]) == 2
    assert found["first_step_seconds"] > 0
    first = found["history"][0]
    return max(abs(first[name] - value) for name, value in reference[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax"])
def test_a_hand_written_loop_is_the_same_training(conditions, reference, framework):
    contender = Contender(f"raw {framework}", "raw", framework)
    assert gap_of(contender, conditions, reference) < 2e-4


# All but the capture; a counter that stands still trains another network.
GRAPH_LOOP = """
import sys
import torch
from benchmark.contenders import raw_torch as contender
torch.cuda.synchronize = lambda: None
contender.GraphLoop.replay_of = lambda loop, work: lambda: (work(), loop.at.add_(RIGHT))
contender.Loop = contender.GraphLoop
sys.exit(contender.main())
"""
# A scan whose state is lost trains another network.
SCANNED_LOOP = """
import sys
from benchmark.contenders import raw_jax as contender
real = contender.Runner.__init__
def scanning(self, *arguments):
    real(self, *arguments)
    self.scans, scan = True, self.many
    self.many = lambda state, batches: scan(state, batches) if RIGHT else (
        state, scan(state, batches)[1])
contender.Runner.__init__ = scanning
sys.exit(contender.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_right", [1, 0])
@pytest.mark.parametrize(("framework", "loop"), [("torch", GRAPH_LOOP), ("jax", SCANNED_LOOP)])
def test_so_is_the_loop_for_a_gpu(
    conditions, reference, monkeypatch, tmp_path, framework, loop, is_right
):
    (tmp_path / f"raw_{framework}.py").write_text(loop.replace("RIGHT", str(is_right)))
    monkeypatch.setattr(runner, "PROGRAMS", tmp_path)
    contender = Contender(f"raw {framework}", "raw", framework)
    assert (gap_of(contender, conditions, reference) < 2e-4) == bool(is_right)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "alternative"),
    [("lightning", "nchw"), ("lightning", "autotune"), ("lightning", "eager"),
     ("keras-tensorflow", "xla")],
)  # fmt: skip
def test_a_setting_another_way_is_the_same_training(conditions, reference, engine, alternative):
    contenders, _ = contenders_of([engine], ["ours"], with_alternatives=True)
    (contender,) = (each for each in contenders if each.alternative == alternative)
    assert gap_of(contender, conditions, reference) < 2e-4


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
