"""The ladder: two engines' answers to one question, compared rung by rung.

Each rung stands on the ones below it: where the data differ, so will the training. So the first
rung that fails is the one to look at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ladder.arrays import Array
from ladder.causes import Diagnosis, Evidence, diagnose
from ladder.checks import (
    Pair,
    Report,
    Terms,
    check_architecture,
    check_data,
    check_dropout,
    check_evaluation,
    check_gradients,
    check_initialisation,
    check_layers,
    check_logits,
    check_optimizer,
    check_training,
)
from ladder.compare import Difference
from ladder.exchange import Question, Trace

NUMBERS = ("data", "layers", "logits", "gradients", "optimizer", "dropout", "training")
STANDS_ON = {
    "logits": ("layers",),
    "gradients": ("layers", "logits"),
    "optimizer": ("data", "layers", "logits", "gradients"),
    "training": NUMBERS[:-1],
    "evaluation": NUMBERS,
}
"""Rungs whose numbers a rung's own are made from: what parts there goes on to it."""
ABOVE_GRADIENTS = ("gradients", "optimizer", "training", "evaluation")
NETWORK = ("architecture", "initialisation", "layers", "logits", "gradients", "optimizer")
"""Rungs of what portproof can be asked about: the network, its loss and its optimizer."""

PASSED, FAILED, EXPLAINED, SKIPPED = "passed", "failed", "explained", "skipped"


@dataclass(frozen=True)
class RungResult:
    """What came of one rung."""

    number: int
    name: str
    status: str
    """`passed`, `failed`, `explained` (fails by a cause that was taken away) or `skipped`."""
    report: Report = field(default_factory=Report)
    diagnoses: tuple[Diagnosis, ...] = ()
    reason: str = ""
    """Why it was skipped, or what explains it."""


@dataclass(frozen=True)
class Verdict:
    """What came of a climb."""

    left: str
    right: str
    dtype: str
    title: str
    rungs: tuple[RungResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no rung failed and at least one passed."""
        statuses = {rung.status for rung in self.rungs}
        return FAILED not in statuses and PASSED in statuses

    @property
    def first_failure(self) -> RungResult | None:
        """The first rung that failed."""
        return next((rung for rung in self.rungs if rung.status == FAILED), None)

    def rung(self, name: str) -> RungResult:
        """Return the result of the rung called `name`."""
        return next(rung for rung in self.rungs if rung.name == name)


@dataclass(frozen=True)
class Rung:
    """One comparison of the ladder."""

    name: str
    asks: tuple[str, ...]
    """Parts of a trace that it compares; without any of them the rung is skipped."""
    check: Callable[[Pair], Report]


def climb(question: Question, left: Trace, right: Trace, terms: Terms, title: str = "") -> Verdict:
    """Compare the reference's answer `left` with `right`, rung by rung.

    Raises:
        ValueError: a trace answers another question, or no rung is asked for.
    """
    for trace in (left, right):
        if trace.question != question.identity:
            raise ValueError(f"{trace.engine}'s trace answers another question")
    pair = Pair(question, left, right, terms)
    results: list[RungResult] = []
    for number, rung in enumerate(RUNGS, start=1):
        result = _climb_rung(number, rung, pair)
        if result.status == FAILED:
            result = _diagnosed(result, results, pair)
        results.append(result)
    if all(result.status == SKIPPED for result in results):
        raise ValueError(f"no rung compares what is asked: {', '.join(question.asks) or 'nothing'}")
    return Verdict(left.engine, right.engine, terms.dtype, title, tuple(results))


def explain(verdict: Verdict, without: Verdict, cause: str) -> Verdict:
    """Let rungs that fail, from gradients on, count as explained where they pass `without` a cause.

    Whatever fails below gradients is not by the cause, and explains nothing; where one stays
    without it, so does all above: a gap spreads upwards.
    """
    results: list[RungResult] = []
    is_open = True
    for rung in verdict.rungs:
        has_failed = rung.status == FAILED
        vanishes = without.rung(rung.name).status == PASSED and rung.name in ABOVE_GRADIENTS
        is_open = is_open and (not has_failed or vanishes)
        reason = f"{cause}: without it this rung passes"
        is_explained = has_failed and is_open
        results.append(replace(rung, status=EXPLAINED, reason=reason) if is_explained else rung)
    return replace(verdict, rungs=tuple(results))


def with_cause(verdict: Verdict, name: str, found: Diagnosis | None, reason: str = "") -> Verdict:
    """Return a verdict that names a cause of what fails on the rung `name`, or why it has none."""
    named = (found,) if found else ()
    rungs = (
        replace(rung, diagnoses=named, reason=reason) if rung.name == name else rung
        for rung in verdict.rungs
    )
    return replace(verdict, rungs=tuple(rungs))


def _climb_rung(number: int, rung: Rung, pair: Pair) -> RungResult:
    if not set(rung.asks) & set(pair.question.asks):
        return RungResult(number, rung.name, SKIPPED, reason="not asked for")
    report = _with_failures(rung, pair, rung.check(pair))
    if report.compared == 0 and not report.findings:
        nothing = Difference(rung.name, "nothing", "nothing", "nothing was compared")
        report = replace(report, findings=(nothing,))
    if not report.findings:
        return RungResult(number, rung.name, PASSED, report)
    return RungResult(number, rung.name, FAILED, report)


def _diagnosed(result: RungResult, before: Sequence[RungResult], pair: Pair) -> RungResult:
    """Add the causes that explain a failed rung.

    Where a rung that it stands on has failed, the gap comes from there: then only a cause that is
    named there already is named again, as its numbers bear out.
    """
    right = replace(pair.right, arrays=_without_rounding(pair))
    evidence = Evidence(result.name, pair.question, pair.left, right)
    failed = [rung for rung in before if rung.status == FAILED]
    if any(rung.name in STANDS_ON.get(result.name, ()) for rung in failed):
        named = {diagnosis.cause for rung in failed for diagnosis in rung.diagnoses}
        found = diagnose(evidence, among=named)
    else:
        found = diagnose(evidence)
    return replace(result, diagnoses=tuple(found))


def _without_rounding(pair: Pair) -> dict[str, Array]:
    """Return the suspect's arrays, those that pass replaced by the reference's."""
    left = pair.left.arrays
    return {
        key: left[key] if key in pair.alike else array for key, array in pair.right.arrays.items()
    }


def _with_failures(rung: Rung, pair: Pair, report: Report) -> Report:
    """Add what an engine says it could not answer of this rung."""
    failures = [
        Difference(key, *(side.facts.get("failed", {}).get(key, "answered") for side in sides))
        for sides in [(pair.left, pair.right)]
        for key in sorted({key for side in sides for key in side.facts.get("failed", {})})
        if key.split(".")[0] in {*rung.asks, *_PREFIXES.get(rung.name, ())}
    ]
    return replace(report, findings=(*failures, *report.findings))


_PREFIXES = {
    "layers": ("point", "forced"),
    "logits": ("logits", "loss"),
    "gradients": ("gradient",),
    "optimizer": ("step",),
    "dropout": ("drop", "drop_eval", "drop_own", "drop_steps"),
    "training": ("trained", "seam"),
}

RUNGS = (
    Rung("data", ("batches",), check_data),
    Rung("architecture", ("layers",), check_architecture),
    Rung("initialisation", ("own_weights",), check_initialisation),
    Rung("layers", ("points", "forced"), check_layers),
    Rung("logits", ("cases",), check_logits),
    Rung("gradients", ("gradients",), check_gradients),
    Rung("optimizer", ("steps",), check_optimizer),
    Rung("dropout", ("dropout",), check_dropout),
    Rung("training", ("training",), check_training),
    Rung("evaluation", ("training",), check_evaluation),
)
