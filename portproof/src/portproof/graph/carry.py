"""Draw weights for the reference and carry them over to the suspect, by kind and role."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from portproof.graph.align import Alignment
from portproof.graph.calls import Call, Graph
from portproof.graph.verdict import Difference, Place

NEUTRAL = {"gamma": 1.0, "moving_variance": 1.0}
"""What a role is where the other side has none; others are 0."""
HELD = ", where training leaves it so"
TWO_BIASES = "two biases, which are added"
FIRST_BIAS = 0.375
"""The share of an LSTM's bias that torch's first gets, where it holds the sum of two."""


Arrays = Mapping[str, np.ndarray]


@dataclass
class Carried:
    """Weights for each side, canonical, by `key|role`."""

    left: dict[str, np.ndarray] = field(default_factory=dict)
    right: dict[str, np.ndarray] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)


def draw(
    role: str, shape: tuple[int, ...], rng: np.random.Generator, scale: float = 1.0
) -> np.ndarray:
    """Return a weight such that each of its numbers matters and nothing saturates.

    Args:
        role: of it.
        shape: canonical.
        rng: that draws.
        scale: of kernels; a product of what a model computes may saturate with 1.
    """
    if role == "moving_variance":
        return rng.uniform(0.5, 1.5, shape)
    if role in ("gamma", "alpha"):
        # Of both signs, in steps of 2⁻²⁰: a weight that is one less than its scale holds it.
        signs = rng.permutation(np.arange(np.prod(shape, dtype=int)) % 2 * 2.0 - 1).reshape(shape)
        signed = signs * rng.integers(2**19, 3 * 2**19, shape) / 2**20
        return signed * (0.25 if role == "alpha" else 1.0)
    if len(shape) <= 1:
        return rng.normal(0, 0.1, shape)
    if role in ("table", "beta", "value"):
        return rng.normal(0, 0.5, shape)
    return rng.normal(0, scale * np.sqrt(2 / np.prod(shape[:-1])), shape)


def carry(
    left: Graph,
    right: Graph,
    alignment: Alignment,
    seed: int,
    scale: float = 1.0,
    own: tuple[Arrays, Arrays] = ({}, {}),
) -> Carried:
    """Draw the reference's weights, and give the suspect the same.

    A role that one side alone has gets its neutral value, so that what follows can be compared,
    and is a difference that no verdict passes, unless it is frozen at that value in its own model.

    Args:
        left: the reference.
        right: the suspect.
        alignment: which call is which.
        seed: of what is drawn.
        scale: of kernels.
        own: weights that both models start from, `first|key|role`.
    """
    rng = np.random.default_rng([seed, 2])  # no number of rows
    carried = Carried()
    held: dict[str, np.ndarray] = {}
    for call in left.calls:
        for role, shape in call.roles.items():
            drawn = held.setdefault(call.place(role), draw(role, tuple(shape), rng, scale))
            carried.left.setdefault(f"{call.key}|{role}", drawn)
    lone: dict[tuple[str, str, str], list[Place]] = defaultdict(list)
    two_biases: dict[tuple[bool, str], list[Place]] = defaultdict(list)
    sources: dict[str, tuple[str, np.ndarray]] = {}
    for i, j in sorted(alignment.pairs.items()):
        a, b = left.calls[i], right.calls[j]
        place = Place(a.owner, b.owner)
        shared = ["recurrent_bias"] if _share_one_bias(a, b) else []
        if shared:
            two_biases["recurrent_bias" in a.roles, a.kind].append(place)
        for role in a.roles.keys() - b.roles.keys() - set(shared):
            lone[a.kind, role, "left" + _held(a, role, own[0])].append(place)
            carried.left[f"{a.key}|{role}"] = np.full(a.roles[role], NEUTRAL.get(role, 0.0))
        for role in b.roles.keys() - a.roles.keys() - set(shared):
            lone[a.kind, role, "right" + _held(b, role, own[1])].append(place)
        _give(a, b, place, carried, sources)
    for (is_left, kind), places in two_biases.items():
        sides = (TWO_BIASES, "one bias") if is_left else ("one bias", TWO_BIASES)
        detail = "an optimizer moves both"
        carried.differences.append(
            Difference("biases", kind, *sides, effect="none", places=places, detail=detail)
        )
    carried.differences += _lone(lone)
    carried.differences += _shared_left(left, right, alignment)
    for call in right.calls:
        for role, shape in call.roles.items():
            carried.right.setdefault(f"{call.key}|{role}", draw(role, tuple(shape), rng, scale))
    return carried


def _give(
    a: Call,
    b: Call,
    place: Place,
    carried: Carried,
    sources: dict[str, tuple[str, np.ndarray]],
) -> None:
    """Give a call of the suspect the weights of its counterpart, neutral ones where it has none.

    Args:
        a: the counterpart.
        b: the call.
        place: of both.
        carried: what was given so far.
        sources: where the numbers in each place come from, and these.
    """
    for role, shape in b.roles.items():
        values = _for_role(a, b, role, carried)
        if values is None:
            values = np.full(shape, NEUTRAL.get(role, 0.0))
        if values.size != np.prod(shape):
            sides = (str(values.shape), str(tuple(shape)))
            carried.differences.append(Difference("shape", role, *sides, "output", [place]))
            continue
        source, given = sources.setdefault(b.place(role), (a.place(role), values.reshape(shape)))
        if source != a.place(role):
            sides = ("weights of their own", "weights of another call too")
            carried.differences.append(Difference("sharing", a.kind, *sides, "output", [place]))
        carried.right[f"{b.key}|{role}"] = given


def _share_one_bias(a: Call, b: Call) -> bool:
    """Split a bias where one side holds the sum of two; return whether it does."""
    if a.kind not in ("lstm", "rnn") or "bias" not in a.roles or "bias" not in b.roles:
        return False
    return ("recurrent_bias" in a.roles) != ("recurrent_bias" in b.roles)


def _for_role(a: Call, b: Call, role: str, carried: Carried) -> np.ndarray | None:
    """Return the weight to carry over to a role of the suspect; None if the reference has none."""
    own = carried.left.get(f"{a.key}|{role}") if role in a.roles else None
    if not _share_one_bias(a, b) or role not in ("bias", "recurrent_bias"):
        return own
    whole = carried.left[f"{a.key}|bias"]
    if "recurrent_bias" in a.roles:  # two on the left: the one on the right holds their sum
        return whole + carried.left[f"{a.key}|recurrent_bias"]
    return whole * FIRST_BIAS if role == "bias" else whole - whole * FIRST_BIAS


def _held(call: Call, role: str, own: Arrays) -> str:
    """Return a word where a weight is frozen at its neutral value."""
    value = own.get(f"first|{call.key}|{role}") if role in call.frozen else None
    return HELD if value is not None and (value == NEUTRAL.get(role, 0.0)).all() else ""


def _lone(lone: Mapping[tuple[str, str, str], list[Place]]) -> list[Difference]:
    found: dict[tuple[str, str, tuple[Place, ...]], list[str]] = defaultdict(list)
    for (kind, role, side), places in lone.items():
        found[kind, side, tuple(places)].append(role)
    differences = []
    for (kind, side, where), roles in found.items():
        names = ", ".join(sorted(roles))
        values = ", ".join(f"{NEUTRAL.get(role, 0.0):g}" for role in sorted(roles))
        differences.append(
            Difference(
                "parameters",
                kind,
                *((names, "–") if side.startswith("left") else ("–", names)),
                effect="none" if side.endswith(HELD) else "output",
                places=list(where),
                detail=f"only on the {side}; {values} here",
            )
        )
    return differences


def _shared_left(left: Graph, right: Graph, alignment: Alignment) -> list[Difference]:
    """Report weights that the reference shares among calls and the suspect does not."""
    partners: dict[str, set[str]] = defaultdict(set)
    owners: dict[str, list[Place]] = defaultdict(list)
    for i, j in sorted(alignment.pairs.items()):
        a, b = left.calls[i], right.calls[j]
        for role in a.roles.keys() & b.roles.keys():
            partners[a.place(role)].add(b.place(role))
            owners[a.place(role)].append(Place(a.owner, b.owner))
    shared = {tuple(owners[place]) for place, others in partners.items() if len(others) > 1}
    sides = ("shared by calls", "weights of their own")
    return [
        Difference("sharing", "weights", *sides, "training", list(places))
        for places in sorted(shared, key=str)
    ]
