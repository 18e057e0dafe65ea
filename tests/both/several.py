"""Trainings on several devices or processes, held against that of one."""

import numpy as np

from pipeline.record import EPOCH_METRICS, PREDICTIONS
from pipeline.recorded import read_predictions, read_record

# Sums over shares round otherwise than over batches; measured 2e-15 after 72 steps with Lightning,
# and after 48 with Keras.
STATE = 1e-13
# Of weights that differ so little; measured 2e-14 with Lightning, 4e-15 with Keras.
LOGITS = 1e-11
# The metrics are kept in float64; Lightning keeps accuracies in float32, as exact counts.
METRICS = 1e-12
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 162, 41, 60


def metrics(folder):
    history = read_record(folder).history
    return np.array([[row[metric] for metric in EPOCH_METRICS] for row in history])


def predictions(folder):
    return read_predictions(folder)[0] if (folder / PREDICTIONS).exists() else np.zeros(0)


def same_state(one, several):
    return all(np.abs(one[key] - several[key]).max() <= STATE for key in one)


def differences(states, folders):
    """Return what of two trainings is not the same, by their states and their run folders."""
    one, several = states
    assert one
    assert set(one) == set(several)
    found = [] if same_state(one, several) else ["state"]
    for what, read, allowed in (
        ("metrics", metrics, METRICS),
        ("predictions", predictions, LOGITS),
    ):
        first, second = map(read, folders)
        if first.shape != second.shape or not np.abs(first - second).max() <= allowed:
            found.append(what)
    return found
