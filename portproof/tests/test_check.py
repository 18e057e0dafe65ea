"""`portproof check` as a user calls it: set-up errors in a line, right ports, wrong ports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from portproof.__main__ import main
from portproof.checking import CheckError, _without_effect, check
from portproof.graph.calls import Call, Graph
from portproof.graph.verdict import Difference, Place, Verdict

PAIRS = Path(__file__).parent / "pairs"


def portproof(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "portproof", "check", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


SOURCE = """
import os, time

def number(): return 5
def raises(): raise ValueError("no such weights\\nand more")
def ends(): os._exit(7)
def hangs(): time.sleep(60)
def shouts(): print("{}"); raise SystemExit("enough")
value = 3

class Model: pass
Model.__module__ = "keras.models"
def listed(): return Model(), ["x"]
"""


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("models.py:number", [], "returned builtins.int; it must return a Keras 3 model"),
        ("models:number", [], "returned builtins.int"),
        ("models.py:listed", [], "beside a model it may return a dictionary of options"),
        ("models.py:missing", [], "models.py has no function missing; it has number, raises"),
        ("models.py:value", [], "has no function value"),
        ("nothing.py:f", [], "there is no file nothing.py"),
        ("nowhere:f", [], "there is no module nowhere here"),
        ("models", [], "write module:function or file.py:function"),
        ("models.py:raises", [], "raised ValueError: no such weights (models.py:"),
        ("models.py:shouts", [], "raised SystemExit: enough"),
        ("models.py:ends", [], "its program ended by exit code 7"),
        ("models.py:hangs", ["--timeout", "3"], "no answer within 3 s; --timeout allows more"),
        ("broken.py:f", [], "importing broken.py raised SyntaxError"),
        ("lacking.py:f", [], "needs no_such_framework, which"),
        ("models.py:number", ["--input", "a,b"], "write sizes behind the batch axis"),
        ("models.py:number", ["--reference-python", "/no/python"], "is no Python interpreter"),
        ("models.py:number", ["--pair", "a"], "--pair takes LAYER=MODULE"),
        ("models.py:number", ["--seed", "-1"], "`seed` must be at least 0; received -1"),
        ("models.py:number", ["--timeout", "inf"], "`timeout` must be above 0 and at most"),
        ("models.py:number", ["--timeout", "nan"], "`timeout` must be above 0 and at most"),
        ("models.py:number", ["--timeout", "1e12"], "`timeout` must be above 0 and at most"),
        ("models.py:number", ["--input", "1000000,1000000"], "more than 50,000,000 numbers"),
        ("models.py:number", ["--input", "int99999999999999999999:3"], "must be below"),
    ],
)
def test_what_cannot_be_set_up_is_said_in_one_line(
    reference: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "models.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "lacking.py").write_text("import no_such_framework")
    options = options if "--input" in options else [*options, "--input", "3"]
    monkeypatch.chdir(tmp_path)
    assert main(["check", reference, "models.py:number", *options]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_a_check_without_inputs_is_refused() -> None:
    with pytest.raises(CheckError, match="no input shape"):
        check("a:f", "b:f", [])
    with pytest.raises(CheckError, match="`upto` must be one of"):
        check("a:f", "b:f", ["3"], upto="everything")
    with pytest.raises(CheckError, match="--suspect-batches is compared with --batches"):
        check("a:f", "b:f", ["3"], suspect_batches="c:f")
    with pytest.raises(CheckError, match="give each input a name of its own, or none"):
        check("a:f", "b:f", ["x=3", "x=4"])


def test_a_fault_of_portproofs_own_is_one_line(monkeypatch, capsys) -> None:
    def fails(*args: object, **options: object) -> None:
        raise TypeError("unheard of\nand more")

    monkeypatch.setattr("portproof.__main__.check", fails)
    assert main(["check", "a:f", "b:f", "--input", "3"]) == 2
    assert capsys.readouterr().err == "portproof: TypeError: unheard of and more\n"


def test_a_bare_text_is_one_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckError, match="--input 3,a: write sizes"):
        check("a:f", "b:f", "3,a")


def test_what_is_accepted_must_be_there() -> None:
    calls = [Call("block/dense", "k", "dense", settings={"epsilon": 1})]
    graph = Graph(calls, [], 0, 0, 0, [], [])
    counts: tuple[dict[str, int], dict[str, int]] = ({}, {})
    places = [Place("block/dense", "d")]
    known = Difference("between", "before dense", "", "", "none", places, detail="accepted")
    verdict = Verdict(
        "a", "b", ("", ""), [], [], 1, (1, 1), counts, [known], {}, None, 0.0, None, None
    )

    def notes(*accept: str) -> list[str]:
        return _without_effect(accept, verdict, (graph, graph))

    assert notes("between", "block", "block/dense", "d") == []
    assert notes("epsilon", "loss") == [
        "--accept epsilon: nothing there to accept",
        "--accept loss: nothing there to accept",
    ]
    for name, near in (("epsilom", "epsilon"), ("block/dens", "block/dense"), ("blo", "d")):
        with pytest.raises(CheckError, match=f"--accept {name}: no such .*{near}"):
            notes(name)


def test_the_programs_are_gone_when_a_check_ends(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(SOURCE + "\nprint(os.getpid(), file=open('pid', 'w'))\n")
    portproof("models.py:hangs", "models.py:number", "--input", "3", "--timeout", "2", cwd=tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def checked(name: str, port: str, *inputs: str, where: str = "in_torch", **options: object):
    places = (str(PAIRS / f"in_keras.py:{name}"), str(PAIRS / f"{where}.py:{port}"))
    return check(*places, inputs, **options)


slow = pytest.mark.slow
RIGHT = [
    pytest.param(
        "encoder", "encoder", "int11:7", {"between before dense"}, id="encoder", marks=slow
    ),
    pytest.param(
        "residual", "residual", "8,8,3", {"statistics batch_norm"}, id="residual", marks=slow
    ),
    pytest.param("recurrent", "recurrent", "9,5", set(), id="recurrent", marks=slow),
    pytest.param(
        "convolutions", "convolutions", "12,12,4", {"between before conv"}, id="convs", marks=slow
    ),
    pytest.param("custom", "custom", "5", set(), id="adapter", marks=slow),
    pytest.param("padded", "padded", "int11pad:7", set(), id="padding", marks=slow),
    pytest.param("resized", "resized", "4,4,3", {"between before dense"}, id="resize", marks=slow),
    pytest.param(
        "patches", "patches", "4,4,3", {"between before dense"}, id="bare weights", marks=slow
    ),
    pytest.param("encoder", "encoder_fused", "int11:7", {"between before dense"}, id="fused"),
]


@pytest.mark.parametrize(("name", "port", "sizes", "rules"), RIGHT)
def test_a_right_port_passes(name: str, port: str, sizes: str, rules: set[str]) -> None:
    verdict = checked(name, port, sizes)
    assert verdict.passed, str(verdict)
    assert verdict.matched == verdict.calls[0] == verdict.calls[1]
    assert {f"{d.what} {d.kind}" for d in verdict.declarations if d.is_rule} == rules
    assert all(d.cause for d in verdict.declarations if d.is_rule)
    assert json.dumps(verdict.to_dict()["passed"]) == "true"


@slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize(
    ("name", "sizes", "of"),
    [
        ("patches", "4,4,3", {}),
        ("adam", "6", {"batches": f"{PAIRS}/in_keras.py:batches"}),
        ("channels_first", "3,8,8", {}),
    ],
)
def test_so_it_does_on_keras_other_backends(
    backend: str, name: str, sizes: str, of: dict[str, str]
) -> None:
    """Weights used by themselves and operators between tensors are seen; steps are taken."""
    verdict = checked(name, name, sizes, backend=backend, **of)
    assert verdict.passed, str(verdict)
    assert verdict.matched == verdict.calls[0] == verdict.calls[1]


WRONG = [
    pytest.param(
        "residual", "residual_other_epsilon", "8,8,3",
        ("norm", "epsilon", "epsilon 1e-05 | 0.001"), id="epsilon", marks=slow,
    ),
    pytest.param(
        "skipping", "skipping_overwritten", "6",
        ("head", "between", "An input that is not overwritten in place in the reference"),
        id="overwritten", marks=slow,
    ),
    pytest.param(
        "residual", "residual_without_shortcut", "8,8,3", ("dense", "between", None),
        id="shortcut", marks=slow,
    ),
    pytest.param(
        "encoder", "encoder_by_tanh", "int11:7",
        ("linear2", "between", "GELU by erf in the reference, with a constant"), id="gelu",
    ),
    pytest.param(
        "encoder", "encoder_looking_back", "int11:7",
        ("out_proj", "between", "without a causal mask in the reference"), id="causal", marks=slow,
    ),
    pytest.param(
        "encoder", "encoder_with_noise", "int11:7",
        ("head", "between", "it draws random numbers, or keeps something"), id="noise", marks=slow,
    ),
    pytest.param(
        "encoder", "encoder_over_samples", "int11:7", ("in_proj", "between", "axes 0 and 1"),
        id="attention over samples", marks=slow,
    ),
    pytest.param(
        "recurrent", "recurrent_over_samples", "9,5", ("last", "between", "Samples first"),
        id="time first", marks=slow,
    ),
    pytest.param(
        "padded", "padded_to_the_end", "int11pad:7", ("lstm", "masked", "masked true"),
        id="padding", marks=slow,
    ),
    pytest.param(
        "convolutions", "convolutions_other_slope", "12,12,4",
        ("depthwise", "between", "slope 0.2"), id="slope", marks=slow,
    ),
    pytest.param(
        "convolutions", "convolutions_without_softmax", "12,12,4",
        ("output", "between", "softmax in the reference alone"), id="softmax", marks=slow,
    ),
    pytest.param(
        "custom", "custom_twice", "5", ("scaled dense", "call", None), id="adapter", marks=slow
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "port", "sizes", "expected"), WRONG)
def test_a_wrong_port_is_parted_at_the_right_place(
    name: str, port: str, sizes: str, expected: tuple[str, str, str | None]
) -> None:
    verdict = checked(name, port, sizes)
    assert not verdict.passed
    place, what, cause = expected
    first = next(d for d in verdict.failures if d.effect == "output")
    assert place in first.places[0].right or place in first.kind
    assert first.what == what
    assert first.cause is None if cause is None else cause in str(first.cause)
    assert "they part at" in str(verdict)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("port", "failing", "declared"),
    [
        ("dropping", set(), set()),
        ("dropping_numbers", set(), {("dropout", "0.5 of channels", "0.5")}),
        ("dropping_always", {("dropout", "none", "0.5 of channels")}, set()),
        ("dropping_turned", {("axes", "0, 1, 2", "1, 0, 2")}, set()),
        ("dropping_channels_first", {("axes", "0, 1, 2", "0, 2, 1")}, set()),
        ("dropping_shifted_in_training", {("training mode", "", "")}, set()),
    ],
)
def test_what_equal_numbers_in_evaluation_do_not_show(
    port: str, failing: set[tuple[str, str, str]], declared: set[tuple[str, str, str]]
) -> None:
    verdict = checked("dropping", port, "6,4")
    assert {(d.what, d.left, d.right) for d in verdict.failures} == failing, str(verdict)
    others = [d for d in verdict.declarations if d.what != "first weights"]
    assert {(d.what, d.left, d.right) for d in others} == declared, str(verdict)
    assert verdict.passed == (not failing)


@pytest.mark.slow
def test_patches_in_another_order_are_parted_and_rates_told_in_training_are_equal() -> None:
    verdict = checked("patches", "patches_by_columns", "4,4,3")
    assert {d.what for d in verdict.failures} <= {"between", "gradients"}, str(verdict)
    assert "LayerNorm" in str(verdict.first) or "norm" in verdict.failures[0].kind
    assert not [d for d in verdict.differences if d.what == "dropout"]


@pytest.mark.slow
def test_constants_rounded_in_a_gradient_and_dropped_branches_are_seen() -> None:
    verdict = checked("gated", "gated", "6,6,3")
    assert verdict.passed, str(verdict)
    causes = {d.what: str(d.cause) for d in verdict.declarations if d.is_rule}
    assert causes.keys() == {"between", "gradients"}
    assert "one over the divisor, rounded to float32" in causes["between"]
    assert "gradient has 1/6 in float64" in causes["gradients"]
    other = checked("gated", "gated_without_dropout", "6,6,3")
    assert {(d.left, d.right) for d in other.declarations if d.what == "dropout"} == {
        ("0.1 of samples", "none")
    }


@pytest.mark.slow
def test_a_norms_momentum_is_seen_beside_another_epsilon() -> None:
    verdict = checked("residual", "residual_other_norm", "8,8,3")
    found = {(d.what, d.left): str(d.cause) for d in verdict.failures}
    assert "epsilon 1e-05 | 0.001" in found["epsilon", "1e-05"]
    assert found["statistics", "moving_mean"] == "momentum 0.9 | 0.99"
    assert "momentum 0.9 | 0.99" in found["statistics", "moving_variance"]
    assert not [d for d in verdict.declarations if d.what == "momentum"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("port", "what", "cause"),
    [
        ("regression", None, None),
        ("regression_turned", None, None),
        ("regression_attending", None, None),
        ("regression_by_hand", None, None),
        ("regression_by_hand_other_rate", "update", None),
        ("regression_flat", "between loss", None),
        ("regression_broadcasting", "loss", "targets (N,) against outputs (N, 1)"),
        ("regression_other_rate", "update", None),
    ],
)
def test_training_steps_are_those_of_the_users_own_loss_and_optimizer(
    port: str, what: str | None, cause: str | None
) -> None:
    batches = str(PAIRS / "in_keras.py:batches")
    verdict = checked("regression", port, "6", upto="steps", batches=batches)
    assert verdict.asked == ["forward", "gradients", "steps"]
    assert [d.what for d in verdict.failures] == (what or "").split(), str(verdict)
    if cause:
        assert cause in str(verdict.failures[0].cause)


@pytest.mark.slow
def test_rules_of_the_frameworks_hold_in_training_steps_and_torchs_adam_is_named() -> None:
    batches = str(PAIRS / "in_keras.py:batches")
    verdict = checked("norm_regression", "norm_regression", "6", upto="steps", batches=batches)
    assert verdict.passed, str(verdict)
    assert [d.what for d in verdict.declarations if d.is_rule] == ["statistics"]
    verdict = checked("adam", "adam", "6", upto="steps", batches=batches)
    assert verdict.passed, str(verdict)
    assert "beside √v" in str(next(d for d in verdict.declarations if d.what == "update").cause)
    (found,) = checked("adam", "adam_default", "6", upto="steps", batches=batches).failures
    assert (found.what, "it is 1e-07 | 1e-08" in str(found.cause)) == ("update", True)
    clipped = ("regression_clipped", "regression_clipped", "6")
    verdict = checked(*clipped, upto="steps", batches=batches)
    assert verdict.passed, str(verdict)
    (found,) = (d for d in verdict.declarations if d.is_rule)
    assert (found.what, "norm + 1e-6" in str(found.cause)) == ("update", True)
    of = {"upto": "steps", "batches": batches}
    (found,) = checked("regression", "regression_clipped", "6", **of).failures
    assert found.what == "update"
    assert found.cause == "gradients are clipped by nothing | all's norm, at most 0.25"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "port", "is_right", "cause"),
    [
        ("momentum", "momentum", True, "part of SGD's velocity in Keras"),
        ("momentum", "momentum_upwards", False, "each weight moves -1 × as far"),
        ("momentum", "momentum_dampened", False, None),
        ("adam_clipped", "adam_clipped", True, "ε beside √v in Keras's Adam"),
        ("momentum_as_written", "momentum_as_written", True, "rounded to float32 by Keras"),
        ("momentum_as_written", "momentum_in_groups", False, "SGD with other groups, weights"),
    ],
)
def test_a_rule_of_the_frameworks_excuses_nothing_else(
    name: str, port: str, is_right: bool, cause: str | None
) -> None:
    of = {"upto": "steps", "batches": f"{PAIRS}/in_keras.py:batches"}
    verdict = checked(name, port, "6", where="trained_torch", **of)
    assert verdict.passed == is_right, str(verdict)
    (found,) = (d for d in verdict.differences if d.gap is not None)
    assert (found.what, found.is_rule) == ("update", is_right)
    assert cause in str(found.cause) if cause else found.cause is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("port", "what", "cause"),
    [
        ("classes", None, ""),
        ("by_sum", "loss", "the loss is a mean in the reference"),
        ("smoothed", "loss", "labels are not smoothed in the reference"),
        ("softmax_twice", "loss", "what goes into cross_entropy are probabilities already"),
        ("weighted", "loss", "classes have equal weight in the reference"),
        ("amsgrad", "update", "amsgrad off | on"),
        ("scheduled", "update", "each weight moves 0.5 × as far in the suspect"),
        ("groups", "update", "Adam with other groups, weights, schedules"),
        ("two_options", "update", "beta_1 0.9 | 0.8; and beta_2 0.999 | 0.99"),
        ("rule", "update", "the rule of the optimizer, Adam | RMSprop"),
        ("without_biases", "update", "was not given network.0.bias, network.2.bias"),
        ("accumulated", "update", "batches per step 1 | 2"),
    ],
)
def test_mistakes_in_a_loss_and_an_optimizer_are_named(
    port: str, what: str | None, cause: str
) -> None:
    of = {"where": "trained_torch", "batches": f"{PAIRS}/in_keras.py:labels"}
    verdict = checked("named_classes", f"named_{port}", "6", **of)
    assert [d.what for d in verdict.failures] == ([what] if what else []), str(verdict)
    if what:
        assert cause in str(verdict.failures[0].cause)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "port", "batches", "what"),
    [
        ("classes", "classes", "labels", []),
        ("classes", "classes_by_sum", "labels", ["loss"]),
        ("classes", "classes_other_schedule", "labels", ["update"]),
        ("classes", "classes_first_batch", "labels", ["metric"]),
        ("two_targets", "two_targets", "two", []),
        ("two_targets", "two_targets_other_weight", "two", ["loss"]),
    ],
)
def test_epochs_weights_schedules_metrics_and_several_targets(
    name: str, port: str, batches: str, what: list[str]
) -> None:
    of = {"upto": "steps", "batches": f"{PAIRS}/in_keras.py:{batches}"}
    verdict = checked(name, port, "6", where="trained_torch", **of)
    assert [d.what for d in verdict.failures] == what, str(verdict)
    assert not any("epoch of" in note or "accuracy" in note for note in verdict.notes) or what


@pytest.mark.slow
@pytest.mark.parametrize(
    ("port", "what", "cause"),
    [
        ("drawing", None, ""),
        ("drawing_cut_first", None, ""),
        ("drawing_decayed_less", "update", "L2 adds 0.02 × all but bias, the kernel of"),
    ],
)
def test_maps_channels_first_and_penalties_that_the_optimizer_takes_over(
    port: str, what: str | None, cause: str
) -> None:
    batches = f"{PAIRS}/in_keras.py:drawings"
    verdict = checked("drawing", port, "6", where="trained_torch", batches=batches)
    assert verdict.passed == (what is None), str(verdict)
    assert any("penalties of its regularisers" in n for n in verdict.notes)
    cut = any("features as in the maps that are made" in n for n in verdict.notes)
    assert cut == (port == "drawing_cut_first")
    assert all(cause in str(d.cause) for d in verdict.failures if d.what == what)


@pytest.mark.slow
def test_a_head_that_reads_the_embedding_is_a_right_port() -> None:
    assert checked("tied", "tied", "int11:7", where="trained_torch").passed
    verdict = checked("tied", "tied_not", "int11:7", where="trained_torch")
    assert "sharing" in {d.what for d in verdict.failures}, str(verdict)


@pytest.mark.slow
def test_a_loader_and_a_conversion_of_the_users_are_compared() -> None:
    in_torch, in_keras = (f"{PAIRS}/{name}.py" for name in ("trained_torch", "in_keras"))
    of = {"upto": "steps", "batches": f"{in_keras}:batches"}
    of |= {"suspect_batches": f"{in_torch}:batches", "convert": f"{in_torch}:converted"}
    assert checked("regression", "regression", "6", **of).passed
    of |= {"suspect_batches": f"{in_torch}:batches_twice", "convert": f"{in_torch}:unconverted"}
    verdict = checked("regression", "regression", "6", **of)
    found = {(d.what, d.kind) for d in verdict.failures}
    assert found >= {("batches", "inputs"), ("conversion", "dense kernel")}


@pytest.mark.slow
def test_a_clamp_is_seen_on_the_edge_batch() -> None:
    verdict = checked("clipped", "clipped_not", "6", upto="forward")
    assert [(d.what, d.kind) for d in verdict.failures] == [("output", "output, edge batch")]
    assert "they part on the output, edge batch" in str(verdict)


@pytest.mark.slow
def test_steps_take_batches_in_float32() -> None:
    batches = str(PAIRS / "in_keras.py:batches_in_float32")
    verdict = checked("regression", "regression", "6", upto="steps", batches=batches)
    assert verdict.passed, str(verdict)


@pytest.mark.slow
def test_outputs_of_truth_values_are_compared_and_single_numbers_refused() -> None:
    assert checked("positive", "positive", "6", upto="forward").passed
    with pytest.raises(CheckError, match="gives a single number"):
        checked("mean", "mean", "6", upto="forward")
    with pytest.raises(CheckError, match="no real numbers"):
        checked("positive", "positive", "6")
