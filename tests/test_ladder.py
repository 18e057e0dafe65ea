"""The ladder on answers made up here: what passes, what fails, what may not pass for nothing."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ladder.causes import Diagnosis, registry
from ladder.checks import MAX_GAPS, Gap, Report, Terms, place_of
from ladder.compare import Tolerance
from ladder.exchange import Trace
from ladder.rungs import RUNGS, RungResult, Verdict, climb, explain, with_cause
from ladder.verdict import conclusion, verdict_lines, verdict_to_dict
from tests.climbed import (
    KERNEL,
    ROUNDING,
    TERMS,
    climb_with,
    make_question,
    make_trace,
    moved,
    with_array,
    with_facts,
    without_array,
)

ROOT = Path(__file__).parents[1]
COMPARED = (
    "data", "architecture", "layers", "logits", "gradients", "optimizer", "dropout",
    "training", "evaluation",
)  # fmt: skip


def test_equal_answers_pass_on_every_rung_that_is_asked_for():
    verdict = climb_with()
    assert [rung.name for rung in verdict.rungs] == [rung.name for rung in RUNGS]
    assert [rung.number for rung in verdict.rungs] == list(range(1, 11))
    assert {rung.name for rung in verdict.rungs if rung.status == "passed"} == set(COMPARED)
    assert verdict.rung("initialisation").status == "skipped"
    assert verdict.rung("initialisation").reason == "not asked for"
    assert verdict.passed
    assert verdict.first_failure is None
    assert all(rung.report.compared for rung in verdict.rungs if rung.status == "passed")


def test_rounding_passes_and_is_reported():
    verdict = climb_with(
        lambda trace: with_array(trace, "logits.full", trace.arrays["logits.full"] + 1e-14)
    )
    assert verdict.passed
    worst = verdict.rung("logits").report.worst
    assert worst.where.startswith("logits.full[")
    assert worst.gap == pytest.approx(1e-14, rel=0.1)
    assert worst.ulps > 1


def gaps_of(verdict, rung):
    """Return a rung's gaps as shares of their limits, by place."""
    gaps = verdict.rung(rung).report.gaps
    assert len({gap.place for gap in gaps}) == len(gaps)
    return {gap.place: gap.gap / gap.limit for gap in gaps}


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("point.block.0.conv", "block.0.conv"),
        ("loss.full", "loss"),
        ("gradient.full.conv1.kernel", "conv1.kernel"),
        ("step.12.adam.m.conv1.kernel", "adam.m.conv1.kernel"),
        ("drop.drop1.0", "drop1"),
        ("trained.conv1.kernel", "conv1.kernel"),
        ("trained_logits", "trained_logits"),
    ],
)
def test_a_place_is_named_without_case_and_step(key, place):
    assert place_of(key) == place


def test_each_place_has_its_largest_gap_over_cases_and_steps():
    verdict = climb_with(
        lambda trace: moved("step.1.adam.m.dense.kernel", by=2e-13)(
            moved("step.2.adam.m.dense.kernel", by=5e-13)(moved("forced.dense", by=1e-13)(trace))
        )
    )
    assert verdict.passed
    near = {"rel": 1e-2, "abs": 0}
    assert gaps_of(verdict, "optimizer") == {
        "loss": 0,
        "weight.dense.kernel": 0,
        "adam.m.dense.kernel": pytest.approx(0.5, **near),
    }
    assert gaps_of(verdict, "layers") == {"dense": pytest.approx(0.1, **near)}
    assert gaps_of(verdict, "dropout") == {"drop": 0}
    assert set(gaps_of(verdict, "evaluation")) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for rung in ("data", "architecture"):
        assert verdict.rung(rung).report.gaps == ()


def test_a_gap_is_measured_by_the_limit_of_its_own_array():
    """Of two cases, the smaller gap is the worse where less is allowed."""
    wide = Tolerance("WIDE", 1.0, "made up", "nothing")
    terms = Terms("float64", lambda rung, key: wide if key == "point.dense" else ROUNDING)
    verdict = climb_with(
        lambda trace: moved("point.dense", by=0.1)(moved("forced.dense", by=5e-13)(trace)),
        terms=terms,
    )
    (gap,) = verdict.rung("layers").report.gaps
    assert (gap.place, gap.limit) == ("dense", 1e-12)
    assert gap.gap == pytest.approx(5e-13, rel=1e-2)


def test_what_is_expected_to_be_equal_has_no_limit():
    exact = Tolerance("EXACT", 0.0, "made up", "nothing")
    terms = Terms("float64", lambda rung, key: exact)
    verdict = climb_with(moved("forced.dense", by=1e-9), terms=terms)
    assert verdict.rung("gradients").report.gaps[0] == Gap("dense.kernel", 0.0, 0.0)
    (gap,) = verdict.rung("layers").report.gaps
    assert (gap.limit, verdict.rung("layers").status) == (0, "failed")
    assert gap.gap == pytest.approx(1e-9, rel=1e-2)


def test_of_many_places_those_nearest_to_their_limits_are_kept():
    def with_many(trace):
        arrays = {f"gradient.full.extra{n:02}": np.array([1.0 + n]) for n in range(60)}
        return dataclasses.replace(trace, arrays={**trace.arrays, **arrays})

    def change(trace):
        for number in range(60):
            trace = moved(f"gradient.full.extra{number:02}", by=number * 1e-14)(trace)
        return trace

    verdict = climb_with(change, both=with_many)
    assert verdict.passed
    gaps = verdict.rung("gradients").report.gaps
    assert [gap.place for gap in gaps] == [f"extra{n:02}" for n in range(60 - MAX_GAPS, 60)]


@pytest.mark.parametrize(
    ("key", "rung"),
    [
        ("point.dense", "layers"),
        ("forced.dense", "layers"),
        ("logits.full", "logits"),
        ("loss.full", "logits"),
        ("gradient.full.dense.kernel", "gradients"),
        ("gradient.full.input", "gradients"),
        ("step.1.weight.dense.kernel", "optimizer"),
        ("step.1.adam.m.dense.kernel", "optimizer"),
        ("step.2.loss", "optimizer"),
        ("drop.drop.0", "dropout"),
        ("drop_eval.drop", "dropout"),
        ("trained.dense.kernel", "training"),
        ("trained_logits", "training"),
    ],
)
@pytest.mark.parametrize("by", [1e-3, np.nan, np.inf])
def test_an_array_that_differs_fails_its_rung_alone(key, rung, by):
    verdict = climb_with(moved(key, by=by))
    assert not verdict.passed
    assert verdict.first_failure.name == rung
    assert [found.name for found in verdict.rungs if found.status == "failed"] == [rung]
    assert verdict.first_failure.report.findings[0].where.startswith(key)


@pytest.mark.parametrize(
    "key", ["point.dense", "loss.full", "gradient.full.input", "trained_logits"]
)
def test_nan_on_both_sides_fails(key):
    verdict = climb_with(both=moved(key, by=np.nan))
    assert verdict.first_failure is not None


@pytest.mark.parametrize("key", sorted(make_trace(make_question()).arrays))
def test_a_missing_array_fails(key):
    assert not climb_with(lambda trace: without_array(trace, key)).passed


@pytest.mark.parametrize(
    "key",
    [
        "point.dense",
        "forced.dense",
        "logits.full",
        "loss.full",
        "gradient.full.dense.kernel",
        "step.1.loss",
        "step.2.weight.dense.kernel",
        "trained.dense.kernel",
        "trained_logits",
        "validation_logits",
    ],
)
def test_an_array_missing_on_both_sides_fails(key):
    assert not climb_with(both=lambda trace: without_array(trace, key)).passed


@pytest.mark.parametrize(
    ("facts", "rung"),
    [
        ({"batches": []}, "data"),
        ({"layers": []}, "architecture"),
        ({"parameters": None}, "architecture"),
        ({"history": []}, "evaluation"),
    ],
)
def test_empty_facts_fail_on_one_side_and_on_both(facts, rung):
    assert climb_with(lambda trace: with_facts(trace, **facts)).first_failure.name == rung
    assert climb_with(both=lambda trace: with_facts(trace, **facts)).first_failure.name == rung


def test_a_batch_more_or_another_order_fails():
    def fed_more(trace):
        return with_facts(trace, batches=[*trace.facts["batches"], trace.facts["batches"][0]])

    def swapped(trace):
        return with_facts(trace, batches=trace.facts["batches"][::-1])

    assert climb_with(fed_more).first_failure.report.findings[0].where == "batches.train"
    assert climb_with(swapped).first_failure.name == "data"


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda t: with_array(t, "logits.full", np.ones((5, 2))), "the logits are constant"),
        (
            lambda t: with_array(t, "gradient.full.input", np.zeros((4, 3))),
            "the gradient is zero on both sides",
        ),
        (lambda t: with_array(t, "step.2.loss", 0.9), "the loss is flat"),
        (
            lambda t: with_array(t, "step.2.weight.dense.kernel", KERNEL),
            "the weights have not moved",
        ),
        (lambda t: with_array(t, "trained.dense.kernel", KERNEL), "the weights have not moved"),
    ],
)
def test_what_shows_nothing_fails(change, note):
    failure = climb_with(both=change).first_failure
    assert note in [found.note for found in failure.report.findings]


def test_a_trace_of_another_question_is_no_answer():
    question = make_question()
    stale = make_trace(make_question(settings={**question.settings, "steps": 3}))
    with pytest.raises(ValueError, match="left's trace answers another question"):
        climb(question, stale, make_trace(question), TERMS)


def test_a_question_that_no_rung_compares_is_refused():
    question = make_question(asks=("the weather",))
    with pytest.raises(ValueError, match="no rung compares what is asked: the weather"):
        climb(question, make_trace(question), make_trace(question), TERMS)


def test_what_an_engine_could_not_answer_fails():
    failed = {"forced.dense": "ValueError: shapes"}
    failure = climb_with(lambda trace: with_facts(trace, failed=failed)).first_failure
    assert failure.name == "layers"
    assert failure.report.findings[0].right == "ValueError: shapes"


def test_reported_metrics_are_worked_out_again():
    def lied(trace):
        row = {**trace.facts["history"][0], "val_loss": 0.123}
        return with_facts(trace, history=[row])

    failure = climb_with(both=lied).first_failure
    assert failure.name == "evaluation"
    assert failure.report.findings[0].where == "history.val_loss"
    assert failure.report.findings[0].note == "what left reports against what its logits give"


def test_dropout_that_scales_or_drops_otherwise_fails():
    def unscaled(trace):
        return with_array(trace, "drop_own.drop", (trace.arrays["drop_own.drop"] > 0) * 1.0)

    def too_much(trace):
        drawn = (np.arange(4000).reshape(40, 100) % 2 != 0) / 0.75
        return with_array(trace, "drop_own.drop", drawn)

    for change in (unscaled, too_much):
        failure = climb_with(change).first_failure
        assert failure.name == "dropout"
        assert "right" in failure.report.findings[0].note


def failed(number, name, cause=None):
    diagnoses = (Diagnosis(cause, "conv1", "a sentence"),) if cause else ()
    return RungResult(number, name, "failed", Report(1), diagnoses)


def verdict_of(*rungs):
    return Verdict("left", "right", "float64", "", rungs)


PASSED = verdict_of(
    RungResult(1, "layers", "passed", Report(1)),
    RungResult(2, "gradients", "passed", Report(1)),
    RungResult(3, "training", "passed", Report(1)),
)


@pytest.mark.parametrize(
    ("below", "stays", "statuses"),
    [
        ("passed", (), ["passed", "explained", "explained"]),
        ("passed", ("training",), ["passed", "explained", "failed"]),
        ("passed", ("gradients", "training"), ["passed", "failed", "failed"]),
        ("passed", ("gradients",), ["passed", "failed", "failed"]),
        ("failed", (), ["failed", "failed", "failed"]),
    ],
)
def test_gaps_from_gradients_on_are_explained_where_they_vanish_without_a_cause(
    below, stays, statuses
):
    layers = dataclasses.replace(PASSED.rungs[0], status=below)
    verdict = verdict_of(layers, failed(2, "gradients"), failed(3, "training"))
    without = verdict_of(
        *(failed(r.number, r.name) if r.name in stays else r for r in PASSED.rungs)
    )
    assert [rung.status for rung in explain(verdict, without, "ties").rungs] == statuses


def test_a_cause_that_was_found_elsewhere_is_named_on_its_rung():
    found = Diagnosis("epsilon 1 | 2", "conv1", "update")
    verdict = with_cause(verdict_of(failed(1, "layers"), failed(2, "optimizer")), "layers", found)
    assert [rung.diagnoses for rung in verdict.rungs] == [(found,), ()]
    assert with_cause(verdict, "layers", None).rung("layers").diagnoses == ()


def test_a_verdict_reads_as_text_and_as_plain_values():
    verdict = climb_with(moved("forced.dense", by=np.nan))
    text = "\n".join(verdict_lines(verdict))
    assert "left → right · float64" in text
    assert "4 layers         failed" in text
    assert "forced.dense[0, 0]" in text
    assert conclusion(verdict) in text
    assert "they part at rung 4, layers: forced.dense[0, 0]" in conclusion(verdict)
    plain = verdict_to_dict(verdict)
    assert plain["passed"] is False
    assert plain["rungs"][3]["findings"][0]["gap"] == "inf"
    assert plain["rungs"][3]["findings"][0]["right"] == "nan"
    assert plain["rungs"][3]["gaps"] == [{"place": "dense", "gap": "inf", "limit": 1e-12}]
    assert plain["rungs"][5]["gaps"][0] == {"place": "dense.kernel", "gap": 0.0, "limit": 1e-12}
    assert plain["rungs"][0]["gaps"] == []


def test_the_committed_climbs_say_how_far_each_place_is_from_its_limit():
    content = (ROOT / "results" / "proof" / "ladder.json").read_bytes()
    assert len(content) < 600_000
    rungs = [rung for climb in json.loads(content)["climbs"] for rung in climb["rungs"]]
    compared = [rung for rung in rungs if rung["worst"] is not None]
    assert len(compared) > 50
    for rung in compared:
        nearest = max(rung["gaps"], key=lambda each: each["gap"] / each["limit"])
        assert nearest["gap"] == rung["worst"]["gap"]
        assert (nearest["gap"] <= nearest["limit"]) == (rung["status"] == "passed")


def test_masks_that_come_again_in_a_training_fail():
    sums = np.arange(12).reshape(6, 2)
    both = {"both": lambda trace: with_array(trace, "drop_steps.drop", sums)}
    assert climb_with(**both).passed
    failure = climb_with(
        lambda trace: with_array(trace, "drop_steps.drop", sums[[0, 1, 2, 0, 1, 2]]), **both
    ).first_failure
    assert failure.name == "dropout"
    assert failure.report.findings[0].note == "right draws the mask of step 1 again in step 4"
    assert failure.diagnoses[0].cause == "dropout-masks-repeated"


def test_weights_at_seams_are_compared_in_their_order_and_must_be_there():
    question = make_question()
    question = dataclasses.replace(question, settings={**question.settings, "seams": [25, 30]})

    def with_seams(trace, steps=(25, 30)):
        for step in steps:
            trace = with_array(trace, f"seam.{step}.dense.kernel", KERNEL * step)
        return trace

    assert climb_with(both=with_seams, question=question).passed
    parted = climb_with(
        lambda trace: with_array(trace, "seam.30.dense.kernel", KERNEL * 25),
        both=with_seams,
        question=question,
    ).first_failure
    assert parted.report.findings[0].where.startswith("seam.30.dense.kernel")
    assert parted.diagnoses[0].cause == "steps-left-out"
    missing = climb_with(both=lambda trace: with_seams(trace, [25]), question=question)
    assert missing.first_failure.report.findings[0].where == "seam.30.dense.kernel"


def test_what_follows_from_a_rung_below_is_no_cause_of_its_own():
    def coarse(trace):
        key = "step.2.weight.dense.kernel"
        return with_array(trace, key, trace.arrays[key].astype(np.float32).astype(float))

    def coarse_and_more(trace):
        return with_array(coarse(trace), "logits.full", trace.arrays["logits.full"] + 1)

    alone = climb_with(coarse).rung("optimizer")
    assert [found.cause for found in alone.diagnoses] == ["float32-inside-float64"]
    verdict = climb_with(coarse_and_more)
    assert verdict.first_failure.name == "logits"
    assert verdict.rung("optimizer").status == "failed"
    assert verdict.rung("optimizer").diagnoses == ()


def test_a_gap_within_tolerance_is_no_evidence():
    def moved(trace):
        return with_array(trace, "trained.dense.kernel", trace.arrays["trained.dense.kernel"] + 1)

    wide = Tolerance("WIDE", absolute=1e-6, reason="made up", measured="nothing")
    loose = Terms("float64", lambda rung, key: wide)
    float32 = np.float64(np.float32(KERNEL / 7))

    def change(trace):
        return with_array(moved(trace), "gradient.full.dense.kernel", float32)

    for terms, causes in ((TERMS, ["float32-inside-float64"]), (loose, [])):
        verdict = climb_with(change, terms=terms)
        found = verdict.rung("training").diagnoses + verdict.rung("gradients").diagnoses
        assert [diagnosis.cause for diagnosis in found][:1] == causes


def test_causes_that_are_not_asked_for_are_not_looked_for(monkeypatch):
    """On a rung that stands on a failed one: what is not named there is not computed either."""
    looked = []
    found = {
        cause: lambda evidence, cause=cause: looked.append(cause) or Diagnosis(cause, "", "")
        for cause in ("a", "b")
    }
    listed = [(registry.Rank.FORMULA, frozenset({cause}), find) for cause, find in found.items()]
    monkeypatch.setitem(registry._BY_RUNG, "training", listed)
    evidence = registry.Evidence("training", make_question(), *[Trace("", "", {}, {})] * 2)
    assert [one.cause for one in registry.diagnose(evidence, among={"b", "c"})] == ["b"]
    assert looked == ["b"]
    assert [one.cause for one in registry.diagnose(evidence)] == ["a", "b"]
