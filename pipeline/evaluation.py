"""What test logits say: loss, accuracy, confusion, and which samples were right and wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import RunError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of N samples over C classes, computed in float64."""

    loss: float
    """Mean categorical cross-entropy, in nats."""
    accuracy: float
    """Share of samples whose largest logit is at the true class; a tie goes to the lower class."""
    confusion: Array
    """Counts, int64 (C, C); rows are true classes, columns predicted ones."""
    predicted: Array
    """Predicted class of each sample, int64 (N,)."""
    probabilities: Array
    """Softmax of the logits, float64 (N, C)."""
    correct: Array
    """Positions of the samples classified correctly, in order."""
    incorrect: Array
    """Positions of the samples classified incorrectly, in order."""
    report: dict[str, Any]
    """scikit-learn's `classification_report(output_dict=True, zero_division=0)`."""
    report_text: str
    """The same report as text."""


def evaluate_logits(logits: Array, labels: Array, class_names: Sequence[str]) -> Evaluation:
    """Evaluate logits (N, C) against integer labels (N,) in [0, C).

    Raises:
        ValueError: wrong shapes, no samples, or labels that are not integers in [0, C).
        RunError: a logit is NaN or infinite.
    """
    from scipy.special import log_softmax
    from sklearn.metrics import classification_report, confusion_matrix

    logits = np.asarray(logits, np.float64)
    labels = np.asarray(labels)
    num_classes = len(class_names)
    _check(logits, labels, num_classes)
    log_probabilities = log_softmax(logits, axis=1)
    predicted = logits.argmax(axis=1)
    is_correct = predicted == labels
    # Naming the classes keeps a class that a small test set lacks in its row.
    classes = range(num_classes)
    report = {"labels": classes, "target_names": list(class_names), "zero_division": 0}
    return Evaluation(
        loss=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        accuracy=float(is_correct.mean()),
        confusion=confusion_matrix(labels, predicted, labels=classes),
        predicted=predicted,
        probabilities=np.exp(log_probabilities),
        correct=np.flatnonzero(is_correct),
        incorrect=np.flatnonzero(~is_correct),
        report=classification_report(labels, predicted, output_dict=True, **report),
        report_text=classification_report(labels, predicted, digits=4, **report),
    )


def _check(logits: Array, labels: Array, num_classes: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != num_classes or not len(logits):
        raise ValueError(
            f"`logits` must have shape (N, {num_classes}), N at least 1; "
            f"received shape {logits.shape}"
        )
    if labels.shape != logits.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be {len(logits)} integers; "
            f"received shape {labels.shape}, dtype {labels.dtype}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"`labels` must lie in [0, {num_classes}); received {labels.min()} to {labels.max()}"
        )
    finite = np.asarray(np.isfinite(logits).all(axis=1))
    if not finite.all():
        raise RunError(
            f"the logits of {np.count_nonzero(~finite):,} of {len(finite):,} samples are not "
            "finite numbers; nothing can be said about this model"
        )
