"""Causes in metrics and predictions, and in dropout itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from portproof.causes.contract import is_swap, swapped_rates
from portproof.causes.fits import agree, distance, fit, is_near, number, size_of
from portproof.causes.formulas import log_softmax, softmax
from portproof.causes.reading import Steps, batch_size, under
from portproof.causes.registry import Diagnosis, Evidence, Rank, UnexaminableError, recognises
from portproof.exchange import Array, Trace

RUNGS = ("evaluation", "training")
METRIC_SHARE = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-4}
"""Share by which a metric may be off: torchmetrics divides in float32 in every run."""


def _history(trace: Trace) -> Sequence[Mapping[str, Any]]:
    history = trace.facts.get("history")
    if not history:
        raise UnexaminableError("no history")
    return list(history)


def _validation_classes(evidence: Evidence, count: int) -> Array:
    """Return the validation set's classes: the question's, or those that were fed."""
    for name in ("labels.validation", "validation_labels"):
        if name in evidence.question.arrays:
            return np.asarray(evidence.question.arrays[name])
    rows = [row for row in evidence.left.facts.get("batches") or [] if row["stage"] == "validation"]
    classes = [label for row in rows for label in row["classes"]]
    if len(classes) < count or count == 0:
        raise UnexaminableError("the validation labels are not known")
    return np.array(classes[:count])


def _by_batch(evidence: Evidence) -> tuple[dict[str, Array], Array]:
    """Return the suspect's loss and accuracy of each validation batch, and the batches' sizes."""
    if "validation_logits" not in evidence.right.arrays:
        raise UnexaminableError("no validation logits")
    logits = np.asarray(evidence.right.arrays["validation_logits"], np.float64)
    classes = _validation_classes(evidence, len(logits))
    size = batch_size(evidence)
    if size is None:
        raise UnexaminableError("the batch size is not known")
    losses = -log_softmax(logits)[np.arange(len(logits)), classes]
    hits = (logits.argmax(-1) == classes).astype(np.float64)
    starts = range(0, len(logits), size)
    means = {
        "val_loss": np.array([losses[i : i + size].mean() for i in starts]),
        "val_accuracy": np.array([hits[i : i + size].mean() for i in starts]),
    }
    return means, np.array([len(logits[i : i + size]) for i in starts])


def _share(evidence: Evidence) -> float:
    return METRIC_SHARE.get(evidence.right.arrays["validation_logits"].dtype, 1e-4)


@recognises("metric-unweighted-mean", "metric-of-last-batch", on=RUNGS)
def mean_of_batches(evidence: Evidence) -> list[Diagnosis]:
    """Recognise an epoch's metric that is not weighted by the sizes of the batches."""
    means, sizes = _by_batch(evidence)
    last = _history(evidence.right)[-1]
    share = _share(evidence)
    candidates: tuple[tuple[str, str, Callable[[Array], float]], ...] = (
        ("metric-unweighted-mean", "the plain mean of the batches' means", lambda v: v.mean()),
        ("metric-of-last-batch", "the last batch's value", lambda v: float(v[-1])),
    )
    for cause, words, value_of in candidates:
        found = []
        for name in (name for name in means if name in last):
            value, right = (
                float(value_of(means[name])),
                float(np.average(means[name], weights=sizes)),
            )
            if is_near(value, last[name], share) and not is_near(right, last[name], 10 * share):
                text = (
                    f"{name} of the last epoch, {last[name]:.8g}, is {words}; over all images it "
                )
                found.append(Diagnosis(cause, name, f"{text}would be {right:.8g}"))
        if found:
            return found
    return []


@recognises("evaluated-other-weights", on=RUNGS, rank=Rank.FITTED)
def metrics_of_another_epoch(evidence: Evidence) -> Diagnosis | None:
    """Recognise validation metrics that are the reference's of another epoch."""
    left, right = _history(evidence.left), _history(evidence.right)
    names = [name for name in ("val_loss", "val_accuracy") if name in left[0] and name in right[0]]
    if len(left) != len(right) or "val_loss" not in names:
        return None
    for by in (1, -1):
        later = range(max(by, 0), len(left) + min(by, 0))
        is_met = [
            all(is_near(right[i][name], left[i - by][name], 1e-6) for name in names)
            and not is_near(right[i]["val_loss"], left[i]["val_loss"], 1e-6)
            for i in later
        ]
        if is_met and all(is_met):
            words = "each epoch's validation metrics are the reference's of the epoch "
            words += "before: they are of the weights before the epoch" if by > 0 else "after"
            return Diagnosis("evaluated-other-weights", "val_loss", words)
    return None


@recognises("evaluated-other-weights", "dropout-in-metrics", on=RUNGS, rank=Rank.PATTERN)
def logits_of_other_weights(evidence: Evidence) -> Diagnosis | None:
    """Recognise metrics or predictions that equal weights and logits do not bear out."""
    left, right = evidence.left.arrays, evidence.right.arrays
    trained = under("trained", left)
    is_equal = bool(trained) and all(
        agree(value, right[f"trained.{name}"])
        for name, value in trained.items()
        if f"trained.{name}" in right
    )
    if not is_equal:
        return None
    dropout = _dropout_in_validation(evidence)
    if dropout:
        return dropout
    name = "trained_logits"
    if name not in left or name not in right or left[name].shape != right[name].shape:
        return None
    gap = distance(left[name], right[name])
    if gap <= 1e-2 * size_of(left[name]) or _row_match(left[name], right[name]) is not None:
        return None
    words = f"the trained weights are the reference's and the test logits are not, gap {gap:.1e}: "
    return Diagnosis("evaluated-other-weights", name, f"{words}other weights were evaluated")


@recognises("evaluated-other-weights", on=("training",))
def weights_of_a_step(evidence: Evidence) -> Diagnosis | None:
    """Recognise last weights that are the reference's after one of the first steps."""
    left, right = evidence.left.arrays, under("trained", evidence.right.arrays)
    last = under("trained", left)
    steps = Steps(left, {})
    for step in steps.numbers if right else ():
        weights = steps.weights(step)
        if weights.keys() != right.keys() or weights.keys() != last.keys():
            continue
        fitted = fit((weights[name], last[name], right[name]) for name in weights)
        if fitted:
            words = f"the last weights are the reference's after step {step}, not after the last"
            return Diagnosis("evaluated-other-weights", "trained", f"{words}; {fitted}")
    return None


def _dropout_in_validation(evidence: Evidence) -> Diagnosis | None:
    """Recognise a validation loss that the same weights give without dropout only."""
    left, right = evidence.left, evidence.right
    layers = (left.facts.get("contract") or {}).get("layers", {}).values()
    rows = [*layers, *(left.facts.get("layers") or [])]
    if not any(row.get("rate") for row in rows):
        return None
    if not agree(left.arrays["validation_logits"], right.arrays["validation_logits"]):
        return None
    means, sizes = _by_batch(evidence)
    value, received = float(np.average(means["val_loss"], weights=sizes)), _history(right)[-1]
    expected = _history(left)[-1]["val_loss"]
    is_left_right = is_near(value, expected, 1e-5)
    if not is_left_right or is_near(received["val_loss"], value, 1e-3):
        return None
    words = f"val_loss is {received['val_loss']:.6g}, where the same weights without dropout give "
    words += f"{value:.6g}: dropout is on while the metrics are taken"
    return Diagnosis("dropout-in-metrics", "val_loss", words)


@recognises("predictions-permuted", on=RUNGS)
def permuted_predictions(evidence: Evidence) -> list[Diagnosis]:
    """Recognise the same predictions in another order, of images or of classes."""
    found = []
    for name in ("trained_logits", "validation_logits", "logits"):
        left, right = (trace.arrays.get(name) for trace in (evidence.left, evidence.right))
        if left is None or right is None or left.shape != right.shape or agree(left, right):
            continue
        for axis, words in ((left, "rows"), (left.T, "classes")):
            other = right if axis is left else right.T
            matched = _row_match(axis, other)
            if matched is not None:
                fitted = fit([(axis[matched], axis, other)])
                text = f"{name}: the same {words} in another order; {fitted}"
                found.append(Diagnosis("predictions-permuted", name, text))
                break
    return found


@recognises("softmax-output", on=RUNGS)
def predicted_probabilities(evidence: Evidence) -> list[Diagnosis]:
    """Recognise predictions that are the softmax of the reference's."""
    found = []
    for name in ("trained_logits", "validation_logits", "logits"):
        left, right = (trace.arrays.get(name) for trace in (evidence.left, evidence.right))
        if left is None or right is None or left.shape != right.shape:
            continue
        fitted = fit([(softmax(np.asarray(left, np.float64)), left, right)])
        if fitted:
            words = f"{name}: probabilities, the softmax of the reference's logits; {fitted}"
            found.append(Diagnosis("softmax-output", name, words))
    return found


def _row_match(left: Array, right: Array) -> Array | None:
    """Return the order in which `left`'s rows are `right`'s, or None."""
    if left.shape != right.shape or left.ndim != 2 or len(left) < 2:
        return None
    direction = np.random.default_rng(0).normal(size=left.shape[1])
    orders = [np.argsort(np.asarray(side, np.float64) @ direction) for side in (left, right)]
    matched = np.empty(len(left), np.int64)
    matched[orders[1]] = orders[0]
    is_match = fit([(left[matched], left, right)])
    return matched if is_match else None


@recognises(
    "dropout-rate", "dropout-not-scaled", "dropout-at-evaluation", "spatial-dropout",
    on=("dropout",),
)  # fmt: skip
def dropout_layers(evidence: Evidence) -> list[Diagnosis]:
    """Recognise other rates, unscaled values, and dropout that stays on in evaluation."""
    left, right = evidence.left.arrays, evidence.right.arrays
    found: list[Diagnosis] = []
    for prefix in ("drop.", "drop_own."):
        found += _rate_causes(_shown_rates(left, prefix), _shown_rates(right, prefix))
    for name in right:
        if name.startswith("drop_eval.") and name in left:
            layer, values = name.removeprefix("drop_eval."), right[name]
            if (values == 0).any() and (left[name] == 1).all():
                words = f"{layer}: {(values == 0).mean():.0%} of values are dropped in evaluation"
                found.append(Diagnosis("dropout-at-evaluation", layer, words))
        if name.startswith(("drop.", "drop_own.")) and name in left:
            if _drops_channels(right[name]) and not _drops_channels(left[name]):
                layer = name.split(".")[1]
                words = f"{layer}: whole channels are dropped, not single values"
                found.append(Diagnosis("spatial-dropout", layer, words))
            layer = name.split(".")[1]
            kept = right[name][right[name] != 0]
            is_unscaled = kept.size and (kept == 1).all() and (right[name] == 0).any()
            if is_unscaled and not (left[name][left[name] != 0] == 1).all():
                words = f"{layer}: kept values are not scaled by 1/(1 − rate) in training"
                found.append(Diagnosis("dropout-not-scaled", layer, words))
    return list(dict.fromkeys(found))


def _drops_channels(values: Array) -> bool:
    """Return whether maps (N, H, W, C) are dropped channel by channel."""
    if values.ndim != 4 or values.shape[1] * values.shape[2] < 2 or not (values == 0).any():
        return False
    return bool((values == values[:, :1, :1]).all())


def _shown_rates(arrays: Mapping[str, Array], prefix: str) -> dict[str, float]:
    """Return each dropout layer's rate, from what it makes of ones in training."""
    rates: dict[str, float] = {}
    for name, values in arrays.items():
        if name.startswith(prefix) and values.size:
            largest = float(values.max())
            if largest > 1 or not (values == 0).any():
                rates.setdefault(name.split(".")[1], 1 - 1 / largest if largest > 0 else 1.0)
    return rates


def _rate_causes(left: Mapping[str, float], right: Mapping[str, float]) -> list[Diagnosis]:
    others = [n for n in left if n in right and not is_near(1 - left[n], 1 - right[n], 1e-5)]
    if is_swap(others, left, right):
        return [swapped_rates(others, left)]
    return [
        Diagnosis(
            "dropout-rate", name,
            f"{name}: the rate is {number(right[name])} against {number(left[name])}",
        )
        for name in others
    ]  # fmt: skip
