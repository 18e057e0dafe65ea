"""Causes in Adam's slots: which gradient came in, and what was kept of those before."""

from collections.abc import Iterator

import numpy as np

from ladder.causes.fits import (
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
from ladder.causes.reading import Steps, optimizer_settings, under
from ladder.causes.registry import Diagnosis, Evidence, Rank, UnexaminableError, detects
from ladder.exchange import Array, Arrays

RUNGS = ("optimizer", "training")
MIN_HELD = 40
"""Values of v that must be larger than the first gradient makes them, in stale slots."""


def slot_steps(evidence: Evidence) -> tuple[Steps, Steps, float, float]:
    """Return both sides' steps, and the reference's betas.

    Raises:
        UnexaminableError: a side has no slots after step 1, or other ones than the other side.
    """
    settings = optimizer_settings(evidence)
    left, right = (Steps(trace.arrays, {}) for trace in (evidence.left, evidence.right))
    names = [set(side.slot("m", 1)) & set(side.slot("v", 1)) for side in (left, right)]
    if not names[0] or names[0] != names[1]:
        raise UnexaminableError("no common slots after step 1")
    return left, right, float(settings["beta_1"]), float(settings["beta_2"])


def _slot_ratio(left: Arrays, right: Arrays) -> float | None:
    return proportion(list(left.values()), [right[name] for name in left], is_state=True)


@detects("adam-beta-1", "adam-beta-2", on=RUNGS, rank=Rank.FITTED)
def betas(evidence: Evidence) -> list[Diagnosis]:
    """Recognise other betas: slots of the first step that are one multiple of the reference's.

    m₁ = (1 − β₁)·g and v₁ = (1 − β₂)·g²: a scaled gradient would scale v by the square.
    """
    left, right, beta_1, beta_2 = slot_steps(evidence)
    m = _slot_ratio(left.slot("m", 1), right.slot("m", 1))
    v = _slot_ratio(left.slot("v", 1), right.slot("v", 1))
    if m is None or v is None:
        return []
    if not is_near(m, 1, 1e-6) and not is_near(v, 1, 1e-6) and is_near(v, m * m, 1e-4):
        return []
    shown = 1 - m * (1 - beta_1), 1 - v * (1 - beta_2)
    if not _are_kept(left, beta_1, beta_2) or not _are_kept(right, *shown):
        return []
    if _moves_otherwise(evidence, right, *shown):
        return []  # two steps with one gradient leave slots as of β²
    found = []
    for cause, letter, ratio, own in (
        ("adam-beta-1", "m", m, beta_1),
        ("adam-beta-2", "v", v, beta_2),
    ):
        other = 1 - ratio * (1 - own)
        if not is_near(ratio, 1, 1e-6) and 0 <= other < 1:
            name = cause.removeprefix("adam-").replace("-", "_")
            words = f"{name} is {number(other)} against {number(own)}: {letter} after step 1 is "
            words += f"{number(ratio)} times the reference's"
            found.append(Diagnosis(cause, f"optimizer.{name}", words))
    return found


def _moves_otherwise(evidence: Evidence, steps: Steps, beta_1: float, beta_2: float) -> bool:
    """Return whether weights in step 2 do not move along Adam's direction with these betas."""
    settings = optimizer_settings(evidence)
    before, after = steps.weights(1), steps.weights(2)
    m, v = steps.slot("m", 2), steps.slot("v", 2)
    if not before.keys() >= m.keys() or not after.keys() >= m.keys():
        return False
    if settings.get("weight_decay") or "epsilon" not in settings:
        return False  # the direction is not all that moves them, or not known
    is_inside = "inside" in str(settings.get("epsilon_placement", "outside"))
    adam = Adam(1.0, beta_1, beta_2, float(settings["epsilon"]), is_inside)
    moved = [np.asarray(after[name], np.float64) - before[name] for name in m]
    ahead = [adam.direction(m[name], v[name], 2) for name in m]
    square = sum(float(np.vdot(one, one)) for one in ahead)
    rate = sum(float(np.vdot(one, two)) for one, two in zip(ahead, moved, strict=True)) / square
    rounding = 10 * precision_of(*after.values()).state
    allowed = [rounding * max(size_of(weight) for weight in after.values())] * len(m)
    gaps = [distance(rate * one, two) for one, two in zip(ahead, moved, strict=True)]
    return not all(gap <= most for gap, most in zip(gaps, allowed, strict=True))


def _are_kept(steps: Steps, beta_1: float, beta_2: float) -> bool:
    """Return whether one gradient's value and square make m and v of step 2 from those before."""
    if 2 not in steps.numbers:
        return True
    (m, v), (before_m, before_v) = (
        (steps.slot("m", step), steps.slot("v", step)) for step in (2, 1)
    )
    for name in m:
        came = (np.asarray(m[name], np.float64) - beta_1 * before_m[name]) / (1 - beta_1)
        made = beta_2 * before_v[name] + (1 - beta_2) * came**2
        share = 1e-4 if precision_of(v[name]).computed > 1e-6 else 1e-7
        if not distance(made, v[name]) <= share * size_of(v[name]):
            return False
    return True


@detects("gradient-accumulation", on=RUNGS)
def accumulated_gradients(evidence: Evidence) -> Diagnosis | None:
    """Recognise a second step with the first step's gradient added to its own."""
    left, right, beta_1, _ = slot_steps(evidence)
    if 2 not in left.numbers or 2 not in right.numbers:
        return None
    first, second = left.gradients(1, beta_1), left.gradients(2, beta_1)
    received = right.gradients(2, beta_1)
    fitted = fit((first[name] + second[name], second[name], received[name]) for name in first)
    if not fitted:
        return None
    words = "the gradient of step 2 is the sum of those of steps 1 and 2: gradients are not set to "
    return Diagnosis("gradient-accumulation", "optimizer", f"{words}zero; {fitted}")


@detects("stale-optimizer-state", on=RUNGS, rank=Rank.PATTERN)
def stale_slots(evidence: Evidence) -> Diagnosis | None:
    """Recognise slots of the first step that hold more than its gradient.

    What is left of m and v, once the reference's gradient is taken away, must be slots that Adam
    can have: v nowhere negative, and m² no larger than the Cauchy–Schwarz bound on it.
    """
    left, right, beta_1, beta_2 = slot_steps(evidence)
    m_1, v_1 = left.slot("m", 1), left.slot("v", 1)
    m, v = right.slot("m", 1), right.slot("v", 1)
    if _slot_ratio(m_1, m) is not None or _slot_ratio(v_1, v) is not None:
        return None  # a scaled gradient, or other betas
    squares = {name: np.square(np.asarray(value, np.float64)) for name, value in m.items()}
    if _slot_ratio(squares, v) is not None:
        return None  # of one gradient, whatever it is: there were none before
    bound = (1 - beta_1) ** 2 / (1 - beta_2) / (1 - beta_1**2 / beta_2)
    num_held = 0
    for name in m_1:
        held_m = (np.asarray(m[name], np.float64) - m_1[name]) / beta_1
        held_v = (np.asarray(v[name], np.float64) - v_1[name]) / beta_2
        rounding = precision_of(v[name]).computed * size_of(v[name])
        is_possible = (held_v >= -rounding) & (held_m**2 <= bound * (1.001 * held_v + rounding))
        if not is_possible.all():
            return None
        num_held += int((held_v > rounding).sum())
    # A gap of either sign would have to be positive so many times by chance.
    if num_held < MIN_HELD:
        return None
    sentence = "m and v after step 1 hold earlier gradients besides the first batch's: the slots "
    return Diagnosis("stale-optimizer-state", "optimizer", f"{sentence}were not zero before it")


@detects("optimizer-state-lost", on=RUNGS)
def lost_state(evidence: Evidence) -> Diagnosis | None:
    """Recognise slots that begin anew at a later step: v is then one gradient's square, as m's."""
    left, right, beta_1, beta_2 = slot_steps(evidence)
    share = (1 - beta_2) / (1 - beta_1) ** 2
    for step in (step for step in right.numbers if step in left.numbers and step > 1):
        m, v, own = right.slot("m", step), right.slot("v", step), left.slot("v", step)
        if not any(value.any() for value in right.slot("m", step - 1).values()):
            continue  # nothing was there to be lost
        if all(agree(m[name], value) for name, value in right.slot("m", step - 1).items()):
            continue  # no step was taken
        fitted = fit((share * np.square(m[name]), own[name], v[name]) for name in m)
        if fitted:
            words = f"before step {step}, m and v are set to zero: earlier gradients are forgotten"
            return Diagnosis("optimizer-state-lost", "optimizer", f"{words}; {fitted}")
    return None


@detects("adamax-or-amsgrad", on=RUNGS)
def adamax(evidence: Evidence) -> Diagnosis | None:
    """Recognise Adamax, whose second slot is the largest gradient so far."""
    left, right, beta_1, _ = slot_steps(evidence)
    gradients, v = left.gradients(1, beta_1), right.slot("v", 1)
    own = left.slot("v", 1)
    fitted = fit((np.abs(gradients[name]), own[name], v[name]) for name in gradients)
    words = f"the second slot is the largest gradient, as in Adamax; {fitted}"
    return Diagnosis("adamax-or-amsgrad", "optimizer.kind", words) if fitted else None


@detects("clipped-gradients", on=RUNGS, rank=Rank.FITTED)
def clipped_gradients(evidence: Evidence) -> Diagnosis | None:
    """Recognise a first gradient clipped by value, by each norm or by the norm of all."""
    left, right, beta_1, _ = slot_steps(evidence)
    one, two = left.gradients(1, beta_1), right.gradients(1, beta_1)
    losses = left.loss(1), right.loss(1)
    if losses[0] is not None and losses[1] is not None and not is_near(losses[0], losses[1], 1e-4):
        return None  # the loss itself is another
    # A reference that clips too has scaled its gradients all alike, by what the others show.
    is_clipped = str(optimizer_settings(evidence).get("clipping", "none")) != "none"
    own = _unscaled(one, two) if is_clipped else one
    for words in (_by_value(own, two), _by_each_norm(own, two), _by_all(evidence, one, two)):
        if words:
            return Diagnosis("clipped-gradients", "optimizer.clipping", words)
    return None


def _unscaled(one: Arrays, two: Arrays) -> Arrays:
    """Return `one` in the scale of what `two` leaves as it is: where it is most, clipping least."""
    ratios = [
        float(np.vdot(one[name], two[name])) / square
        for name in one
        if (square := float(np.vdot(one[name], one[name]))) > 0
    ]
    whole = [
        np.asarray(two[name], np.float64)[one[name] != 0] / one[name][one[name] != 0]
        for name in one
    ]
    # Clipped value by value, most values of all are as they were.
    middle = float(np.median(np.concatenate([ratio.reshape(-1) for ratio in whole])))
    scale = max([middle, *ratios])
    return {name: scale * np.asarray(value, np.float64) for name, value in one.items()}


def _by_value(one: Arrays, two: Arrays) -> str | None:
    limit = max(size_of(value) for value in two.values())
    if not limit > 0:
        return None  # no gradient came in at all
    fitted = fit((np.clip(one[name], -limit, limit), one[name], two[name]) for name in one)
    return (
        f"gradients are clipped to ±{number(limit)}, value by value; {fitted}" if fitted else None
    )


def _norm(arrays: Iterator[Array]) -> float:
    return float(np.sqrt(sum(float(np.vdot(a, a)) for a in (np.asarray(x, float) for x in arrays))))


def _by_each_norm(one: Arrays, two: Arrays) -> str | None:
    norms = {name: _norm(iter([value])) for name, value in two.items()}
    limit = max(norms.values())
    shares = {name: min(1.0, limit / (_norm(iter([one[name]])) or limit)) for name in one}
    fitted = fit((one[name] * shares[name], one[name], two[name]) for name in one)
    num_clipped = sum(share < 1 - 1e-9 for share in shares.values())
    if not fitted or (len(one) > 1 and num_clipped < 2 and nice(limit, 1e-5) is None):
        return None
    if len(one) > 1 and len({f"{share:.9f}" for share in shares.values()}) == 1:
        return None
    return f"each parameter's gradient is clipped to norm {number(limit)}; {fitted}"


def _by_all(evidence: Evidence, one: Arrays, two: Arrays) -> str | None:
    """Recognise clipping by the norm of all: to a number that was typed, in every step.

    A gradient that is scaled by something else has some norm, too.
    """
    ratio = proportion(list(one.values()), [two[name] for name in one])
    if ratio is not None and (words := _by_norm_and_more(evidence, one, two)):
        return words
    if ratio is None or is_near(ratio, 1, 1e-6):
        return None
    norms = _norm(iter(one.values())), _norm(iter(two.values()))
    share = 1e-7 if precision_of(*two.values()).computed < 1e-6 else 1e-5
    # As Keras clips, and as torch, which divides by the norm plus 1e-6.
    limits = [nice(norms[1] * factor, share) for factor in (1.0, 1 + 1e-6 / norms[0])]
    typed = next((limit for limit in limits if limit is not None), None)
    if ratio < 1 and typed is not None and _never_exceed(evidence, typed):
        return f"the gradients' total norm is clipped to {typed:g}, from {norms[0]:.4g}"
    contract = optimizer_settings(evidence).get("clipping", "none")
    if ratio > 1 and str(contract) != "none":
        words = f"the gradients' total norm, {norms[1]:.4g}, is not clipped; the reference's is"
        return f"{words}, {contract}"
    return None


def _never_exceed(evidence: Evidence, limit: float) -> bool:
    """Return whether no gradient of the suspect's has a larger norm, in any step."""
    _, right, beta_1, _ = slot_steps(evidence)
    norms = [_norm(iter(right.gradients(step, beta_1).values())) for step in right.numbers]
    return all(norm <= limit * (1 + 1e-4) for norm in norms)


def _by_norm_and_more(evidence: Evidence, one: Arrays, two: Arrays) -> str | None:
    """Recognise clipping by the norm of all plus 1e-6, as torch's `clip_grad_norm_` divides."""
    if str(optimizer_settings(evidence).get("clipping", "none")) == "none":
        return None
    ratio = proportion(list(one.values()), [two[name] for name in one], is_state=True)
    norms = _norm(iter(one.values())), _norm(iter(two.values()))
    if ratio is None or not 1e-12 < 1 - ratio < 1e-6 * 1.001 / norms[0]:
        return None
    total = ratio * 1e-6 / (1 - ratio)
    words = f"the gradients' total norm is clipped to {norms[1]:.12g}, not {norms[0]:.12g}: it is "
    return f"{words}divided by itself plus 1e-6, as if it was {total:.3g}"


@detects("coupled-weight-decay", on=RUNGS, rank=Rank.FITTED)
def decay_in_clipped_gradients(evidence: Evidence) -> Diagnosis | None:
    """Recognise a first gradient that holds a multiple of the weights and is clipped then."""
    left, right, beta_1, _ = slot_steps(evidence)
    if str(optimizer_settings(evidence).get("clipping", "none")) == "none":
        return None  # `decay_in_the_gradient` looks at gradients as they are
    one, two = left.gradients(1, beta_1), right.gradients(1, beta_1)
    weights = under("weights", evidence.question.arrays)
    names = [name for name in one if name in weights and weights[name].ndim > 1]
    if not names:
        return None
    columns = [
        np.concatenate([np.asarray(side[name], np.float64).reshape(-1) for name in names])
        for side in (one, weights)
    ]
    received = np.concatenate([np.asarray(two[name], np.float64).reshape(-1) for name in names])
    (scale, decay), *_ = np.linalg.lstsq(np.stack(columns, axis=1), received, rcond=None)
    if not scale > 0 or not decay > 1e-9 * scale:
        return None
    fitted = fit(
        (scale * np.asarray(one[name], np.float64) + decay * weights[name], one[name], two[name])
        for name in names
    )
    words = "each kernel's gradient holds a multiple of the weight besides the reference's: weight "
    words += f"decay inside the loss, before the clipping; {fitted}"
    return Diagnosis("coupled-weight-decay", "kernels", words) if fitted else None
