"""Causes in the update: how a side's own slots became a change of its weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise, product

import numpy as np

from ladder.causes.fits import (
    FLOAT64,
    Fit,
    agree,
    distance,
    fit,
    is_near,
    nice,
    number,
    precision_of,
    proportion,
    size_of,
)
from ladder.causes.formulas import Adam
from ladder.causes.reading import Steps, join, optimizer_settings, under
from ladder.causes.registry import Diagnosis, Evidence, Rank, UnexaminableError, recognises
from ladder.causes.slots import betas, lost_state
from ladder.exchange import Array, Arrays

RUNGS = ("optimizer", "training")
KNOWN_EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-10, 1e-12)
FLOAT32_SHARE = 1e-6
"""Share by which a learning rate may part that went through float32."""
MAX_STEPS = 3
"""Steps on which a hypothesis is computed."""
STILL = 1e-9
"""Share of the reference's step below which a weight has not moved."""
MAX_COUNT = 100_000
"""Largest step count that is looked for in a stale optimizer."""


@dataclass(frozen=True)
class Updates:
    """The steps of both sides and the reference's formula."""

    left: Steps
    right: Steps
    adams: dict[int, Adam]
    """The reference's, by step: its learning rate may follow a schedule."""
    numbers: list[int]
    spared: frozenset[str]
    """Parameters that the reference's weight decay leaves out."""

    def adam(self, step: int, name: str) -> Adam:
        """Return the reference's Adam for a parameter."""
        adam = self.adams[step]
        return replace(adam, decay=0.0) if name in self.spared else adam

    @cached_property
    def few(self) -> list[int]:
        """The steps that hypotheses are computed on: from the first one on that differs."""
        return [step for step in self.numbers if step >= self.first_difference][:MAX_STEPS]

    @cached_property
    def first_difference(self) -> int:
        """The first step after which weights or slots differ; 1 where none does."""
        return next((step for step in self.numbers if not self._are_equal(step)), 1)

    def _are_equal(self, step: int) -> bool:
        states = (
            (side.weights(step), side.slot("m", step), side.slot("v", step))
            for side in (self.left, self.right)
        )
        return all(
            one.keys() == two.keys() and all(agree(one[name], two[name]) for name in one)
            for one, two in zip(*states, strict=True)
        )


def read_updates(evidence: Evidence) -> Updates:
    """Return both sides' steps and the Adam that explains the reference's.

    Raises:
        UnexaminableError: no steps, or the reference's settings do not explain its own.
    """
    if "updates" not in evidence.readings:
        evidence.readings["updates"] = _read_updates(evidence)
    return evidence.readings["updates"]


def _read_updates(evidence: Evidence) -> Updates:
    settings = optimizer_settings(evidence)
    is_decoupled = "decoupled" in str(settings.get("weight_decay_kind", ""))
    adam = Adam(
        float(settings["learning_rate"]),
        float(settings["beta_1"]),
        float(settings["beta_2"]),
        float(settings["epsilon"]),
        is_inside="inside" in str(settings.get("epsilon_placement", "outside")),
        decay=float(settings.get("weight_decay") or 0.0) if is_decoupled else 0.0,
    )
    left = Steps(evidence.left.arrays, _first_weights(evidence, adam))
    right = Steps(evidence.right.arrays, left.first)
    numbers = [step for step in left.numbers if step in right.numbers]
    if not numbers or not left.slot("m", 1):
        raise UnexaminableError("no steps with slots")
    adams = {step: _scheduled(left, adam, step) for step in numbers}
    updates = Updates(left, right, adams, numbers, _spared(left, adams))
    if not _is_reproduced(updates):
        raise UnexaminableError("the reference's settings do not give its own weights")
    return updates


def _is_reproduced(updates: Updates) -> bool:
    left = updates.left
    for step in updates.few:
        before, after = left.weights(step - 1), left.weights(step)
        m, v = left.slot("m", step), left.slot("v", step)
        for name in m:
            made = updates.adam(step, name).after(before[name], m[name], v[name], step)
            allowed = precision_of(after[name]).state * size_of(after[name])
            if not distance(made, after[name]) <= allowed:
                return False
    return True


def _spared(steps: Steps, adams: dict[int, Adam]) -> frozenset[str]:
    """Return the parameters that move as if nothing decayed them, though the others decay."""
    spared = set()
    for name in steps.slot("m", 1) if adams[1].decay else ():
        rests = []
        for decay in (adams[1].decay, 0.0):
            made = [
                replace(adam, decay=decay).after(
                    steps.weights(step - 1)[name],
                    steps.slot("m", step)[name],
                    steps.slot("v", step)[name],
                    step,
                )
                for step, adam in adams.items()
            ]
            pairs = zip(made, adams, strict=True)
            rests.append(max(distance(value, steps.weights(step)[name]) for value, step in pairs))
        if rests[1] < rests[0]:
            spared.add(name)
    return frozenset(spared)


def _first_weights(evidence: Evidence, adam: Adam) -> dict[str, Array]:
    """Return the weights before step 1: the question's, or those that the reference came from."""
    steps = Steps(evidence.left.arrays, {})
    m, v, after = steps.slot("m", 1), steps.slot("v", 1), steps.weights(1)
    asked = under("weights", evidence.question.arrays)
    given = {name: asked[name] for name in after if name in asked}
    if given.keys() == after.keys():
        rate = _rate(given, after, m, v, adam, 1)
        # Where weights decay, biases may be left out.
        sure = [name for name in m if not adam.decay or given[name].ndim > 1]
        moved = {n: replace(adam, learning_rate=rate).after(given[n], m[n], v[n], 1) for n in sure}
        # A fit is asked for against standing still: the question's weights may be other ones.
        if fit(((moved[n], given[n], after[n]) for n in sure), is_state=True):
            return given
    kept = 1 - adam.learning_rate * adam.decay
    return {
        name: (after[name] + adam.learning_rate * adam.direction(m[name], v[name], 1)) / kept
        for name in m
    }


def _scheduled(steps: Steps, adam: Adam, step: int) -> Adam:
    """Return `adam` with the learning rate that a step shows, where that is another."""
    before, after = steps.weights(step - 1), steps.weights(step)
    rate = _rate(before, after, steps.slot("m", step), steps.slot("v", step), adam, step)
    share = 1e-9 if _is_double(after) else 1e-3
    if is_near(rate, adam.learning_rate, share) or not np.isfinite(rate):
        return adam
    return replace(adam, learning_rate=rate)


def _is_double(arrays: Arrays) -> bool:
    return precision_of(*arrays.values()) == FLOAT64


def _rate(before: Arrays, after: Arrays, m: Arrays, v: Arrays, adam: Adam, step: int) -> float:
    """Return the learning rate that explains a step best, NaN where nothing moves it."""
    moved = square = 0.0
    for name in m:
        # Where weights decay, kernels surely do.
        if name not in before or name not in after or (adam.decay and before[name].ndim < 2):
            continue
        weight = np.asarray(before[name], np.float64)
        direction = adam.direction(m[name], v[name], step) + adam.decay * weight
        moved += float(np.vdot(weight - after[name], direction))
        square += float(np.vdot(direction, direction))
    return moved / square if square > 0 else float("nan")


def fit_updates(updates: Updates, vary: Callable[[Adam, int], Adam]) -> Fit | None:
    """Return the gaps where the reference's Adam, varied, makes the suspect's weights.

    It is given the suspect's own slots, so that what came before does not matter.
    """
    return fit(_predictions(updates, vary), is_state=True)


def _predictions(
    updates: Updates, vary: Callable[[Adam, int], Adam]
) -> Iterator[tuple[Array, Array | None, Array]]:
    right = updates.right
    for step in updates.few:
        before, after = right.weights(step - 1), right.weights(step)
        m, v = right.slot("m", step), right.slot("v", step)
        if not m:
            raise UnexaminableError("the suspect has no slots")
        for name in m:
            state = (before[name], m[name], v[name], step)
            adam = updates.adam(step, name)
            yield vary(adam, step).after(*state), adam.after(*state), after[name]


def _with(**changes: object) -> Callable[[Adam, int], Adam]:
    return lambda adam, step: replace(adam, **changes)  # type: ignore[arg-type]


def _word(is_inside: bool) -> str:
    return "inside" if is_inside else "outside"


@recognises("adam-epsilon-placement", on=RUNGS)
def epsilon_placement(evidence: Evidence) -> Diagnosis | None:
    """Recognise Adam with ε on the other side of the bias correction."""
    updates = read_updates(evidence)
    own = updates.adams[1]
    fitted = fit_updates(updates, _with(is_inside=not own.is_inside))
    if not fitted:
        return None
    return _placement(updates, own.epsilon, fitted)


def _placement(updates: Updates, epsilon: float, fitted: Fit) -> Diagnosis:
    own = updates.adams[1]
    words = f"the weights after step 1 are those of Adam with ε {_word(not own.is_inside)} the "
    words += f"bias correction (ε {number(epsilon)}), not {_word(own.is_inside)} it"
    if epsilon != own.epsilon:
        words += f" (ε {number(own.epsilon)})"
    return Diagnosis("adam-epsilon-placement", "optimizer.epsilon_placement", f"{words}; {fitted}")


@recognises("adam-epsilon-value", "adam-epsilon-placement", on=RUNGS, rank=Rank.FITTED)
def epsilon_value(evidence: Evidence) -> Diagnosis | None:
    """Recognise another ε, in the reference's place first and then in the other."""
    updates = read_updates(evidence)
    own = updates.adams[1]
    if fit_updates(updates, _with(is_inside=not own.is_inside)):
        return None
    known = [epsilon for epsilon in KNOWN_EPSILONS if not is_near(epsilon, own.epsilon, 1e-5)]
    tried = [(epsilon, place) for place in (own.is_inside, not own.is_inside) for epsilon in known]
    tried += [
        (_shown_epsilon(updates, place), place) for place in (own.is_inside, not own.is_inside)
    ]
    for epsilon, is_inside in tried:
        fitted = fit_updates(updates, _with(epsilon=epsilon, is_inside=is_inside))
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


@recognises("no-bias-correction", on=RUNGS)
def no_bias_correction(evidence: Evidence) -> Diagnosis | None:
    """Recognise Adam without the bias correction."""
    updates = read_updates(evidence)
    fitted = fit_updates(updates, _with(corrects_bias=False))
    words = f"the weights are those of Adam without bias correction; {fitted}"
    return Diagnosis("no-bias-correction", "optimizer", words) if fitted else None


@recognises("float32-inside-float64", on=RUNGS)
def betas_as_float32(evidence: Evidence) -> Diagnosis | None:
    """Recognise betas that went through float32 on their way into the bias correction."""
    updates = read_updates(evidence)
    own = updates.adams[1]
    betas = {name: float(np.float32(getattr(own, name))) for name in ("beta_1", "beta_2")}
    fitted = fit_updates(updates, _with(**betas))
    words = "the bias correction takes Adam's betas as float32 in a float64 run"
    sentence = f"{words}; {fitted}"
    return Diagnosis("float32-inside-float64", "optimizer", sentence) if fitted else None


@recognises("adamax-or-amsgrad", on=RUNGS)
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


@recognises("stale-optimizer-state", on=RUNGS)
def stale_count(evidence: Evidence) -> Diagnosis | None:
    """Recognise a step count that does not begin at 1."""
    updates = read_updates(evidence)
    if no_bias_correction(evidence):
        return None  # after so many steps that any count fits
    own, right = updates.adams[1], updates.right
    state = (right.weights(0), right.weights(1), right.slot("m", 1), right.slot("v", 1))
    ratio = _rate(*state, own, 1) / own.learning_rate
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


@recognises(
    "learning-rate", "schedule-per-epoch", "float32-inside-float64", on=RUNGS, rank=Rank.FITTED
)
def learning_rate(evidence: Evidence) -> Diagnosis | None:
    """Recognise another learning rate, or one that follows no schedule, from step to step."""
    updates = read_updates(evidence)
    own = {step: updates.adams[step].learning_rate for step in updates.numbers}
    shown = {
        step: 0.0 if _stands(updates, updates.right, step) else _right_rate(updates, step)
        for step in updates.numbers
    }
    if not all(rate >= 0 for rate in shown.values()) or _skipped(updates) or lost_state(evidence):
        return None  # the steps are not counted as the reference's, which looks like another rate
    # As they were typed, or as they show themselves.
    for rates in ({step: _typed(rate) for step, rate in shown.items()}, shown):
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
    return _rate(*state, right.slot("v", step), updates.adams[step], step)


def _typed(rate: float) -> float:
    typed = nice(rate, 1e-8)
    return rate if typed is None else typed


def _listed(rates: dict[int, float]) -> str:
    return join([number(rate) for rate in rates.values()])


@recognises("decoupled-weight-decay", on=RUNGS, rank=Rank.FITTED)
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


@recognises("sgd-instead", on=RUNGS)
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


@recognises("learning-rate-outside-velocity", on=RUNGS)
def rate_and_velocity(evidence: Evidence) -> Diagnosis | None:
    """Recognise momentum whose velocity holds gradients on one side and steps on the other.

    Keras adds the velocity itself, torch the learning rate times it: they part once it changes.
    """
    shares = [_velocity_shares(trace.arrays) for trace in (evidence.left, evidence.right)]
    are_steps = [all(is_near(share, 1, 1e-6) for share in side) for side in shares]
    if not all(shares) or are_steps[0] == are_steps[1]:
        return None
    rates = shares[1 if are_steps[0] else 0]
    if not all(share < 0 for share in rates):
        return None
    words = f"the velocity is multiplied by the learning rate, {join([number(-r) for r in rates])}"
    words += ", as in torch" if are_steps[0] else " in the reference, as in torch"
    where = "optimizer.learning_rate_in_velocity"
    return Diagnosis("learning-rate-outside-velocity", where, f"{words}, and not part of it")


def _velocity_shares(arrays: Arrays) -> list[float]:
    """Return what each step after the first is of the velocity after it; [] where it is not."""
    steps, shares = Steps(arrays, {}), []
    for step in steps.numbers[1:]:
        velocity = under(f"step.{step}.sgd.momentum", arrays)
        before, after = steps.weights(step - 1), steps.weights(step)
        moved = [np.asarray(after[name], np.float64) - before[name] for name in velocity]
        share = _share_of_moves(list(velocity.values()), moved, list(after.values()))
        if share is None:
            return []
        shares.append(share)
    return shares


def _share_of_moves(
    velocity: Sequence[Array], moved: Sequence[Array], weights: Sequence[Array]
) -> float | None:
    """Return r where the moves are r times the velocity, to the weights' rounding."""
    square = sum(float(np.vdot(v, v)) for v in velocity)
    if not square > 0:
        return None
    share = sum(float(np.vdot(v, w)) for v, w in zip(velocity, moved, strict=True)) / square
    allowed = precision_of(*weights).state * max(size_of(weight) for weight in weights)
    is_met = all(distance(share * v, w) <= allowed for v, w in zip(velocity, moved, strict=True))
    return share if is_met else None


def _descent_rate(gradients: Sequence[Array], rests: Sequence[Array]) -> float | None:
    square = sum(float(np.vdot(gradient, gradient)) for gradient in gradients)
    product = sum(float(np.vdot(g, r)) for g, r in zip(gradients, rests, strict=True))
    rate = -product / square if square > 0 else 0.0
    return _typed(rate) if rate > 0 else None


@recognises("optimizer-step-skipped", on=RUNGS)
def skipped_steps(evidence: Evidence) -> Diagnosis | None:
    """Recognise steps in which neither a weight nor a slot moves."""
    updates = read_updates(evidence)
    stood = _skipped(updates)
    if not stood:
        return None
    listed = join([str(step) for step in stood], most=len(stood))
    words = f"no weight moves in step {listed} of the first {updates.numbers[-1]}: "
    words += "steps are skipped, or the gradients of several batches put together"
    return Diagnosis("optimizer-step-skipped", "optimizer", words)


def _skipped(updates: Updates) -> list[int]:
    """Return the steps in which the reference moves and nothing of the suspect does."""
    return [
        step
        for step in updates.numbers
        if _stands(updates, updates.right, step)
        and _are_slots_kept(updates.right, step)
        and not _stands(updates, updates.left, step)
    ]


def _stands(updates: Updates, steps: Steps, step: int) -> bool:
    """Return whether no weight of a side moves in a step."""
    after = steps.weights(step)
    if not after or steps.weights(step - 1).keys() != after.keys():
        return False
    return all(_is_still(updates, steps, name, step) for name in after)


def _is_still(updates: Updates, steps: Steps, name: str, step: int) -> bool:
    """Return whether a weight stands still in a step, to rounding.

    A weight may be known to rounding only: before the first step, and after any that passed, of
    which diagnoses are shown the reference's.
    """
    before, after = (steps.weights(number)[name] for number in (step - 1, step))
    rounding = precision_of(after).state * size_of(after)
    own = [updates.left.weights(number)[name] for number in (step - 1, step)]
    return distance(before, after) <= max(rounding, STILL * distance(*own))


def _are_slots_kept(steps: Steps, step: int) -> bool:
    """Return whether Adam's slots are what they were before a step; where there are none, too."""
    pairs = [
        (steps.slot(letter, step - 1).get(name), after)
        for letter in "mv"
        for name, after in steps.slot(letter, step).items()
    ]
    return all(before is not None and agree(before, after) for before, after in pairs)


@recognises("frozen-layer", "frozen-bias", on=RUNGS, rank=Rank.PATTERN)
def frozen(evidence: Evidence) -> list[Diagnosis]:
    """Recognise parameters that never move while the reference's and all others do."""
    updates = read_updates(evidence)
    still = [
        name
        for name in updates.left.weights(1)
        if _never_moves(updates, updates.right, name)
        and not _never_moves(updates, updates.left, name)
    ]
    weights = updates.right.weights(1)
    if not still or len(still) == len(weights):
        return []
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in still))
    if all(name.endswith(".bias") for name in still):
        words = f"{join(still)} never moves"
        return [Diagnosis("frozen-bias", join(still, most=8), words)]
    where = join(layers, most=8)
    return [Diagnosis("frozen-layer", where, f"{where}: its weights never move: {join(still)}")]


def _never_moves(updates: Updates, steps: Steps, name: str) -> bool:
    if any(name not in steps.weights(step) for step in (0, *updates.numbers)):
        return False
    return all(_is_still(updates, steps, name, step) for step in updates.numbers)


@recognises("weights-not-loaded", on=RUNGS, rank=Rank.PATTERN)
def other_first_weights(evidence: Evidence) -> Diagnosis | None:
    """Recognise training that begins from other weights than the reference's."""
    updates = read_updates(evidence)
    first, after = updates.left.first, updates.right.weights(1)
    others = [
        name
        for name, weight in first.items()
        if name in after
        and weight.size > 8
        and weight.any()
        and _is_unlike(weight, after[name])
        and not _is_moved_by(updates, name)
    ]
    if not others:
        return None
    words = "after step 1 these are unlike the first weights, as if drawn anew: "
    return Diagnosis("weights-not-loaded", join(others), f"{words}{join(others)}")


def _is_moved_by(updates: Updates, name: str) -> bool:
    """Return whether a weight is unlike the first ones because a step took it far from there."""
    right = updates.right
    state = right.slot("m", 1).get(name), right.slot("v", 1).get(name)
    if state[0] is None or state[1] is None:
        return False
    ahead = updates.adam(1, name).direction(state[0], state[1], 1)
    moved = np.asarray(right.weights(1)[name], np.float64) - updates.left.first[name]
    norms = float(np.linalg.norm(moved)) * float(np.linalg.norm(ahead))
    return norms > 0 and -float(np.vdot(moved, ahead)) > 0.5 * norms


def _is_unlike(first: Array, after: Array) -> bool:
    """Return whether weights have the size of the first ones and no likeness to them."""
    norms = float(np.linalg.norm(first)), float(np.linalg.norm(after))
    cosine = float(np.vdot(first, after)) / (norms[0] * norms[1])
    return abs(cosine) < 0.5 and 0.2 < norms[1] / norms[0] < 5


@recognises("batchnorm-momentum", on=RUNGS, rank=Rank.FITTED)
def moving_momentum(evidence: Evidence) -> list[Diagnosis]:
    """Recognise moving averages that go another share of the way to the batch's statistics."""
    found = []
    for layer, (first, left, right) in _moving(evidence, "moving_mean").items():
        ratio = proportion([left - first], [right - first], is_state=True)
        kept = _kept(evidence, layer)
        if ratio is None or is_near(ratio, 1, 1e-6) or ratio < 0:
            continue
        words = f"{layer}: the moving mean goes {number(ratio)} times as far in a step"
        if kept is not None:
            other = 1 - ratio * (1 - kept)
            words += f": it keeps {number(other)} of itself against {number(kept)}"
            if is_near(other, 1 - kept, 1e-4):
                words += ", momentum taken for the share of the new value"
        found.append(Diagnosis("batchnorm-momentum", layer, words))
    return found


@recognises("batchnorm-biased-variance", on=RUNGS, rank=Rank.FITTED)
def moving_variance(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a moving variance made from n − 1 where the reference's is from n, or reversed."""
    means, found = _moving(evidence, "moving_mean"), []
    for layer, (first, left, right) in _moving(evidence, "moving_variance").items():
        _, left_mean, right_mean = means[layer]
        kept = _kept(evidence, layer)
        is_mean_equal = distance(left_mean, right_mean) <= 1e-6 * max(size_of(left_mean), 1e-9)
        if kept is None or not is_mean_equal:
            continue
        ratio = proportion([left - kept * first], [right - kept * first], is_state=True)
        if ratio is None or is_near(ratio, 1, 1e-9):
            continue
        count = ratio / (ratio - 1) if ratio > 1 else 1 / (1 - ratio)
        if count > 1.5 and is_near(count, round(count), 1e-3):
            words = f"{layer}: the moving variance divides by {'n − 1' if ratio > 1 else 'n'}, "
            words += f"not {'n' if ratio > 1 else 'n − 1'}, n = {round(count)} values a channel"
            found.append(Diagnosis("batchnorm-biased-variance", layer, words))
    return found


def _moving(evidence: Evidence, kind: str) -> dict[str, tuple[Array, Array, Array]]:
    """Return each layer's moving statistic before step 1, and after it on both sides."""
    start = 0.0 if kind == "moving_mean" else 1.0
    sides = [under("step.1.weight", trace.arrays) for trace in (evidence.left, evidence.right)]
    asked = under("weights", evidence.question.arrays)
    return {
        name.removesuffix(f".{kind}"): (
            np.asarray(asked.get(name, np.full_like(left, start)), np.float64),
            np.asarray(left, np.float64),
            np.asarray(sides[1][name], np.float64),
        )
        for name, left in sides[0].items()
        if name.endswith(f".{kind}") and name in sides[1]
    }


def _kept(evidence: Evidence, layer: str) -> float | None:
    """Return the share of itself that the reference's moving mean keeps."""
    contract = evidence.left.facts.get("contract", {}).get("layers", {}).get(layer, {})
    rows = {row["name"]: row for row in evidence.left.facts.get("layers", [])}
    kept = {**rows.get(layer, {}), **contract}.get("momentum")
    return None if kept is None else float(kept)
