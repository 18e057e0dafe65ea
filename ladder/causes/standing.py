"""Causes of weights that stand still or start otherwise."""

import numpy as np

from ladder.causes.reading import Steps, join
from ladder.causes.registry import Diagnosis, Evidence, Rank, detects
from ladder.causes.updates import RUNGS, Updates, is_still, read_updates, skipped_numbers
from ladder.exchange import Array


@detects("optimizer-step-skipped", on=RUNGS)
def skipped_steps(evidence: Evidence) -> Diagnosis | None:
    """Recognise steps in which neither a weight nor a slot moves."""
    updates = read_updates(evidence)
    stood = skipped_numbers(updates)
    if not stood:
        return None
    listed = join([str(step) for step in stood], most=len(stood))
    words = f"no weight moves in step {listed} of the first {updates.numbers[-1]}: "
    words += "steps are skipped, or the gradients of several batches put together"
    return Diagnosis("optimizer-step-skipped", "optimizer", words)


@detects("frozen-layer", "frozen-bias", on=RUNGS, rank=Rank.PATTERN)
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
    return all(is_still(updates, steps, name, step) for step in updates.numbers)


@detects("weights-not-loaded", on=RUNGS, rank=Rank.PATTERN)
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
