"""Causes in the update: how a side's own slots became a change of its weights."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from ladder.causes.fits import (
    Fit,
    fit,
    is_near,
    number,
)
from ladder.causes.formulas import Adam
from ladder.causes.reading import join
from ladder.causes.registry import Diagnosis, Evidence, Rank, detects
from ladder.causes.slots import betas, lost_state
from ladder.causes.updates import (
    FLOAT32_SHARE,
    KNOWN_EPSILONS,
    MAX_COUNT,
    RUNGS,
    Updates,
    fit_updates,
    placement_word,
    rate_of,
    read_updates,
    skipped_numbers,
    stands,
    typed,
    with_changes,
)


@detects("adam-epsilon-placement", on=RUNGS)
def epsilon_placement(evidence: Evidence) -> Diagnosis | None:
    """Recognise Adam with ε on the other side of the bias correction."""
    updates = read_updates(evidence)
    own = updates.adams[1]
    fitted = fit_updates(updates, with_changes(is_inside=not own.is_inside))
    if not fitted:
        return None
    return _placement(updates, own.epsilon, fitted)


def _placement(updates: Updates, epsilon: float, fitted: Fit) -> Diagnosis:
    own = updates.adams[1]
    words = (
        f"the weights after step 1 are those of Adam with ε {placement_word(not own.is_inside)} "
    )
    words += f"the bias correction (ε {number(epsilon)}), not {placement_word(own.is_inside)} it"
    if epsilon != own.epsilon:
        words += f" (ε {number(own.epsilon)})"
    return Diagnosis("adam-epsilon-placement", "optimizer.epsilon_placement", f"{words}; {fitted}")


@detects("adam-epsilon-value", "adam-epsilon-placement", on=RUNGS, rank=Rank.FITTED)
def epsilon_value(evidence: Evidence) -> Diagnosis | None:
    """Recognise another ε, in the reference's place first and then in the other."""
    updates = read_updates(evidence)
    own = updates.adams[1]
    if fit_updates(updates, with_changes(is_inside=not own.is_inside)):
        return None
    known = [epsilon for epsilon in KNOWN_EPSILONS if not is_near(epsilon, own.epsilon, 1e-5)]
    tried = [(epsilon, place) for place in (own.is_inside, not own.is_inside) for epsilon in known]
    tried += [
        (_shown_epsilon(updates, place), place) for place in (own.is_inside, not own.is_inside)
    ]
    for epsilon, is_inside in tried:
        fitted = fit_updates(updates, with_changes(epsilon=epsilon, is_inside=is_inside))
        if fitted and is_inside != own.is_inside:
            return _placement(updates, epsilon, fitted)
        if fitted:
            words = f"Adam's ε is {number(epsilon)} against {number(own.epsilon)}"
            return Diagnosis("adam-epsilon-value", "optimizer.epsilon", f"{words}; {fitted}")
    return None


def _shown_epsilon(updates: Updates, is_inside: bool) -> float:
    """Return the ε that the smallest moving weights of step 1 show."""
    own = replace(updates.adams[1], epsilon=0.0, is_inside=is_inside)
    before, after = updates.right.weights(0), updates.right.weights(1)
    m, v = updates.right.slot("m", 1), updates.right.slot("v", 1)
    correction = np.sqrt(1 - own.beta_2) if is_inside else 1.0
    shown = []
    for name in m:
        moved = np.abs(np.asarray(before[name], np.float64) - after[name])
        rooted = np.sqrt(np.asarray(v[name], np.float64)) / correction
        ideal = own.learning_rate * np.abs(own.direction(m[name], v[name], 1)) * rooted
        is_known = (moved > 0) & (rooted > 0)
        smallest = np.argsort(rooted[is_known])[:100]
        shown.append((ideal / moved - rooted)[is_known][smallest])
    values = np.concatenate(shown)
    return max(float(np.median(values)), 0.0) if values.size else 0.0


@detects("no-bias-correction", on=RUNGS)
def no_bias_correction(evidence: Evidence) -> Diagnosis | None:
    """Recognise Adam without the bias correction."""
    updates = read_updates(evidence)
    fitted = fit_updates(updates, with_changes(corrects_bias=False))
    words = f"the weights are those of Adam without bias correction; {fitted}"
    return Diagnosis("no-bias-correction", "optimizer", words) if fitted else None


@detects("float32-inside-float64", on=RUNGS)
def betas_as_float32(evidence: Evidence) -> Diagnosis | None:
    """Recognise betas that went through float32 on their way into the bias correction."""
    updates = read_updates(evidence)
    own = updates.adams[1]
    betas = {name: float(np.float32(getattr(own, name))) for name in ("beta_1", "beta_2")}
    fitted = fit_updates(updates, with_changes(**betas))
    words = "the bias correction takes Adam's betas as float32 in a float64 run"
    sentence = f"{words}; {fitted}"
    return Diagnosis("float32-inside-float64", "optimizer", sentence) if fitted else None


@detects("adamax-or-amsgrad", on=RUNGS)
def amsgrad(evidence: Evidence) -> Diagnosis | None:
    """Recognise AMSGrad, which divides by the largest v so far."""
    updates = read_updates(evidence)
    triples, largest = [], updates.right.slot("v", updates.numbers[0])
    for step in updates.numbers:
        v, m = updates.right.slot("v", step), updates.right.slot("m", step)
        largest = {name: np.maximum(largest[name], v[name]) for name in v}
        before, after = updates.right.weights(step - 1), updates.right.weights(step)
        for name in m:
            adam, weight = updates.adam(step, name), before[name]
            hypothesis = adam.after(weight, m[name], largest[name], step)
            triples.append((hypothesis, adam.after(weight, m[name], v[name], step), after[name]))
    fitted = fit(triples, is_state=True)
    words = f"the weights are those of AMSGrad, which divides by the largest v so far; {fitted}"
    return Diagnosis("adamax-or-amsgrad", "optimizer.amsgrad", words) if fitted else None


@detects("stale-optimizer-state", on=RUNGS)
def stale_count(evidence: Evidence) -> Diagnosis | None:
    """Recognise a step count that does not begin at 1."""
    updates = read_updates(evidence)
    if no_bias_correction(evidence):
        return None  # after so many steps that any count fits
    own, right = updates.adams[1], updates.right
    state = (right.weights(0), right.weights(1), right.slot("m", 1), right.slot("v", 1))
    ratio = rate_of(*state, own, 1) / own.learning_rate
    counts = np.arange(1, MAX_COUNT)
    scale = np.sqrt(1 - own.beta_2**counts) / (1 - own.beta_1**counts)
    gaps = np.abs(scale / scale[0] / ratio - 1)
    for index in np.argsort(gaps)[:5]:
        offset = int(index)
        if offset and gaps[index] < 1e-2 and (fitted := _fit_count(updates, offset)):
            words = f"the optimizer counts the first step as step {offset + 1}; {fitted}"
            return Diagnosis("stale-optimizer-state", "optimizer.step", words)
    return None


def _fit_count(updates: Updates, offset: int) -> Fit | None:
    right, triples = updates.right, []
    for step in updates.few:
        before, after = right.weights(step - 1), right.weights(step)
        m, v = right.slot("m", step), right.slot("v", step)
        for name in m:
            adam, state = updates.adam(step, name), (before[name], m[name], v[name])
            triples.append(
                (adam.after(*state, step + offset), adam.after(*state, step), after[name])
            )
    return fit(triples, is_state=True)


@detects(
    "learning-rate", "schedule-per-epoch", "float32-inside-float64", on=RUNGS, rank=Rank.FITTED
)
def learning_rate(evidence: Evidence) -> Diagnosis | None:
    """Recognise another learning rate, or one that follows no schedule, from step to step."""
    updates = read_updates(evidence)
    own = {step: updates.adams[step].learning_rate for step in updates.numbers}
    shown = {
        step: 0.0 if stands(updates, updates.right, step) else _right_rate(updates, step)
        for step in updates.numbers
    }
    if (
        not all(rate >= 0 for rate in shown.values())
        or skipped_numbers(updates)
        or lost_state(evidence)
    ):
        return None  # the steps are not counted as the reference's, which looks like another rate
    # As they were typed, or as they show themselves.
    for rates in ({step: typed(rate) for step, rate in shown.items()}, shown):
        fitted = fit_updates(updates, partial(_at_rate, rates))
        if fitted:
            return _rate_words(own, rates, evidence, fitted)
    return None


def _at_rate(rates: dict[int, float], adam: Adam, step: int) -> Adam:
    return replace(adam, learning_rate=rates[step])


def _rate_words(
    own: dict[int, float], rates: dict[int, float], evidence: Evidence, fitted: Fit
) -> Diagnosis | None:
    where = "optimizer.learning_rate"
    # Only a float64 run shows a rate that well.
    if all(is_near(rate, own[step], FLOAT32_SHARE) for step, rate in rates.items()):
        return _coarse_rate(own, rates, fitted)
    is_constant = all(is_near(rate, rates[1], 1e-3) for rate in rates.values())
    is_own_constant = all(is_near(rate, own[1], 1e-3) for rate in own.values())
    if not is_constant and (
        betas(evidence) or no_bias_correction(evidence) or stale_count(evidence)
    ):
        return None  # another bias correction looks like another rate in each step
    if is_constant and not is_own_constant:
        words = f"the learning rate stays at {number(rates[1])} from step to step, where the "
        words += f"reference's is {_listed(own)}: its schedule does not move with the steps"
        return Diagnosis("schedule-per-epoch", where, f"{words}; {fitted}")
    if _num_changes(own) >= 3 * max(_num_changes(rates), 1):
        words = (
            f"the learning rate is {_listed(rates)} from step to step, where the reference's is "
        )
        words += f"{_listed(own)}: it moves from epoch to epoch"
        return Diagnosis("schedule-per-epoch", where, f"{words}; {fitted}")
    begins = _step_of_change(rates, own[1]) if is_own_constant else None
    steps_per_epoch = evidence.question.settings.get("steps_per_epoch")
    if begins and steps_per_epoch and (begins - 1) % int(steps_per_epoch) == 0:
        words = f"the learning rate is {number(rates[begins])} from step {begins} on, against "
        words += f"{number(own[1])}: it moves from epoch to epoch"
        return Diagnosis("schedule-per-epoch", where, f"{words}; {fitted}")
    if is_constant:
        words = f"the learning rate is {number(rates[1])} against {number(own[1])}"
    else:
        words = f"the learning rate is {_listed(rates)} against {_listed(own)} from step to step"
    return Diagnosis("learning-rate", where, f"{words}; {fitted}")


def _coarse_rate(own: dict[int, float], rates: dict[int, float], fitted: Fit) -> Diagnosis:
    """Say which side's rate went through float32, where the rates are equal to its rounding."""
    cause, where = "float32-inside-float64", "optimizer.learning_rate"
    if _num_changes(own):
        words = "the learning rates are the reference's to float32, not to float64: one side "
        words += "computes its schedule in float32"
    elif all(is_near(rate, float(np.float32(own[1])), 1e-10) for rate in rates.values()):
        words = "the learning rate is the reference's as float32"
    else:
        cause = "learning-rate"
        words = f"the learning rate is {rates[1]:.12g} against {own[1]:.12g}"
        is_cast = is_near(own[1], float(np.float32(rates[1])), 1e-10)
        words += ", which is the same number as float32" if is_cast else ""
    return Diagnosis(cause, where, f"{words}; {fitted}")


def _num_changes(rates: dict[int, float]) -> int:
    return sum(not is_near(one, two, 1e-3) for one, two in pairwise(rates.values()))


def _step_of_change(rates: dict[int, float], own: float) -> int | None:
    """Return the step, after the first, at which a rate leaves the reference's for another."""
    others = [step for step, rate in rates.items() if not is_near(rate, own, 1e-3)]
    is_one_change = others == [step for step in rates if step >= others[0]] if others else False
    is_steady = all(is_near(rates[step], rates[others[0]], 1e-3) for step in others)
    return others[0] if is_one_change and is_steady and others[0] > min(rates) + 1 else None


def _right_rate(updates: Updates, step: int) -> float:
    right = updates.right
    state = (right.weights(step - 1), right.weights(step), right.slot("m", step))
    return rate_of(*state, right.slot("v", step), updates.adams[step], step)


def _listed(rates: dict[int, float]) -> str:
    return join([number(rate) for rate in rates.values()])
