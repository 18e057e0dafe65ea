"""Causes of weights that stand still, start otherwise, or move by a norm's statistics."""

import numpy as np

from ladder.causes.fits import (
    distance,
    is_near,
    number,
    proportion,
    size_of,
)
from ladder.causes.reading import Steps, join, under
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


@detects("batchnorm-momentum", on=RUNGS, rank=Rank.FITTED)
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


@detects("batchnorm-biased-variance", on=RUNGS, rank=Rank.FITTED)
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
