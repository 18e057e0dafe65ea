"""Reports, confusions and churn."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reporting import charts
from reporting.charts import Mark, Row
from reporting.evidence import Evidence, TrainedRun, name_of
from reporting.wording import Fields, colour_of, complete, minus, pairs


def evaluation(evidence: Evidence) -> Fields:
    """Return reports, confusions and churn of each pair of runs, or of the runs by themselves."""
    runs = complete(evidence)
    both = pairs(runs)
    alone = [run for run in runs if not any(run is one for pair in both for one in pair)]
    names = {id(run): run.name for run in runs}
    return {
        "pairs": [_compared(keras, lightning) for keras, lightning in both],
        "alone": [
            {
                "name": names[id(run)],
                "report": run.evaluation.report_text,
                "confusion": _confusion(run, names[id(run)]),
            }
            for run in alone
            if run.evaluation is not None
        ],
        "churn": [
            _churn(one, two, names)
            for place, one in enumerate(runs)
            for two in runs[place + 1 :]
            if one.variant == two.variant
        ],
    }


def _compared(keras: TrainedRun, lightning: TrainedRun) -> Fields:
    assert keras.evaluation is not None
    assert lightning.evaluation is not None
    classes = keras.record.dataset["class_names"]
    reports = (_report_rows(keras), _report_rows(lightning))
    rows = []
    for place, name in enumerate(classes):
        entries = [report[place] for report in reports]
        rows.append(
            {
                "name": name,
                "values": [
                    [f"{entry[key]:.3f}" for entry in entries]
                    + [minus(f"{entries[1][key] - entries[0][key]:+.3f}")]
                    for key in ("precision", "recall", "f1-score")
                ],
                "support": int(entries[0]["support"]),
            }
        )
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
                            report[place]["recall"],
                            colour_of(run.engine),
                            f"{name}, {name_of(run.engine)}: {report[place]['recall']:.3f}",
                            shape,
                        )
                        for run, report, shape in (
                            (keras, reports[0], "dot"),
                            (lightning, reports[1], "ring"),
                        )
                    ],
                )
                for place, name in enumerate(classes)
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


def _report_rows(run: TrainedRun) -> list[dict[str, float]]:
    """Return each class's precision, recall, F1 and support; a share of nothing is 0."""
    assert run.evaluation is not None
    counts = run.evaluation.confusion
    right, said, support = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    precision, recall = right / np.maximum(said, 1), right / np.maximum(support, 1)
    both = 2 * right / np.maximum(said + support, 1)
    return [
        {"precision": p, "recall": r, "f1-score": f, "support": n}
        for p, r, f, n in zip(precision, recall, both, support, strict=True)
    ]


def _confusion(run: TrainedRun, title: str) -> Fields:
    assert run.evaluation is not None
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


def _churn(one: TrainedRun, two: TrainedRun, names: dict[int, str]) -> Fields:
    assert one.evaluation is not None
    assert two.evaluation is not None
    labels = one.labels
    first, second = one.evaluation.predicted, two.evaluation.predicted
    differ = first != second
    return {
        "names": (names[id(one)], names[id(two)]),
        "agreement": f"{float(np.mean(~differ)):.2%}",
        "differ": int(differ.sum()),
        "only_first": int((differ & (first == labels)).sum()),
        "only_second": int((differ & (second == labels)).sum()),
        "both_wrong": int((differ & (first != labels) & (second != labels)).sum()),
        "same_wrong": int((~differ & (first != labels)).sum()),
        "total": len(first),
    }
