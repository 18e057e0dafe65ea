"""Judge training steps: the loss of each, and the weights behind it."""

import re
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
            found = Difference("update", "call", *sides, "training", moved, detail=detail)
            if k == 0:
                found.cause = _adams(left, right, alignment, (ours, theirs, first))
            return [found]
    return []


def _adams(
    left: Graph, right: Graph, alignment: Alignment, arrays: tuple[Arrays, Arrays, Arrays]
) -> str | None:
    """Return a cause if the first step's moves are those of Keras's Adam and of torch's.

    At step 1 an Adam moves by lr·g/(|g| + e). In Keras ε stands beside √v, which is √(1 - β₂)·|g|
    there, and e is ε/√(1 - β₂); in torch it is ε itself. So one's moves follow from the other's.
    """
    ours, theirs, first = arrays
    own, its = (_options(g.about.get("training", {}).get("optimizer", "")) for g in (left, right))
    e, other, rate = _beside_gradient(own), _beside_gradient(its), own.get("learning_rate")
    if e is None or other is None or rate is None or rate != its.get("lr"):
        return None
    for i, j in alignment.pairs.items():
        a, b = left.calls[i], right.calls[j]
        if a.roles.keys() != b.roles.keys():
            return None
        for role in a.roles:
            start = first[f"{a.key}|{role}"]
            signed = ours[f"step.0|{a.key}|{role}"] - start
            move = np.abs(signed)
            seen = fitted(theirs[f"step.0|{b.key}|{role}"], start.shape) - start
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(move > 0, other / e * (rate - move) / move, np.inf)
            if not gap(seen, np.sign(signed) * rate / (1 + share), rate).within(MOVED):
                return None
    return "ε beside √v in Keras's Adam, beside √(v/(1 − β₂ᵗ)) in torch's"


def _options(text: str) -> dict[str, float]:
    """Return an Adam's numbers by name; none of another optimizer's."""
    found = re.findall(r"(\w+)=\(?([\d.e+-]+)(?:, ([\d.e+-]+)\))?", text)
    options = {name: float(last or value) for name, value, last in found}
    return options if text.startswith("Adam(") and "weight_decay" not in options else {}


def _beside_gradient(options: Mapping[str, float]) -> float | None:
    """Return what an Adam adds to |g| at its first step; None of another optimizer."""
    if "betas" in options and "eps" in options:
        return options["eps"]
    if "beta_2" in options and "epsilon" in options:
        return float(options["epsilon"] / np.sqrt(1 - options["beta_2"]))
    return None


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
