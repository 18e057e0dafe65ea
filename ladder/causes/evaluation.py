"""Causes in metrics and predictions, and in dropout itself."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from ladder.arrays import Array, under
from ladder.causes.fits import agree, fit, is_near, number
from ladder.causes.registry import Diagnosis, Evidence, Rank, UnexaminableError, detects
from ladder.exchange import Trace

RUNGS = ("evaluation", "training")
METRIC_SHARE = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-4}
"""Share by which a metric may be off: torchmetrics divides in float32 in every run."""


def _history(trace: Trace) -> Sequence[Mapping[str, Any]]:
    history = trace.facts.get("history")
    if not history:
        raise UnexaminableError("no history")
    return list(history)


def _by_batch(trace: Trace, evidence: Evidence) -> tuple[dict[str, Array], Array]:
    """Return a side's loss and accuracy of each validation batch, and the batches' sizes."""
    if "validation_logits" not in trace.arrays:
        raise UnexaminableError("no validation logits")
    logits = np.asarray(trace.arrays["validation_logits"], np.float64)
    classes = np.asarray(trace.arrays["validation_classes"])
    settings = evidence.question.settings
    size = {**settings["recipe"], **settings["training"]}["batch_size"]
    losses = -log_softmax(logits, axis=-1)[np.arange(len(logits)), classes]
    hits = (logits.argmax(-1) == classes).astype(np.float64)
    starts = range(0, len(logits), size)
    means = {
        "val_loss": np.array([losses[i : i + size].mean() for i in starts]),
        "val_accuracy": np.array([hits[i : i + size].mean() for i in starts]),
    }
    return means, np.array([len(logits[i : i + size]) for i in starts])


def _require_reference(evidence: Evidence) -> None:
    """Require that the reference's last validation metrics are those of its own logits.

    Raises:
        UnexaminableError: they are not.
    """
    means, sizes = _by_batch(evidence.left, evidence)
    last, share = _history(evidence.left)[-1], _share(evidence)
    names = [name for name in means if name in last]
    own = {name: float(np.average(means[name], weights=sizes)) for name in names}
    if not names or not all(is_near(own[name], last[name], share) for name in names):
        raise UnexaminableError("the reference's metrics are not those of its logits")


def _share(evidence: Evidence) -> float:
    return METRIC_SHARE.get(evidence.right.arrays["validation_logits"].dtype, 1e-4)


@detects("metric-unweighted-mean", "metric-of-last-batch", on=RUNGS)
def mean_of_batches(evidence: Evidence) -> list[Diagnosis]:
    """Recognise an epoch's metric that is not weighted by the sizes of the batches."""
    _require_reference(evidence)
    means, sizes = _by_batch(evidence.right, evidence)
    history = _history(evidence.right)
    last, share = history[-1], _share(evidence)
    candidates: tuple[tuple[str, str, Callable[[Array], float]], ...] = (
        ("metric-unweighted-mean", "the plain mean of the batches' means", lambda v: v.mean()),
        ("metric-of-last-batch", "the last batch's value", lambda v: float(v[-1])),
    )
    for cause, words, value_of in candidates:
        found = []
        for name in (name for name in means if name in last):
            # Of a few images, hits are few numbers: each epoch's must be one of them.
            if cause == "metric-of-last-batch" and name == "val_accuracy":
                hits = [row[name] * sizes[-1] for row in history]
                if not all(abs(count - round(count)) < 1e-5 * sizes[-1] for count in hits):
                    continue
                # A metric that never counts gives 0 in each, one that always does the size.
                if any(all(round(count) == end for count in hits) for end in (0, sizes[-1])):
                    continue
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


@detects("evaluated-other-weights", on=RUNGS, rank=Rank.FITTED)
def metrics_of_another_epoch(evidence: Evidence) -> Diagnosis | None:
    """Recognise validation metrics that are the reference's of another epoch."""
    left, right = _history(evidence.left), _history(evidence.right)
    if not _are_trained_alike(evidence):
        return None  # weights that have not moved give the metrics of the epoch before, too
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


def _are_trained_alike(evidence: Evidence) -> bool:
    left, right = (under("trained", side.arrays) for side in (evidence.left, evidence.right))
    return left.keys() == right.keys() and all(agree(left[name], right[name]) for name in left)


@detects("dropout-in-metrics", "dropout-in-predictions", on=RUNGS)
def dropout_left_on(evidence: Evidence) -> list[Diagnosis]:
    """Recognise dropout layers that were told to drop in validation or prediction, as was seen."""
    found = []
    modes = [trace.facts.get("dropout_modes") or {} for trace in (evidence.left, evidence.right)]
    for stage, cause, where in (
        ("validation", "dropout-in-metrics", "val_loss"),
        ("predict", "dropout-in-predictions", "trained_logits"),
    ):
        if modes[0].get(stage) == [False] and True in modes[1].get(stage, []):
            words = f"dropout layers are told to drop in {stage}, where the reference's are not"
            found.append(Diagnosis(cause, where, words))
    return found


@detects("evaluated-other-weights", on=("training",))
def weights_at_a_seam(evidence: Evidence) -> Diagnosis | None:
    """Recognise last weights that are the reference's after an earlier call or epoch."""
    left, right = evidence.left.arrays, under("trained", evidence.right.arrays)
    last = under("trained", left)
    for step in _seams(left) if right else ():
        weights = under(f"seam.{step}", left)
        if weights.keys() != right.keys() or weights.keys() != last.keys():
            continue
        fitted = fit((weights[name], last[name], right[name]) for name in weights)
        if fitted:
            words = f"the last weights are the reference's after step {step}, not after the last"
            return Diagnosis("evaluated-other-weights", "trained", f"{words}; {fitted}")
    return None


def _seams(arrays: Mapping[str, Array]) -> list[int]:
    """Return the steps after which weights are known."""
    return sorted({int(name.split(".")[1]) for name in arrays if name.startswith("seam.")})


@detects("steps-left-out", on=("training",))
def steps_left_out(evidence: Evidence) -> Diagnosis | None:
    """Recognise a call of several steps after which the weights are as they were before it."""
    left, right = evidence.left.arrays, evidence.right.arrays
    seams = [0, *_seams(left)]
    for before, step in pairwise(seams):
        one, two = under(f"seam.{step}", left), under(f"seam.{step}", right)
        if one.keys() == two.keys() and all(agree(one[name], two[name]) for name in one):
            continue
        came_from = under(f"seam.{before}", left) or under("weights", evidence.question.arrays)
        if came_from.keys() != two.keys() or came_from.keys() != one.keys():
            return None
        fitted = fit((came_from[name], one[name], two[name]) for name in one)
        if not fitted:
            return None
        words = f"after step {step} the weights are the reference's after step {before}, as "
        words += f"if the steps between were left out; {fitted}"
        return Diagnosis("steps-left-out", f"seam.{step}", words)
    return None


@detects("predictions-permuted", on=RUNGS)
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


@detects("softmax-output", on=RUNGS)
def predicted_probabilities(evidence: Evidence) -> list[Diagnosis]:
    """Recognise predictions that are the softmax of the reference's."""
    found = []
    for name in ("trained_logits", "validation_logits", "logits"):
        left, right = (trace.arrays.get(name) for trace in (evidence.left, evidence.right))
        if left is None or right is None or left.shape != right.shape:
            continue
        fitted = fit([(softmax(np.asarray(left, np.float64), axis=-1), left, right)])
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


@detects(
    "dropout-rate", "dropout-not-scaled", "spatial-dropout",
    "dropout-masks-repeated", on=("dropout",),
)  # fmt: skip
def dropout_layers(evidence: Evidence) -> list[Diagnosis]:
    """Recognise other rates, unscaled values, whole channels and masks that come again."""
    left, right = evidence.left.arrays, evidence.right.arrays
    found: list[Diagnosis] = []
    for prefix in ("drop.", "drop_own."):
        found += _rate_causes(_shown_rates(left, prefix), _shown_rates(right, prefix))
    found += _repeated_masks(left, right)
    for name in right:
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
    """Return each dropout layer's rate, from its output for ones in training."""
    rates: dict[str, float] = {}
    for name, values in arrays.items():
        if name.startswith(prefix) and values.size:
            largest = float(values.max())
            rate = 1 - 1 / largest if largest > 0 else 1.0
            # What is scaled as by a rate must be dropped as often: else it is another mistake.
            share, deviation = float((values == 0).mean()), float(np.sqrt(0.25 / values.size))
            if (largest > 1 or not (values == 0).any()) and abs(share - rate) <= 6 * deviation:
                rates.setdefault(name.split(".")[1], rate)
    return rates


def _repeated_masks(left: Mapping[str, Array], right: Mapping[str, Array]) -> list[Diagnosis]:
    """Recognise masks of a training that come again, by the sums over each step's."""
    found = []
    for name, sums in right.items():
        if not name.startswith("drop_steps.") or name not in left:
            continue
        rows = [[tuple(row) for row in side.tolist()] for side in (left[name], sums)]
        if len(set(rows[0])) < len(rows[0]) or len(set(rows[1])) == len(rows[1]):
            continue
        own = right.get(name.replace("drop_steps.", "drop_own."))
        if not drops_some(own) or _is_alike_along_an_axis(own):
            continue  # all such masks are alike, or so few that some come again by chance
        step = next(i for i, row in enumerate(rows[1]) if row in rows[1][:i])
        words = f"step {step + 1} draws the mask of step {rows[1].index(rows[1][step]) + 1} again: "
        words += f"{len(set(rows[1]))} masks in {len(rows[1])} steps"
        layer = name.removeprefix("drop_steps.")
        found.append(Diagnosis("dropout-masks-repeated", layer, f"{layer}: {words}"))
    return found


def _is_alike_along_an_axis(drawn: Array | None) -> bool:
    """Return whether a layer's output for ones is the same at each place of some axis."""
    return drawn is not None and any(
        size > 1 and bool((drawn == drawn.take([0], axis)).all())
        for axis, size in enumerate(drawn.shape)
    )


def drops_some(drawn: Array | None) -> bool:
    """Return whether some of a layer's output for ones is zero and some not, as far as known."""
    return drawn is None or bool((drawn == 0).any() and drawn.any())


def _rate_causes(left: Mapping[str, float], right: Mapping[str, float]) -> list[Diagnosis]:
    others = [n for n in left if n in right and not is_near(1 - left[n], 1 - right[n], 1e-5)]
    if len(others) == 2 and all(
        is_near(left[one], right[two], 1e-6) for one, two in (others, others[::-1])
    ):
        words = f"the rates of {others[0]} and {others[1]} are swapped"
        return [Diagnosis("dropout-rate", ", ".join(others), words)]
    return [
        Diagnosis(
            "dropout-rate", name,
            f"{name}: the rate is {number(right[name])} against {number(left[name])}",
        )
        for name in others
    ]  # fmt: skip
