"""Causes in the loss: each as a formula of logits and classes, with its gradient."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ladder.causes.fits import Fit, agree, fit, nice, number, precision_of
from ladder.causes.formulas import log_softmax, softmax, softmax_backward
from ladder.causes.reading import cases
from ladder.causes.registry import Diagnosis, Evidence, Rank, UnexaminableError, detects
from ladder.exchange import Array

KERAS_EPSILON = 1e-7
"""Where Keras's backends clip probabilities."""
KNOWN_SMOOTHINGS = (0.1, 0.05, 0.2, 0.01)

Formula = Callable[[Array, Array], tuple[float, Array]]
"""From logits (B, C) and one-hot targets (B, C) to the loss and the logits' gradient."""


@dataclass(frozen=True)
class LossHypothesis:
    """Another loss than the mean cross-entropy of logits."""

    cause: str
    words: str
    formula: Formula


def cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the batch's mean cross-entropy and its gradient."""
    logs = log_softmax(logits)
    gradient = np.exp(logs) * targets.sum(-1, keepdims=True) - targets
    return float(-(targets * logs).sum(-1).mean()), gradient / len(logits)


def summed(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the batch's summed cross-entropy."""
    loss, gradient = cross_entropy(logits, targets)
    return loss * len(logits), gradient * len(logits)


def over_classes(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the cross-entropy divided by the number of classes too."""
    loss, gradient = cross_entropy(logits, targets)
    return loss / logits.shape[1], gradient / logits.shape[1]


def softmax_first(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the cross-entropy of a softmax's output, taken for logits."""
    shares = softmax(logits)
    loss, gradient = cross_entropy(shares, targets)
    return loss, softmax_backward(shares, gradient)


def clipped(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the cross-entropy of probabilities clipped as Keras does: no gradient beyond."""
    shares = softmax(logits)
    kept = np.clip(shares, KERAS_EPSILON, 1 - KERAS_EPSILON)
    gradient = np.where(kept == shares, -targets / np.maximum(kept, KERAS_EPSILON), 0.0)
    loss = float(-(targets * np.log(kept)).sum(-1).mean())
    return loss, softmax_backward(shares, gradient / len(logits))


def unnormalised(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the negative logit of the target, as where a log-softmax is missing."""
    return float(-(targets * logits).sum(-1).mean()), -targets / len(logits)


def binary_mean(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the mean binary cross-entropy over batch and classes."""
    losses = np.logaddexp(0, logits) - targets * logits
    gradient = 1 / (1 + np.exp(-logits)) - targets
    return float(losses.mean()), gradient / logits.size


def binary_sum(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the binary cross-entropy summed over classes, its mean over the batch."""
    loss, gradient = binary_mean(logits, targets)
    return loss * logits.shape[1], gradient * logits.shape[1]


def smoothed(share: float) -> Formula:
    """Return the cross-entropy with labels smoothed by `share`."""

    def formula(logits: Array, targets: Array) -> tuple[float, Array]:
        return cross_entropy(logits, (1 - share) * targets + share / logits.shape[1])

    return formula


def relabelled(change: Callable[[Array], Array]) -> Formula:
    """Return the cross-entropy with changed targets."""
    return lambda logits, targets: cross_entropy(logits, change(targets))


def hypotheses() -> Iterator[LossHypothesis]:
    """Yield the losses without a free number."""
    yield LossHypothesis("loss-sum", "the loss is summed over the batch", summed)
    words = "a softmax stands before a loss that takes logits"
    yield LossHypothesis("softmax-before-loss", words, softmax_first)
    words = f"the loss takes probabilities clipped to [{KERAS_EPSILON:g}, 1 − {KERAS_EPSILON:g}]"
    yield LossHypothesis("clipped-probabilities", words, clipped)
    words = "the loss is averaged over the classes too"
    yield LossHypothesis("mean-over-classes", words, over_classes)
    words = "the loss is binary cross-entropy, class by class, averaged over the classes"
    yield LossHypothesis("mean-over-classes", words, binary_mean)
    words = "the loss is binary cross-entropy, summed over the classes"
    yield LossHypothesis("mean-over-classes", words, binary_sum)
    words = "the loss takes log-probabilities and is given logits"
    yield LossHypothesis("log-softmax-missing", words, unnormalised)
    for share in KNOWN_SMOOTHINGS:
        words = f"labels are smoothed by {share:g}"
        yield LossHypothesis("label-smoothing", words, smoothed(share))
    yield from _label_hypotheses()


def _label_hypotheses() -> Iterator[LossHypothesis]:
    for shift in (1, -1):
        words = f"every label is class {shift:+d}, counted around"
        formula = relabelled(partial(np.roll, shift=shift, axis=1))
        yield LossHypothesis("labels-shifted", words, formula)
    reverse = relabelled(lambda targets: targets[:, ::-1])
    yield LossHypothesis("labels-permuted", "the classes are counted from the last one", reverse)
    for shift in (1, -1):
        words = f"every label is that of the image {abs(shift)} "
        words += "before" if shift > 0 else "after"
        formula = relabelled(partial(np.roll, shift=shift, axis=0))
        yield LossHypothesis("labels-permuted", words, formula)
    backwards = relabelled(lambda targets: targets[::-1])
    yield LossHypothesis("labels-permuted", "labels stand in the reverse order", backwards)


@dataclass(frozen=True)
class LossCase:
    """A batch's logits and targets with both sides' loss."""

    name: str
    logits: Array
    targets: Array
    left: Array
    right: Array


def loss_cases(evidence: Evidence) -> list[LossCase]:
    """Return each case whose logits both sides agree on, with the losses.

    Raises:
        UnexaminableError: there is none.
    """
    left, right = evidence.left.arrays, evidence.right.arrays
    found = []
    for case in cases(evidence.question):
        logits = right.get(f"logits.{case}")
        sides = [arrays.get(f"loss.{case}") for arrays in (left, right)]
        if logits is None or sides[0] is None or sides[1] is None:
            continue
        if f"logits.{case}" in left and not agree(left[f"logits.{case}"], logits):
            continue  # the cause lies in a layer
        targets = one_hot(evidence.question.arrays[f"labels.{case}"], logits.shape[1])
        double = np.asarray(logits, np.float64)
        found.append(LossCase(case, double, targets, sides[0].reshape(()), sides[1].reshape(())))
    if not found:
        raise UnexaminableError("no case with logits and losses")
    own = [np.asarray(cross_entropy(case.logits, case.targets)[0]) for case in found]
    if not all(agree(value, case.left) for value, case in zip(own, found, strict=True)):
        raise UnexaminableError("the reference's loss is not the mean cross-entropy of its logits")
    return found


def one_hot(classes: Array, num_classes: int) -> Array:
    """Return targets (B, C), float64, of classes (B,)."""
    return np.eye(num_classes)[np.asarray(classes, np.int64)]


@detects(
    "loss-sum", "softmax-before-loss", "clipped-probabilities", "mean-over-classes",
    "log-softmax-missing", "label-smoothing", "labels-shifted", "labels-permuted",
    on=("logits", "gradients"),
)  # fmt: skip
def other_loss(evidence: Evidence) -> list[Diagnosis]:
    """Recognise another loss from the losses of all cases."""
    known = loss_cases(evidence)
    found = []
    for hypothesis in hypotheses():
        fitted = _fit_loss(known, hypothesis.formula)
        if fitted:
            sentence = f"the loss: {hypothesis.words}{_batches(hypothesis.cause, known)}; {fitted}"
            found.append(Diagnosis(hypothesis.cause, "loss", sentence))
    return found


def _fit_loss(known: list[LossCase], formula: Formula) -> Fit | None:
    return fit(
        (np.asarray(formula(case.logits, case.targets)[0]), case.left, case.right) for case in known
    )


def _batches(cause: str, known: list[LossCase]) -> str:
    sizes = sorted({len(case.targets) for case in known})
    return f" of {', '.join(map(str, sizes))}" if cause == "loss-sum" else ""


@detects("float32-inside-float64", on=("logits",), rank=Rank.PATTERN)
def float32_loss(evidence: Evidence) -> Diagnosis | None:
    """Recognise losses that are all float32 numbers where the reference's are not."""
    known = [case for case in loss_cases(evidence) if case.left != 0]
    sides = [np.array([float(getattr(case, side)) for case in known]) for side in ("left", "right")]
    are_float32 = [bool((values == values.astype(np.float32)).all()) for values in sides]
    is_near = np.abs(sides[0] - sides[1]).max() <= 1e-4 * np.abs(sides[0]).max()
    if len(known) < 2 or are_float32 != [False, True] or not is_near:
        return None
    words = "the loss is computed in float32 in a float64 run"
    return Diagnosis("float32-inside-float64", "loss", words)


@detects("label-smoothing", on=("logits",), rank=Rank.FITTED)
def fitted_smoothing(evidence: Evidence) -> Diagnosis | None:
    """Recognise smoothed labels by the share that the first case shows and all others bear out."""
    known = loss_cases(evidence)
    for case in known:
        plain, _ = cross_entropy(case.logits, case.targets)
        even, _ = cross_entropy(case.logits, np.full_like(case.targets, 1 / case.logits.shape[1]))
        if abs(even - plain) > 1e-3:
            share = (float(case.right) - plain) / (even - plain)
            break
    else:
        return None
    typed = nice(share, 1e-3 if precision_of(case.right).computed > 1e-6 else 1e-6)
    if not 0 < share < 1 or (typed is None and len(known) < 3):
        return None
    fitted = _fit_loss(known, smoothed(share if typed is None else typed))
    words = f"labels are smoothed by {number(share)}"
    return Diagnosis("label-smoothing", "loss", f"{words}; {fitted}") if fitted else None


@detects("batch-axis-squeezed", on=("logits",))
def squeezed_axis(evidence: Evidence) -> Diagnosis | None:
    """Recognise the logits of one image that have lost their batch axis."""
    left, right = evidence.left.arrays, evidence.right.arrays
    for case in cases(evidence.question):
        one, two = (side.get(f"logits.{case}") for side in (left, right))
        if one is None or two is None or one.shape == two.shape or len(one) != 1:
            continue
        if two.shape == np.squeeze(one).shape and agree(one.reshape(two.shape), two):
            words = f"the logits of a single image have shape {two.shape}, not {one.shape}: its "
            return Diagnosis("batch-axis-squeezed", f"logits.{case}", f"{words}axis is squeezed")
    return None
