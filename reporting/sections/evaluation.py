"""Reports, confusions and churn."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from reporting import charts
from reporting.charts import Mark, Row
from reporting.evidence import CompleteRun, Evidence, name_of
from reporting.wording import Fields, colour_of, minus, pairs


def evaluation(evidence: Evidence) -> Fields:
    """Return reports, confusions and churn of each pair of runs, or of the runs by themselves."""
    runs = evidence.complete
    both = pairs(runs)
    return {
        "pairs": [_compared(keras, lightning) for keras, lightning in both],
        "alone": [
            {
                "name": run.name,
                "report": run.evaluation.report_text,
                "confusion": _confusion(run, run.name),
            }
            for run in runs
            if not any(run is one for pair in both for one in pair)
        ],
        "churn": [
            _churn(one, two) for one, two in combinations(runs, 2) if one.variant == two.variant
        ],
    }


def _compared(keras: CompleteRun, lightning: CompleteRun) -> Fields:
    classes = keras.record.dataset["class_names"]
    reports = (_report_rows(keras), _report_rows(lightning))
    rows = [
        {
            "name": name,
            "values": [
                [f"{one[key]:.3f}", f"{two[key]:.3f}", minus(f"{two[key] - one[key]:+.3f}")]
                for key in ("precision", "recall", "f1-score")
            ],
            "support": int(one["support"]),
        }
        for name, one, two in zip(classes, *reports, strict=True)
    ]
    names = (name_of(keras.engine), name_of(lightning.engine))
    difference = lightning.evaluation.confusion - keras.evaluation.confusion
    return {
        "variant": keras.variant,
        "names": names,
        "rows": rows,
        "recall": charts.rows_chart(
            [
                Row(
                    name,
                    [
                        Mark(
                            row["recall"],
                            colour_of(run.engine),
                            f"{name}, {name_of(run.engine)}: {row['recall']:.3f}",
                            shape,
                        )
                        for run, row, shape in ((keras, one, "dot"), (lightning, two, "ring"))
                    ],
                )
                for name, one, two in zip(classes, *reports, strict=True)
            ],
            f"Share of each class that was found, {keras.variant}",
            "recall",
            is_from_zero=False,
            size=charts.HALF,
        ),
        "confusions": [
            _confusion(keras, names[0]),
            _confusion(lightning, names[1]),
            _difference(difference, classes, f"{names[1]} minus {names[0]}"),
        ],
    }


def _report_rows(run: CompleteRun) -> list[dict[str, float]]:
    """Return each class's precision, recall, F1 and support; a share of nothing is 0."""
    counts = run.evaluation.confusion
    right, said, support = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    precision, recall = right / np.maximum(said, 1), right / np.maximum(support, 1)
    both = 2 * right / np.maximum(said + support, 1)
    return [
        {"precision": p, "recall": r, "f1-score": f, "support": n}
        for p, r, f, n in zip(precision, recall, both, support, strict=True)
    ]


def _confusion(run: CompleteRun, title: str) -> Fields:
    counts = run.evaluation.confusion
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The eye tells shares apart better by their square root.
    shades = np.sqrt(counts / totals)
    return {
        "title": title,
        "classes": run.record.dataset["class_names"],
        "cells": [
            [
                (f"{count:,}", round(float(shade) * 0.5, 3), colour_of(run.engine))
                for count, shade in zip(row, own, strict=True)
            ]
            for row, own in zip(counts.tolist(), shades, strict=True)
        ],
    }


def _difference(counts: Any, classes: Sequence[str], title: str) -> Fields:
    largest = max(int(np.abs(counts).max()), 1)
    return {
        "title": title,
        "classes": classes,
        "cells": [
            [
                (
                    minus(f"{count:+,}") if count else "0",
                    round(0.5 * abs(count) / largest, 3),
                    int(count > 0),
                )
                for count in row
            ]
            for row in counts.tolist()
        ],
    }


def _churn(one: CompleteRun, two: CompleteRun) -> Fields:
    labels = one.labels
    first, second = one.evaluation.predicted, two.evaluation.predicted
    differ = first != second
    return {
        "names": (one.name, two.name),
        "agreement": f"{float(np.mean(~differ)):.2%}",
        "differ": int(differ.sum()),
        "only_first": int((differ & (first == labels)).sum()),
        "only_second": int((differ & (second == labels)).sum()),
        "both_wrong": int((differ & (first != labels) & (second != labels)).sum()),
        "same_wrong": int((~differ & (first != labels)).sum()),
        "total": len(first),
    }
