"""Judge what a user's own functions give: the batches of two loaders, and converted weights."""

from collections.abc import Iterator, Mapping

import numpy as np

from portproof.graph.align import Alignment
from portproof.graph.calls import CHANNELS, Call, Graph, order_of
from portproof.graph.gaps import fitted, gap
from portproof.graph.relations import REORDERED, relation, reordered
from portproof.graph.verdict import Difference, Place

SINGLE = 1e-6
"""Loaders compute in float32, and a conversion may pass through it, relative."""
ROUNDING = 1e-7
"""What is left of a column that would be constant, such as after it was standardised."""
_PARTS = {"x": "inputs", "y": "targets", "w": "weights"}
Arrays = Mapping[str, np.ndarray]


def as_reference(right: Graph, batches: Arrays) -> dict[str, np.ndarray]:
    """Return batches of the suspect's with their axes as the reference has them.

    Args:
        right: the suspect, which says where its inputs and outputs have their channels.
        batches: by name: `x.k.i`, `y.k`, `w.k`.
    """
    found = dict(batches)
    for name, a in batches.items():
        part, _, *rest = name.split(".")
        if part == "x":
            found[name] = np.moveaxis(a, CHANNELS[right.about["inputs"][int(rest[0])]] or -1, -1)
        elif part == "y" and (order := order_of(a, right.about.get("axes", []))):
            found[name] = a.transpose(order)
    return found


def judge_batches(ours: Arrays, theirs: Arrays) -> list[Difference]:
    """Return how batches differ that two loaders give.

    Args:
        ours: the reference's, by name: `x.k.i`, `y.k`, `w.k`.
        theirs: the suspect's, with their axes as the reference's.
    """
    if sorted(ours) != sorted(theirs):
        missing = sorted(set(ours) ^ set(theirs))
        sides = (f"{len(ours)} arrays", f"{len(theirs)} arrays")
        place = Place("loader", "loader")
        detail = f"on one side alone: {', '.join(missing[:3])}"
        return [Difference("batches", "batch", *sides, "training", [place], detail=detail)]
    found: dict[str, Difference] = {}
    for name in sorted(ours, key=lambda n: int(n.split(".")[1])):
        part, number, *_ = name.split(".")
        a, b = ours[name], theirs[name]
        apart = gap(a, b)
        if not apart.within(SINGLE) or _hidden(a, b):
            made = Difference("batches", _PARTS[part], _range(a), _range(b), "training")
            made.cause = relation(a, b) if a.shape == b.shape else None
            place = Place(f"batch {int(number) + 1}", f"batch {int(number) + 1}", apart.size)
            found.setdefault(part, made).places.append(place)
    return list(found.values())


def _hidden(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether integers differ, or one column does that others are large beside."""
    if a.dtype.kind != "f" or b.dtype.kind != "f" or a.ndim < 2:
        return a.dtype.kind != "f" and b.dtype.kind != "f" and not np.array_equal(a, b)
    columns = zip(np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0), strict=True)
    return any(float(np.abs(x - y).max()) > max(SINGLE * float(np.abs(x).max()), ROUNDING)
               for x, y in columns)  # fmt: skip


def _range(a: np.ndarray) -> str:
    return f"{tuple(a.shape)}, {a.min():.4g} … {a.max():.4g}"


def judge_conversion(
    left: Graph, right: Graph, alignment: Alignment, given: Arrays, before: Arrays, found: Arrays
) -> list[Difference]:
    """Return weights that a user's conversion did not put where the reference has them.

    Args:
        left: the reference's calls.
        right: the suspect's.
        alignment: which is which.
        given: what the suspect's weights have to be, by `key|role`.
        before: what they were before the conversion.
        found: what they are behind the conversion, by `first|key|role`.
    """
    differences: dict[tuple[str, str, str | None], Difference] = {}
    others = {f"the {role} of {c.owner}": given[name] for c in right.calls for role in c.roles
              if (name := f"{c.key}|{role}") in given}  # fmt: skip
    for i, j in sorted(alignment.pairs.items()):
        a, b = left.calls[i], right.calls[j]
        for role, wanted, seen, was in _converted(a, b, given, found, before):
            apart = gap(wanted, fitted(seen, wanted.shape))
            if apart.within(SINGLE):
                continue
            made = Difference("conversion", f"{a.kind} {role}", "", "", "weights",
                              detail="behind the conversion")  # fmt: skip
            made.cause = _misplaced(wanted, seen, was, others)
            known = differences.setdefault((a.kind, role, made.cause), made)
            known.places.append(Place(a.owner, b.owner, apart.size))
    return list(differences.values())


def _misplaced(wanted: np.ndarray, seen: np.ndarray, was: np.ndarray, others: Arrays) -> str | None:
    """Return which other weight a conversion put there, or in which layout, if that is known."""
    if gap(was, seen).within(SINGLE):
        return "it was left as it was"
    for name, other in others.items():
        may_be = other.shape == seen.shape and np.ptp(other) > 0 and seen.size
        if may_be and np.isclose(other.flat[0], seen.flat[0]) and gap(other, seen).within(SINGLE):
            return f"it holds {name}"
    if wanted.shape != seen.shape:
        return None
    if wanted.ndim == 2 and reordered(wanted.T, seen.T) == REORDERED:
        return "the same rows in another order"
    places = tuple(range(wanted.ndim - 2))
    if len(places) > 1 and gap(wanted, np.flip(seen, places)).within(SINGLE):
        return "kernels read backwards on each axis"
    return relation(wanted, seen)


def _converted(
    a: Call, b: Call, *of: Arrays
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield roles with what they have to be, are, and were; biases that are added, as one."""
    given, found, before = of
    is_sum = ("recurrent_bias" in a.roles) != ("recurrent_bias" in b.roles)
    for role in sorted(b.roles):
        names = [f"{b.key}|{role}"]
        if is_sum and role == "recurrent_bias":
            continue
        if is_sum and role == "bias" and "recurrent_bias" in b.roles:
            names.append(f"{b.key}|recurrent_bias")
        seen = sum(found[f"first|{n}"] for n in names)
        yield role, sum(given[n] for n in names), seen, sum(before[n] for n in names)  # type: ignore[misc]
