"""Causes seen in gradients: in those asked for, and in those that the first step's slots hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ladder.causes.fits import (
    Fit,
    Triple,
    agree,
    distance,
    fit,
    is_near,
    nice,
    number,
    precision_of,
    proportion,
    size_of,
)
from ladder.causes.formulas import Mode, Row, Run, run
from ladder.causes.loss import Formula, cross_entropy, hypotheses, one_hot
from ladder.causes.reading import (
    MAX_IMAGES,
    Steps,
    batch_size,
    cases,
    join,
    optimizer_settings,
    reference_rows,
    scaled,
    under,
)
from ladder.causes.registry import Diagnosis, Evidence, Rank, UnexaminableError, detects
from ladder.causes.updates import read_updates
from ladder.exchange import Array, Arrays

RUNGS = ("gradients", "optimizer", "training")
TIE_WORDS = {
    "last": "the last of them",
    "shared": "all of them in equal shares",
    "every": "each of them in full",
}
FIRST_STEP = "step 1"
WEIGHTED = ("convolution", "dense")


@dataclass(frozen=True)
class GradientCase:
    """One batch's gradients on both sides, by parameter (and `input`)."""

    name: str
    left: Arrays
    right: Arrays
    size: int | None
    """Images in the batch, where it is known."""
    num_classes: int | None
    left_loss: float | None
    right_loss: float | None


def gradient_cases(evidence: Evidence) -> list[GradientCase]:
    """Return the gradients of each case, or of the first step where none was asked.

    Raises:
        UnexaminableError: there are none.
    """
    found = [_case(evidence, name) for name in _names(evidence)] or [_first_step(evidence)]
    if not found[0].left:
        raise UnexaminableError("no gradients")
    return [case for case in found if case.left]


def _names(evidence: Evidence) -> list[str]:
    ordered = list(evidence.question.settings.get("gradient_cases", cases(evidence.question)))
    return [name for name in ordered if under(f"gradient.{name}", evidence.left.arrays)]


def _case(evidence: Evidence, name: str) -> GradientCase:
    left, right = (
        under(f"gradient.{name}", trace.arrays) for trace in (evidence.left, evidence.right)
    )
    losses = [side.pop("loss", None) for side in (left, right)]
    labels = evidence.question.arrays.get(f"labels.{name}")
    return GradientCase(
        name, left, right,
        size=None if labels is None else len(labels),
        num_classes=_num_classes(evidence, left),
        left_loss=_scalar(losses[0]), right_loss=_scalar(losses[1]),
    )  # fmt: skip


def _num_classes(evidence: Evidence, gradients: Arrays) -> int | None:
    rows = [*(evidence.left.facts.get("layers") or []), *(evidence.right.facts.get("layers") or [])]
    last = gradients.get(f"{rows[-1]['name']}.bias") if rows else None
    return None if last is None else len(last)


def _scalar(array: Array | None) -> float | None:
    return None if array is None else float(array.reshape(-1)[0])


def _first_step(evidence: Evidence) -> GradientCase:
    beta_1 = float(optimizer_settings(evidence)["beta_1"])
    sides = [Steps(trace.arrays, {}) for trace in (evidence.left, evidence.right)]
    if 1 not in sides[0].numbers or 1 not in sides[1].numbers:
        raise UnexaminableError("no gradients")
    left, right = (side.gradients(1, beta_1) for side in sides)
    # A side whose β₂ is its own has another v for the same gradient; only v tells a scaled
    # gradient from another β₁.
    for name, v in sides[1].slot("v", 1).items():
        if name in left and not _matches(sides[0].slot("v", 1)[name], v, left[name], right[name]):
            raise UnexaminableError("the slots are not those of one gradient")
    return GradientCase(
        FIRST_STEP, left, right, batch_size(evidence), None, sides[0].loss(1), sides[1].loss(1)
    )


def _matches(left_v: Array, right_v: Array, left: Array, right: Array) -> bool:
    """Return whether v differs as the gradients' squares do."""
    expected = np.asarray(left_v, np.float64) * np.asarray(right, np.float64) ** 2
    received = np.asarray(right_v, np.float64) * np.asarray(left, np.float64) ** 2
    allowed = 1e-4 if precision_of(left_v, right_v).computed > 1e-6 else 1e-8
    return distance(expected, received) <= allowed * max(size_of(expected), size_of(received))


def shared_names(case: GradientCase) -> list[str]:
    """Return the names of the parameters of which both sides have a gradient."""
    return [
        name
        for name in case.left
        if name in case.right and case.left[name].shape == case.right[name].shape
    ]


@detects("loss-sum", "mean-over-classes", "loss-scaled", on=RUNGS)
def scaled_loss(evidence: Evidence) -> Diagnosis | None:
    """Recognise gradients that are all one multiple of the reference's, case by case."""
    ratios = []
    for case in gradient_cases(evidence):
        names = shared_names(case)
        if len(names) < len(case.left):
            return None
        ratio = proportion([case.left[n] for n in names], [case.right[n] for n in names])
        if ratio is None:
            return None
        ratios.append((case, ratio))
    if all(is_near(ratio, 1, 1e-6) for _, ratio in ratios):
        return None
    return _name_scale(ratios)


def _name_scale(ratios: Sequence[tuple[GradientCase, float]]) -> Diagnosis | None:
    share = 1e-4
    case, ratio = max(ratios, key=lambda item: abs(item[1] - 1))
    # Clipping scales a gradient too, but leaves the loss as it is.
    is_loss = all(
        one.left_loss is None or one.right_loss is None
        or is_near(one.right_loss, r * one.left_loss, share)
        for one, r in ratios
    )  # fmt: skip
    if not is_loss:
        return None
    words = f"{case.name}: every gradient is {number(ratio)} times the reference's"
    if all(one.size is not None and is_near(r, one.size, share) for one, r in ratios):
        text = f"{words}: the loss is summed over the batch of {case.size}"
        return Diagnosis("loss-sum", "loss", text)
    if all(
        one.size is not None and one.num_classes and is_near(r, one.size * one.num_classes, share)
        for one, r in ratios
    ):
        return Diagnosis("loss-sum", "loss", f"{words}: the loss is summed over batch and classes")
    if all(one.num_classes and is_near(r, 1 / one.num_classes, share) for one, r in ratios):
        text = f"{words}: the loss is averaged over the {case.num_classes} classes too"
        return Diagnosis("mean-over-classes", "loss", text)
    is_told = case.left_loss is not None and case.right_loss is not None
    if is_told:
        return Diagnosis("loss-scaled", "loss", f"{words}, and so is the loss")
    return None


@dataclass(frozen=True)
class Recomputed:
    """A case run through the network in NumPy, in training mode."""

    case: GradientCase
    ran: Run
    targets: Array
    rows: Sequence[Row]
    weights: Arrays


def recompute(
    evidence: Evidence, ties: str = "first", is_zero_positive: bool = False
) -> list[Recomputed]:
    """Return each case of at most `MAX_IMAGES` images, run with the question's weights."""
    rows = reference_rows(evidence)
    weights = under("weights", evidence.question.arrays)
    found = []
    for name in _names(evidence):
        images = scaled(evidence.question.arrays[f"images.{name}"])
        if len(images) > MAX_IMAGES:
            continue
        masks = under_drops(evidence, rows)
        mode = Mode(True, masks, ties=ties, is_zero_positive=is_zero_positive)
        ran = run(rows, weights, images, mode)
        targets = one_hot(evidence.question.arrays[f"labels.{name}"], ran.last.shape[1])
        found.append(Recomputed(_case(evidence, name), ran, targets, rows, weights))
    if not found:
        raise UnexaminableError("no case to compute gradients of")
    return found


def under_drops(evidence: Evidence, rows: Sequence[Row]) -> dict[str, Array]:
    """Return the masks of the first step that the reference shows, by layer."""
    arrays = evidence.left.arrays
    names = [row["name"] for row in rows if f"drop.{row['name']}.0" in arrays]
    return {name: arrays[f"drop.{name}.0"] for name in names}


@detects(
    "loss-sum", "softmax-before-loss", "clipped-probabilities", "mean-over-classes",
    "log-softmax-missing", "label-smoothing", "labels-shifted", "labels-permuted",
    on=("gradients",),
)  # fmt: skip
def other_loss_gradient(evidence: Evidence) -> list[Diagnosis]:
    """Recognise another loss by the gradients of the last layer, which need only its input."""
    known = recompute(evidence)
    last = known[0].rows[-1]
    if last["kind"] != "dense":
        raise UnexaminableError("the last layer is not dense")
    own = _last_gradients(known, cross_entropy)
    if not all(left is not None and agree(value, left) for value, left, _ in own):
        raise UnexaminableError("the reference's gradients are not those of its cross-entropy")
    found = []
    for hypothesis in hypotheses():
        fitted = fit(_last_gradients(known, hypothesis.formula))
        if fitted:
            sentence = f"{last['name']}: {hypothesis.words}: its gradients are those; {fitted}"
            found.append(Diagnosis(hypothesis.cause, "loss", sentence))
    return found


def _last_gradients(known: Sequence[Recomputed], formula: Formula) -> list[Triple]:
    """Return the last layer's gradients under a loss, the reference's and the suspect's."""
    last, triples = known[0].rows[-1]["name"], []
    for one in known:
        _, gradient = formula(one.ran.last, one.targets)
        values = {
            f"{last}.kernel": one.ran.inputs[last].T @ gradient,
            f"{last}.bias": gradient.sum(0),
        }
        triples += [
            (value, one.case.left.get(name), one.case.right[name])
            for name, value in values.items()
            if name in one.case.right
        ]
    return triples


@detects("zero-gradient", "frozen-layer", "frozen-bias", on=("gradients",), rank=Rank.PATTERN)
def no_gradient(evidence: Evidence) -> list[Diagnosis]:
    """Recognise parameters without a gradient where the reference has one."""
    found = []
    known = gradient_cases(evidence)
    contract = evidence.right.facts.get("contract") or {}
    is_trained = "frozen" in contract and not contract["frozen"]
    is_cut = is_trained or any(_is_cut(case) for case in known)
    for case in known:
        if case.right_loss is None and not case.right:
            continue  # no gradient was computed at all
        alive = [name for name, value in case.left.items() if value.any() and name != "input"]
        dead = [name for name in alive if name not in case.right or not np.any(case.right[name])]
        found += _name_dead(case, alive, dead, is_cut)
    return found


def _is_cut(case: GradientCase) -> bool:
    """Return whether nothing comes to the input, as a frozen layer lets it."""
    return bool(np.any(case.left.get("input", 0)) and not np.any(case.right.get("input", 0)))


def _name_dead(
    case: GradientCase, alive: list[str], dead: list[str], is_cut: bool
) -> list[Diagnosis]:
    if not dead:
        return []
    others = [name for name in alive if name not in dead]
    is_rest_right = all(agree(case.left[name], case.right[name]) for name in others)
    if others and is_rest_right and not is_cut:
        layers = sorted({name.rpartition(".")[0] for name in dead})
        words = f"{case.name}: no gradient for {join(dead)}; all others are the reference's"
        cause = "frozen-bias" if all(name.endswith(".bias") for name in dead) else "frozen-layer"
        return [Diagnosis(cause, join(layers), words)]
    words = f"{case.name}: the gradient is zero for {join(dead)}"
    if not others:
        words = f"{case.name}: every gradient is zero"
    return [Diagnosis("zero-gradient", join(dead), words)]


@detects("gradient-accumulation", on=("gradients",))
def gradients_of_earlier_cases(evidence: Evidence) -> Diagnosis | None:
    """Recognise gradients to which those of the batches before were added."""
    known = gradient_cases(evidence)
    triples, total = [], dict.fromkeys(known[0].left, np.zeros(()))
    for case in known:
        total = {name: total[name] + case.left[name] for name in total if name != "input"}
        triples += [(total[name], case.left[name], case.right[name]) for name in total]
    fitted = fit(triples)
    if not fitted or len(known) < 2:
        return None
    sentence = "each batch's gradient is added to those of the batches before it: gradients are "
    return Diagnosis("gradient-accumulation", "gradients", f"{sentence}not set to zero; {fitted}")


@detects("coupled-weight-decay", on=RUNGS, rank=Rank.FITTED)
def decay_in_the_gradient(evidence: Evidence) -> Diagnosis | None:
    """Recognise gradients that hold a multiple of the weights."""
    known = gradient_cases(evidence)
    is_step = known[0].name == FIRST_STEP
    asked = under("weights", evidence.question.arrays)
    weights = dict(read_updates(evidence).left.first) if is_step else asked
    shares, fits = [], []
    for case in known:
        moved = [
            name for name in shared_names(case)
            if name in weights and weights[name].any() and name.endswith(".kernel")
        ]  # fmt: skip
        rests = [_double(case.right[name]) - case.left[name] for name in moved]
        share = _multiple([_double(weights[name]) for name in moved], rests)
        if share is None:
            return None
        share, fitted = _typed_share(case, weights, moved, share)
        fits.append(fitted)
        shares.append(share)
    if not shares or None in fits or not all(is_near(share, shares[0], 1e-3) for share in shares):
        return None
    if abs(shares[0]) < 1e-9:
        return None
    words = f"{number(shares[0])} times the weight is added to each kernel's gradient: weight "
    return Diagnosis("coupled-weight-decay", "kernels", f"{words}decay inside the loss; {fits[0]}")


def _typed_share(
    case: GradientCase, weights: Arrays, moved: Sequence[str], share: float
) -> tuple[float, Fit | None]:
    """Return the share as it was typed, as it is in float32, or as it shows itself; and its fit."""
    typed = nice(share, 1e-4)
    for tried in [share] if typed is None else [typed, float(np.float32(typed)), share]:
        fitted = fit(
            (case.left[name] + tried * _double(weights[name]), case.left[name], case.right[name])
            for name in moved
        )
        if fitted:
            return tried, fitted
    return share, None


def _double(array: Array) -> Array:
    return np.asarray(array, np.float64)


def _multiple(left: Sequence[Array], right: Sequence[Array]) -> float | None:
    square = sum(float(np.vdot(a, a)) for a in left)
    product = sum(float(np.vdot(a, b)) for a, b in zip(left, right, strict=True))
    return product / square if square > 0 else None


def fit_gradients(known: Sequence[Recomputed]) -> Fit | None:
    """Return how well recomputed gradients are the suspect's, or None where they are not."""
    triples = []
    for one in known:
        _, gradient = cross_entropy(one.ran.last, one.targets)
        values = one.ran.gradients(gradient)
        triples += [
            (values[name], one.case.left[name], one.case.right[name])
            for name in shared_names(one.case)
            if name in values
        ]
    return fit(triples)


def are_gradients(known: Sequence[Recomputed]) -> bool:
    """Return whether the formulas give the reference's gradients of its parameters."""
    for one in known:
        values = one.ran.gradients(cross_entropy(one.ran.last, one.targets)[1])
        names = [name for name in one.case.left if name in values and name != "input"]
        if not all(agree(values[name], one.case.left[name]) for name in names):
            return False
    return True
