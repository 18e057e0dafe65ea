"""Judge training steps: the loss of each, and the weights behind it."""

from collections.abc import Mapping

import numpy as np

from portproof.graph.align import Alignment
from portproof.graph.calls import Call, Graph
from portproof.graph.gaps import Gap, fitted, gap
from portproof.graph.verdict import Difference, Place

LOSS = 1e-11
"""Losses of one step from the same weights, relative. Measured: up to 4e-16."""
MOVED = 1e-8
"""What steps moved weights by, relative to the largest move of the call."""

Arrays = Mapping[str, np.ndarray]


def judge_steps(
    left: Graph, right: Graph, alignment: Alignment, ours: Arrays, theirs: Arrays, first: Arrays
) -> list[Difference]:
    """Return the first difference of training, if there is one.

    Args:
        left: the reference's calls.
        right: the suspect's.
        alignment: which is which.
        ours: the reference's `step.k|key|role` and `losses`.
        theirs: the suspect's.
        first: the reference's weights before the first step, `key|role`.
    """
    mine, other = ours["losses"], theirs["losses"]
    if len(mine) != len(other):
        sides = (f"{len(mine)} steps", f"{len(other)} steps")
        return [Difference("steps", "training", *sides, "training", [Place("fit", "fit")])]
    texts = (left.about.get("training", {}), right.about.get("training", {}))
    for k in range(len(mine)):
        place = f"step {k + 1}"
        apart = gap(mine[k : k + 1], other[k : k + 1])
        if not apart.within(LOSS):
            sides = (f"{mine[k]:.9g}", f"{other[k]:.9g}")
            detail = f"{texts[0].get('loss', '')} | {texts[1].get('loss', '')}"
            where = [Place(place, place, apart.size)]
            return [Difference("loss", "training", *sides, "training", where, detail=detail)]
        moved = [
            Place(a.owner, b.owner, g.size)
            for i, j in sorted(alignment.pairs.items())
            for a, b in [(left.calls[i], right.calls[j])]
            if not (g := _moved(a, b, k, ours, theirs, first)).within(MOVED)
        ]
        if moved:
            sides = (texts[0].get("optimizer", ""), texts[1].get("optimizer", ""))
            detail = f"weights after {place}"
            return [Difference("update", "call", *sides, "training", moved, detail=detail)]
    return []


def _moved(a: Call, b: Call, k: int, ours: Arrays, theirs: Arrays, first: Arrays) -> Gap:
    """Return how far the two are apart in what the first steps moved a call's weights by."""
    moves = []
    for role in sorted(b.roles.keys() & a.roles.keys()):
        start = first[f"{a.key}|{role}"]
        one = ours[f"step.{k}|{a.key}|{role}"]
        two = fitted(theirs[f"step.{k}|{b.key}|{role}"], one.shape)
        if role == "bias" and ("recurrent_bias" in a.roles) != ("recurrent_bias" in b.roles):
            two = _sum(two, theirs, f"step.{k}|{b.key}", b)
            one = _sum(one, ours, f"step.{k}|{a.key}", a)
            start = _sum(start, first, a.key, a)
        moves.append((one - start, two - start))
    largest = max((float(np.abs(m).max()) for m, _ in moves), default=0.0)
    sizes = [gap(m, t, largest) for m, t in moves if m.any() or t.any()]
    return max(sizes, key=lambda g: g.size, default=Gap(0.0))


def _sum(bias: np.ndarray, arrays: Arrays, key: str, call: Call) -> np.ndarray:
    """Return a bias with its second one, where a call has two."""
    return bias + arrays[f"{key}|recurrent_bias"] if "recurrent_bias" in call.roles else bias
