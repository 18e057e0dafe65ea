"""Causes by another rule than Adam's: decay of the weights, plain descent."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from ladder.causes.fits import (
    fit,
    nice,
    number,
)
from ladder.causes.reading import join
from ladder.causes.registry import Diagnosis, Evidence, Rank, detects
from ladder.causes.updates import RUNGS, Updates, read_updates, typed
from ladder.exchange import Array


@detects("decoupled-weight-decay", on=RUNGS, rank=Rank.FITTED)
def decoupled_decay(evidence: Evidence) -> Diagnosis | None:
    """Recognise weights that lose a share of themselves in each step, on all or on kernels."""
    updates = read_updates(evidence)
    right, adam = updates.right, updates.adams[1]
    bare = replace(adam, decay=0.0)
    m, v = right.slot("m", 1), right.slot("v", 1)
    before, after = right.weights(0), right.weights(1)
    rests = {n: after[n] - bare.after(before[n], m[n], v[n], 1) for n in m if before[n].ndim > 1}
    square = sum(float(np.vdot(before[name], before[name])) for name in rests)
    if not square > 0:
        return None
    lost = -sum(float(np.vdot(before[name], rests[name])) for name in rests)
    decay = lost / square / adam.learning_rate
    if abs(decay) < 1e-6 * max(adam.decay, 1e-3):
        decay = 0.0
    typed = nice(decay, 1e-3)
    # As it was typed, as Keras casts it, or as it shows itself.
    tried = [decay] if typed is None else [typed, float(np.float32(typed)), decay]
    for decay, is_kernels_only in product(dict.fromkeys(tried), (False, True)):
        fitted = fit(_decayed(updates, decay, is_kernels_only), is_state=True)
        if fitted:
            words = f"decoupled weight decay is {number(decay)} against {number(adam.decay)}"
            words += ", on kernels only" if is_kernels_only else ", on every parameter"
            spared = sorted(updates.spared)
            words += f"; the reference leaves out {join(spared)}" if spared else ""
            where = "optimizer.weight_decay"
            return Diagnosis("decoupled-weight-decay", where, f"{words}; {fitted}")
    return None


def _decayed(
    updates: Updates, decay: float, is_kernels_only: bool
) -> Iterator[tuple[Array, Array | None, Array]]:
    right = updates.right
    for step in updates.few:
        before, after = right.weights(step - 1), right.weights(step)
        m, v = right.slot("m", step), right.slot("v", step)
        for name in m:
            adam = updates.adam(step, name)
            own = decay if before[name].ndim > 1 or not is_kernels_only else 0.0
            state = (before[name], m[name], v[name], step)
            yield replace(adam, decay=own).after(*state), adam.after(*state), after[name]


@detects("sgd-instead", on=RUNGS)
def plain_descent(evidence: Evidence) -> Diagnosis | None:
    """Recognise a first step along the gradient itself."""
    updates = read_updates(evidence)
    gradients = updates.left.gradients(1, updates.adams[1].beta_1)
    before, after = updates.right.weights(0), updates.right.weights(1)
    names = [name for name in gradients if name in after]
    rests = [np.asarray(after[name], np.float64) - before[name] for name in names]
    rate = _descent_rate([gradients[name] for name in names], rests)
    if rate is None:
        return None
    left = updates.left.weights(1)
    fitted = fit(
        ((before[name] - rate * gradients[name], left[name], after[name]) for name in names),
        is_state=True,
    )
    if not fitted:
        return None
    words = f"the first step is {number(rate)} times the gradient: gradient descent, not Adam"
    return Diagnosis("sgd-instead", "optimizer.kind", f"{words}; {fitted}")


def _descent_rate(gradients: Sequence[Array], rests: Sequence[Array]) -> float | None:
    square = sum(float(np.vdot(gradient, gradient)) for gradient in gradients)
    product = sum(float(np.vdot(g, r)) for g, r in zip(gradients, rests, strict=True))
    rate = -product / square if square > 0 else 0.0
    return typed(rate) if rate > 0 else None
