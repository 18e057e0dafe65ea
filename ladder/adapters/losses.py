"""Telling which loss a number is, where the loss is a function that no object names."""

from typing import Any

import numpy as np

from ladder.exchange import Array

Facts = dict[str, Any]


def name_loss(outputs: Array, classes: Array, loss: float) -> Facts:
    """Return the settings of the known loss that gives `loss` on `outputs` (N, K).

    `kind`, `reduction` and, for cross-entropies, `takes` and `label_smoothing`; kind `unknown`
    where none fits to rounding.
    """
    precision = np.finfo(outputs.dtype if outputs.dtype.kind == "f" else np.float32).eps
    rounding = 16 * precision * max(1.0, abs(loss))
    candidates: list[tuple[Facts, float, float]] = [
        ({**found, "reduction": f"{name} over the batch"}, float(reduce(true)), float(reduce(even)))
        for found, (true, even) in _candidates(outputs.astype(np.float64), classes)
        for name, reduce in (("mean", np.mean), ("sum", np.sum))
    ]
    for found, plain, _ in candidates:
        if abs(plain - loss) <= rounding:
            return {**found, **({"label_smoothing": 0.0} if "takes" in found else {})}
    for found, plain, even in candidates:
        smoothing = _smoothing(plain, even, loss)
        value = (1 - smoothing) * plain + smoothing * even
        if "takes" in found and 0 < smoothing < 1 and abs(value - loss) <= rounding:
            return {**found, "label_smoothing": smoothing}
    return {"kind": "unknown"}


def _smoothing(plain: float, even: float, loss: float) -> float:
    """Return the share of even labels that would give `loss`, to two digits."""
    share = (loss - plain) / (even - plain) if even != plain else 0.0
    return round(share, 2) if np.isfinite(share) else 0.0


def _candidates(outputs: Array, classes: Array) -> list[tuple[Facts, tuple[Array, Array]]]:
    """Return each known loss with its values for the true labels and for even ones."""
    found: list[tuple[Facts, tuple[Array, Array]]] = []
    rows = np.arange(len(classes))
    kind = "categorical cross-entropy"
    readings = {
        "logits": _log_softmax(outputs),
        "softmax of its outputs": _log_softmax(np.exp(_log_softmax(outputs))),
    }
    if (outputs > 0).all() and np.allclose(outputs.sum(axis=1), 1):
        readings["probabilities"] = np.log(outputs)
    for takes, log_shares in readings.items():
        values = (-log_shares[rows, classes], -log_shares.mean(axis=1))
        found.append(({"kind": kind, "takes": takes}, values))
    one_hot = np.eye(outputs.shape[1])[classes]
    square = ((outputs - one_hot) ** 2).mean(axis=1)
    found.append(({"kind": "mean squared error"}, (square, square)))
    logits = np.logaddexp(0, outputs)
    binary = (logits - outputs * one_hot).mean(axis=1)
    even = (logits - outputs / 2).mean(axis=1)
    found.append(({"kind": "binary cross-entropy", "takes": "logits"}, (binary, even)))
    return found


def _log_softmax(values: Array) -> Array:
    shifted = values - values.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
