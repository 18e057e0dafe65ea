"""Answers that are made up, and climbs of the ladder with them."""

import dataclasses

import numpy as np

from ladder.checks import Terms, cross_entropy
from ladder.compare import Tolerance
from ladder.exchange import Question, Trace
from ladder.rungs import climb

ROUNDING = Tolerance("ROUNDING", absolute=1e-12, reason="made up", measured="nothing")
TERMS = Terms("float64", lambda rung, key: ROUNDING)
ASKS = (
    "batches", "layers", "points", "forced", "cases", "gradients", "steps", "dropout",
    "training",
)  # fmt: skip
RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(3, 2))
INPUTS = RANDOM.normal(size=(4, 3))
CLASSES = np.array([0, 1, 1, 0, 1])


def make_question(**changes):
    settings = {"points": ["dense"], "cases": ["full"], "gradient_cases": ["full"], "steps": 2}
    arrays = {"weights.dense.kernel": KERNEL, "input.dense": INPUTS}
    return dataclasses.replace(Question(ASKS, settings, arrays), **changes)


def make_trace(question, engine="left"):
    logits = RANDOM.normal(size=(5, 2)) if engine == "new" else np.linspace(-1, 2, 10).reshape(5, 2)
    rows = [
        {"stage": stage, "size": 5, "images": f"{stage} digest", "classes": CLASSES.tolist()}
        for stage in ("train", "validation")
    ]
    history = {
        "epoch": 1, "loss": 0.7, "accuracy": 0.5, "val_loss": cross_entropy(logits, CLASSES),
        "val_accuracy": float((logits.argmax(1) == CLASSES).mean()),
        "seconds": float(len(engine)), "validation_seconds": len(engine) / 8,
    }  # fmt: skip
    layer = {"name": "dense", "kind": "dense", "output_shape": [2], "parameters": 6}
    facts = {
        "batches": rows,
        "layers": [layer],
        "parameters": 6,
        "history": [history],
    }
    drawn = np.random.default_rng(0).permutation(np.arange(4000) % 4 != 0).reshape(40, 100)
    arrays = {
        "point.dense": INPUTS @ KERNEL,
        "forced.dense": INPUTS @ KERNEL,
        "logits.full": logits,
        "loss.full": np.array(cross_entropy(logits, CLASSES)),
        "gradient.full.dense.kernel": KERNEL / 7,
        "gradient.full.input": INPUTS / 9,
        "step.1.loss": np.array(0.9),
        "step.2.loss": np.array(0.8),
        "drop.drop.0": drawn[:2] / 0.75,
        "drop_eval.drop": np.ones((2, 100)),
        "drop_own.drop": drawn / 0.75,
        "trained.dense.kernel": KERNEL * 1.2,
        "trained_logits": logits,
        "validation_logits": logits,
        "validation_classes": CLASSES,
    }
    for step in (1, 2):
        arrays[f"step.{step}.weight.dense.kernel"] = KERNEL * (1 + step / 10)
        arrays[f"step.{step}.adam.m.dense.kernel"] = KERNEL / 3
    return Trace(engine, question.identity, facts, arrays)


def with_array(trace, key, array):
    return dataclasses.replace(trace, arrays={**trace.arrays, key: np.asarray(array)})


def without_array(trace, key):
    arrays = {name: array for name, array in trace.arrays.items() if name != key}
    return dataclasses.replace(trace, arrays=arrays)


def with_facts(trace, **changes):
    return dataclasses.replace(trace, facts={**trace.facts, **changes})


def climb_with(change=lambda trace: trace, both=lambda trace: trace, question=None, terms=TERMS):
    question = question or make_question()
    left, right = both(make_trace(question)), both(make_trace(question, "right"))
    return climb(question, left, change(right), terms)


def moved(key, place=0, by=1e-3):
    def move(trace):
        array = trace.arrays[key].copy()
        array.flat[place] += by
        return with_array(trace, key, array)

    return move
