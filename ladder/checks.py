"""What each rung of the ladder compares of two answers, and what it finds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ladder.arrays import Array, under
from ladder.causes.evaluation import drops_some
from ladder.compare import (
    EXACT,
    Difference,
    Tolerance,
    compare_arrays,
    compare_facts,
    largest,
    worst_place,
)
from ladder.exchange import Question, Trace
from ladder.statistics import compare_initialisation

MAX_FINDINGS = 20
"""Findings that a rung keeps: the first ones, in the order of what is compared."""

MAX_GAPS = 40
"""Gaps that a rung keeps: those nearest to their limits, in the order of what is compared."""

ARCHITECTURE = ("name", "kind", "output_shape", "parameters")
"""What a layer table's row is compared in."""


@dataclass(frozen=True)
class Terms:
    """What is allowed to differ, and by how much."""

    dtype: str
    """`float64` or `float32`."""
    tolerance: Callable[[str, str], Tolerance]
    """The tolerance of (rung, key)."""


@dataclass(frozen=True)
class Pair:
    """A question with the reference's answer, `left`, and the suspect's, `right`."""

    question: Question
    left: Trace
    right: Trace
    terms: Terms
    alike: set[str] = field(default_factory=set)
    """Keys of the arrays that have passed; a diagnosis has nothing to say of them."""


@dataclass(frozen=True)
class Gap:
    """How far apart two answers are at one place, where that is the largest share of the limit."""

    place: str
    """A layer, a parameter or a slot, as `place_of` names it, over all cases and steps."""
    gap: float
    """Largest |left − right| of the array that comes nearest to its limit."""
    limit: float
    """Largest |left − right| that passes in that array; 0 where the same bits are expected."""


@dataclass(frozen=True)
class Report:
    """What a rung's comparison found."""

    compared: int = 0
    """Values compared."""
    worst: Difference | None = None
    """The place whose gap is the largest share of what is allowed, also where it passes."""
    findings: tuple[Difference, ...] = ()
    gaps: tuple[Gap, ...] = ()
    """A gap for each place at which arrays were compared, 0 where they are equal; what is no array,
    such as a row of the layer table, has none."""


def check_data(pair: Pair) -> Report:
    """Compare the batches fed, one by one."""
    left, right = (side.facts.get("batches", []) for side in (pair.left, pair.right))
    if not left or not right:
        return Report(findings=(Difference("batches", len(left), len(right), "batches fed"),))
    found = _number_of_batches(left, right)
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        found += compare_facts(one, other, f"batches.{index}")
    return Report(len(left), findings=tuple(found[:MAX_FINDINGS]))


def _number_of_batches(left: Sequence[Any], right: Sequence[Any]) -> list[Difference]:
    stages = sorted({row["stage"] for row in [*left, *right]})
    counts = [
        {stage: sum(row["stage"] == stage for row in rows) for stage in stages}
        for rows in (left, right)
    ]
    return [
        Difference(f"batches.{stage}", counts[0][stage], counts[1][stage], "number of batches")
        for stage in stages
        if counts[0][stage] != counts[1][stage]
    ]


def check_architecture(pair: Pair) -> Report:
    """Compare the layer tables and the counts of parameters."""
    left, right = (_architecture(side) for side in (pair.left, pair.right))
    if not all(side["layers"] and side["parameters"] for side in (left, right)):
        rows = len(left["layers"]), len(right["layers"])
        return Report(findings=(Difference("layers", rows[0], rows[1], "rows read"),))
    compared = len(left["layers"]) * len(ARCHITECTURE) + 1
    return Report(compared, findings=tuple(compare_facts(left, right)))


def _architecture(side: Trace) -> dict[str, Any]:
    """Return layer classes, shapes and parameter counts."""
    rows = side.facts.get("layers") or []
    return {
        "layers": [{name: row.get(name) for name in ARCHITECTURE} for row in rows],
        "parameters": side.facts.get("parameters"),
    }


def check_initialisation(pair: Pair) -> Report:
    """Compare the distributions of first weights."""
    left, right = (under("own", side.arrays) for side in (pair.left, pair.right))
    if not left or not right:
        return Report(findings=(Difference("own", len(left), len(right), "arrays"),))
    differences = compare_initialisation(left, right)
    return Report(len(left), findings=tuple(differences))


def check_layers(pair: Pair) -> Report:
    """Compare each layer alone, then end to end."""
    names = [str(name) for name in pair.question.settings["points"]]
    forced = [f"forced.{name}" for name in names if f"input.{name}" in pair.question.arrays]
    points = [f"point.{name}" for name in names]
    asked = [
        key
        for ask, keys in (("forced", forced), ("points", points))
        for key in keys
        if ask in pair.question.asks
    ]
    # A layer that stands alone is guilty itself; end to end it may only pass an error on.
    return _compare_keys(pair, "layers", asked)


def check_logits(pair: Pair) -> Report:
    """Compare logits and loss of each case."""
    cases = [str(case) for case in pair.question.settings["cases"]]
    keys = [f"{kind}.{case}" for kind in ("logits", "loss") for case in cases]
    report = _compare_keys(pair, "logits", keys)
    constant = [key for key in keys if key.startswith("logits.") and _is_constant(pair, key)]
    return _add(report, [_vacuous(key, "the logits are constant") for key in constant])


def check_gradients(pair: Pair) -> Report:
    """Compare gradients of each case."""
    cases = [str(case) for case in pair.question.settings.get("gradient_cases", [])]
    expected = [f"gradient.{case}.{name}" for case in cases for name in _trained(pair)]
    keys = [*_keys(pair, "gradient."), *expected]
    report = _compare_keys(pair, "gradients", list(dict.fromkeys(keys)))
    zero = [
        key
        for key in _keys(pair, "gradient.")
        if all(_is_zero(side.arrays.get(key)) for side in (pair.left, pair.right))
    ]
    return _add(report, [_vacuous(key, "the gradient is zero on both sides") for key in zero])


def check_optimizer(pair: Pair) -> Report:
    """Compare weights and slots after each step."""
    num_steps = int(pair.question.settings["steps"])
    expected = [
        f"step.{step}.weight.{name}" for step in range(1, num_steps + 1) for name in _trained(pair)
    ]
    keys = list(dict.fromkeys([*_keys(pair, "step."), *expected]))
    keys.sort(key=lambda key: int(key.split(".")[1]))
    report = _compare_keys(pair, "optimizer", keys)
    vacuous = []
    for step in range(1, num_steps + 1):
        if f"step.{step}.loss" not in pair.left.arrays:
            vacuous.append(_vacuous(f"step.{step}.loss", "missing on the reference's side"))
    losses = [
        float(array)
        for key, array in pair.left.arrays.items()
        if key.startswith("step.") and key.endswith(".loss")
    ]
    if len(losses) > 1 and np.ptp(losses) == 0:
        vacuous.append(_vacuous("step.*.loss", "the loss is flat"))
    vacuous += [
        _vacuous(key, "the weights have not moved")
        for key in _keys(pair, f"step.{num_steps}.weight.")
        if _has_not_moved(pair, key, key.split(".weight.")[1])
    ]
    return _add(report, vacuous)


def check_dropout(pair: Pair) -> Report:
    """Compare what layers make of given masks, and look at their own draws."""
    keys = [*_keys(pair, "drop."), *_keys(pair, "drop_eval.")]
    report = _compare_keys(pair, "dropout", keys)
    own, steps = _keys(pair, "drop_own."), _keys(pair, "drop_steps.")
    findings = [found for key in own for found in _own_dropout(pair, key)]
    findings += [found for key in steps for found in _repeated_masks(pair, key)]
    return _add(replace(report, compared=report.compared + len(own) + len(steps)), findings)


def check_training(pair: Pair) -> Report:
    """Compare the state at each seam of a training and at its end."""
    # Where calls of several steps end, if that is asked for: the first to part says where.
    seams = [int(step) for step in pair.question.settings.get("seams", [])]
    expected = [f"seam.{step}.{name}" for step in seams for name in _trained(pair)]
    expected += [f"trained.{name}" for name in _trained(pair)]
    keys = list(dict.fromkeys([*expected, *_keys(pair, "trained."), "trained_logits"]))
    report = _compare_keys(pair, "training", keys)
    vacuous = [
        _vacuous(key, "the weights have not moved")
        for key in _keys(pair, "trained.")
        if _has_not_moved(pair, key, key.removeprefix("trained."))
    ]
    if _is_constant(pair, "trained_logits"):
        vacuous.append(_vacuous("trained_logits", "the logits are constant"))
    return _add(report, vacuous)


def check_evaluation(pair: Pair) -> Report:
    """Compare the epochs' metrics, and each side's with its own logits."""
    histories = [side.facts.get("history", []) for side in (pair.left, pair.right)]
    num_left, num_right = map(len, histories)
    if not num_left or num_left != num_right:
        return Report(findings=(Difference("history", num_left, num_right, "epochs"),))
    left, right = (
        {
            f"history.{name}": np.array([_number(row[name]) for row in history])
            for name in history[0]
            if name != "epoch" and not name.endswith("seconds")
        }
        for history in histories
    )
    report = _compare_arrays(pair, "evaluation", left, right, sorted(set(left) | set(right)))
    findings = [found for side in (pair.left, pair.right) for found in _recomputed(pair, side)]
    return _add(report, findings)


def _recomputed(pair: Pair, side: Trace) -> list[Difference]:
    """Compare an engine's last validation metrics with those that follow from its own logits."""
    logits = side.arrays.get("validation_logits")
    classes = side.arrays.get("validation_classes")
    if logits is None or classes is None:
        return [Difference("validation_logits", "there", "missing", side.engine)]
    if len(classes) != len(logits):
        note = f"{side.engine}'s validation images"
        return [Difference("validation_logits", len(classes), len(logits), note)]
    row = side.facts["history"][-1]
    expected = {
        "val_loss": cross_entropy(logits, classes),
        "val_accuracy": float((logits.argmax(axis=1) == classes).mean()),
    }
    found = []
    for name, value in expected.items():
        tolerance = pair.terms.tolerance("evaluation", f"history.{name}")
        left, right = np.array([value]), np.array([_number(row[name])])
        note = f"what {side.engine} reports against what its logits give"
        found += [
            replace(difference, where=f"history.{name}", note=note)
            for difference in compare_arrays({name: left}, {name: right}, tolerance)
        ]
    return found


def cross_entropy(logits: Array, classes: Array) -> float:
    """Return the mean −log softmax of logits (N, K) at `classes` (N,)."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sums - shifted[np.arange(len(classes)), classes]).mean())


def _own_dropout(pair: Pair, key: str) -> list[Difference]:
    """Check that a framework's own draw on ones is 0 or 1/(1 − rate), in the right shares."""
    layer = key.removeprefix("drop_own.")
    found = []
    for side in (pair.left, pair.right):
        drawn, kept = (side.arrays.get(name) for name in (key, f"drop.{layer}.0"))
        if drawn is None or kept is None:
            found.append(Difference(key, "there", "missing", side.engine))
            continue
        scale = largest(kept)
        if not scale >= 1:
            note = f"{side.engine} scales what it keeps by {scale:.6g}"
            found.append(Difference(key, "1 or more", scale, note))
            continue
        values = np.unique(drawn)
        if not np.isin(values, [0.0, scale]).all():
            note = f"{side.engine}'s own draw on ones; expected 0 or {scale:.6g}"
            found.append(Difference(key, [0.0, scale], [float(v) for v in values[:4]], note))
            continue
        rate, share = 1 - 1 / scale, float((drawn == 0).mean())
        deviations = abs(share - rate) / np.sqrt(max(rate * (1 - rate), 1e-9) / drawn.size)
        if deviations > 6:
            note = f"share that {side.engine} drops, {deviations:.0f} standard deviations off"
            found.append(Difference(key, rate, share, note))
        elif drawn.ndim == 4 and share > 0 and (drawn == drawn[:, :1, :1]).all():
            note = f"{side.engine} drops whole channels"
            found.append(Difference(key, "single values", "whole channels", note))
    return found


def _repeated_masks(pair: Pair, key: str) -> list[Difference]:
    """Check that no two steps of a training draw the same mask, by the sums over each."""
    found = []
    for side in (pair.left, pair.right):
        if key not in side.arrays:
            found.append(Difference(key, "there", "missing", side.engine))
            continue
        if not drops_some(side.arrays.get(key.replace("drop_steps.", "drop_own."))):
            continue  # what keeps all or nothing has one mask; its own draw shows that
        sums = side.arrays[key]
        first: dict[tuple[int, ...], int] = {}
        for step, row in enumerate(sums.tolist(), start=1):
            earlier = first.setdefault(tuple(row), step)
            if earlier != step:
                note = f"{side.engine} draws the mask of step {earlier} again in step {step}"
                found.append(Difference(key, len(sums), len(np.unique(sums, axis=0)), note))
                break
    return found


def _trained(pair: Pair) -> list[str]:
    """Return the parameters that the question gives weights of."""
    return [key.removeprefix("weights.") for key in pair.question.arrays if key[:8] == "weights."]


def _keys(pair: Pair, prefix: str) -> list[str]:
    """Return the keys that either side has, in the order of their making."""
    keys = [*pair.left.arrays, *pair.right.arrays]
    return list(dict.fromkeys(key for key in keys if key.startswith(prefix)))


def _compare_keys(pair: Pair, rung: str, keys: Sequence[str]) -> Report:
    left, right = (
        {key: side.arrays[key] for key in keys if key in side.arrays}
        for side in (pair.left, pair.right)
    )
    return _compare_arrays(pair, rung, left, right, keys)


def _compare_arrays(
    pair: Pair,
    rung: str,
    left: Mapping[str, Array],
    right: Mapping[str, Array],
    keys: Sequence[str],
) -> Report:
    """Compare by key, each with its own tolerance; findings stand in the order of `keys`."""
    findings: list[Difference] = []
    gaps: dict[str, tuple[float, Gap]] = {}
    worst: Difference | None = None
    share = 0.0
    compared = 0
    for key in keys:
        one, other = left.get(key), right.get(key)
        if one is None and other is None:
            findings.append(Difference(key, "missing", "missing"))
            continue
        tolerance = EXACT
        if one is not None and other is not None and one.shape == other.shape and one.size:
            compared += one.size
            tolerance = pair.terms.tolerance(rung, key)
            place = worst_place(key, one, other)
            allowed = tolerance.allowed(largest(one))
            place_share = place.gap / allowed if allowed else place.ulps
            if worst is None or place_share > share:
                worst, share = place, place_share
            name = place_of(key)
            if name not in gaps or place_share > gaps[name][0]:
                gaps[name] = place_share, Gap(name, place.gap, allowed)
        present = ({key: array} if array is not None else {} for array in (one, other))
        parted = compare_arrays(next(present), next(present), tolerance)
        if not parted:
            pair.alike.add(key)
        findings += parted
    return Report(compared, worst, tuple(findings[:MAX_FINDINGS]), _nearest(gaps))


def place_of(key: str) -> str:
    """Return an array's name without kind, case and step.

    `conv1` of `point.conv1`, `conv1.bias` of `gradient.full.conv1.bias`, `adam.m.conv1.bias` of
    `step.3.adam.m.conv1.bias`, `conv1.bias` of `seam.25.conv1.bias`, `drop1` of `drop.drop1.0`,
    `loss` of `history.loss`, and `logits` of `logits.full`.
    """
    kind, *rest = key.split(".")
    if kind in ("logits", "loss"):
        return kind
    if kind in ("gradient", "step", "seam"):
        rest = rest[1:]
    elif kind == "drop":
        rest = rest[:-1]
    return ".".join(rest) or key


def _nearest(gaps: Mapping[str, tuple[float, Gap]]) -> tuple[Gap, ...]:
    """Return the gaps that are the largest shares of their limits, in the order given."""
    kept = sorted(gaps, key=lambda name: gaps[name][0], reverse=True)[:MAX_GAPS]
    return tuple(gap for name, (_, gap) in gaps.items() if name in kept)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _is_zero(array: Array | None) -> bool:
    return array is not None and not array.any()


def _is_constant(pair: Pair, key: str) -> bool:
    array = pair.left.arrays.get(key)
    return array is not None and array.size > 1 and np.ptp(array) == 0


def _has_not_moved(pair: Pair, key: str, parameter: str) -> bool:
    first = pair.question.arrays.get(f"weights.{parameter}")
    arrays = [side.arrays.get(key) for side in (pair.left, pair.right)]
    return first is not None and all(
        array is not None and array.shape == first.shape and np.array_equal(array, first)
        for array in arrays
    )


def _vacuous(where: str, note: str) -> Difference:
    return Difference(where, "nothing", "nothing", note)


def _add(report: Report, findings: Sequence[Difference]) -> Report:
    return replace(report, findings=(*report.findings, *findings))
