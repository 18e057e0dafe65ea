"""The layer tables aligned, and the two model files side by side."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.record import Layer
from reporting.evidence import Evidence, TrainedRun, name_of
from reporting.wording import NONE, Fields, pairs

MODELS = ("keras_impl/model.py", "lightning_impl/model.py")
ALIKE = 0.45
"""Least likeness of two lines of code that stand beside each other."""
BLANKS_ALIKE = 0.01
"""Likeness of two empty lines: they share a row where no line of code loses by it."""


def model(evidence: Evidence, root: Path) -> Fields:
    """Return the aligned layer tables and the two model files side by side."""
    texts = [(root / name).read_text() for name in MODELS]
    return {
        "tables": [_layer_table(runs) for runs in _shown_together(evidence.runs)],
        "parameters": [(run.name, f"{run.record.parameters:,}") for run in evidence.runs],
        "files": MODELS,
        "lines": aligned(*(text.splitlines() for text in texts)),
    }


def _shown_together(runs: Sequence[TrainedRun]) -> list[tuple[TrainedRun, ...]]:
    """Return each variant's pair of runs, or its first run where there is no pair."""
    known = [run for run in runs if run.layers]
    together: list[tuple[TrainedRun, ...]] = list(pairs(known))
    for run in known:
        if not any(own[0].variant == run.variant for own in together):
            together.append((run,))
    return together


def _layer_table(runs: Sequence[TrainedRun]) -> Fields:
    tables = [{layer.name: layer for layer in run.layers} for run in runs]
    return {
        "variant": runs[0].variant,
        "names": tuple(name_of(run.engine) for run in runs),
        "rows": [
            {
                "name": name,
                "cells": [_cells(table.get(name)) for table in tables],
                "same": _are_alike(tables[0].get(name), tables[-1].get(name)),
            }
            for name in _merged(list(tables[0]), list(tables[-1]))
        ],
        "totals": [f"{sum(x.parameters for x in table.values()):,}" for table in tables],
    }


def _cells(layer: Layer | None) -> tuple[str, str, str]:
    if layer is None:
        return NONE, NONE, NONE
    return layer.type, " × ".join(map(str, layer.output_shape)), f"{layer.parameters:,}"


def _are_alike(keras: Layer | None, lightning: Layer | None) -> bool:
    if keras is None or lightning is None:
        return False
    shape = keras.output_shape
    if len(shape) == 3:  # Keras's maps are (H, W, C)
        shape = (shape[2], *shape[:2])
    return (shape, keras.parameters) == (lightning.output_shape, lightning.parameters)


def _merged(left: list[str], right: list[str]) -> list[str]:
    """Return the names of both lists, in an order that keeps the first one's."""
    merged = list(left)
    for place, name in enumerate(right):
        if name not in merged:
            before = next((merged.index(n) for n in right[place + 1 :] if n in merged), len(merged))
            merged.insert(before, name)
    return merged


def aligned(left: Sequence[str], right: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Return two texts as rows of lines; lines that are alike share a row, which the third says.

    Needleman and Wunsch's alignment, by difflib's ratio of the lines' letters.
    """
    likeness = [[_likeness(one, two) for two in right] for one in left]
    best = np.zeros((len(left) + 1, len(right) + 1))
    for i in range(len(left)):
        for j in range(len(right)):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + likeness[i][j])
    rows: list[tuple[str, str, bool]] = []
    i, j = len(left), len(right)
    while i or j:
        if (
            i
            and j
            and likeness[i - 1][j - 1]
            and best[i, j] == best[i - 1, j - 1] + likeness[i - 1][j - 1]
        ):
            i, j = i - 1, j - 1
            rows.append((left[i], right[j], bool(left[i].strip())))
        elif j and (not i or best[i, j] == best[i, j - 1]):
            j -= 1
            rows.append(("", right[j], False))
        else:
            i -= 1
            rows.append((left[i], "", False))
    return rows[::-1]


def _likeness(one: str, two: str) -> float:
    left, right = _bare(one), _bare(two)
    if not left or not right:
        return BLANKS_ALIKE if left == right else 0.0
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    if matcher.real_quick_ratio() < ALIKE or matcher.quick_ratio() < ALIKE:
        return 0.0
    ratio = matcher.ratio()
    return ratio if ratio >= ALIKE else 0.0


def _bare(line: str) -> str:
    """Return a line without what differs by the framework's name alone."""
    return line.strip().lower().replace("keras.layers.", "").replace("nn.", "")
