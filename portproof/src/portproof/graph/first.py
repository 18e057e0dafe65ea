"""Judge the weights that the models start from: by distribution, for they are drawn at random."""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import stats

from portproof.graph.align import Alignment
from portproof.graph.calls import Call, Graph
from portproof.graph.gaps import CALL, gap
from portproof.graph.verdict import Difference, Place

CHANCE = 1e-10
"""Probability of a false alarm for each of the two tests of a weight."""
ENOUGH = 200
"""Numbers by which widths a third apart are told apart almost surely."""
Arrays = Mapping[str, np.ndarray]


def judge_first(
    left: Graph, right: Graph, alignment: Alignment, ours: Arrays, theirs: Arrays
) -> tuple[list[Difference], list[str]]:
    """Return differences of distribution by kind and role, and what could not be told.

    Args:
        left: the reference's calls.
        right: the suspect's.
        alignment: which is which.
        ours: numbers of the reference's own weights by `first|key|role`.
        theirs: the suspect's.
    """
    found: dict[tuple[str, str], Difference] = {}
    few: list[str] = []
    for a, b, role, mine, other in _both(left, right, alignment, ours, theirs):
        if role in a.frozen and role in b.frozen:
            continue
        if not _are_alike(mine, other):
            made = Difference(
                "first weights", f"{a.kind} {role}", _text(mine), _text(other), "none",
                detail="to start from; others are drawn here",
            )  # fmt: skip
            found.setdefault((a.kind, role), made).places.append(Place(a.owner, b.owner))
        elif mine.size < ENOUGH and _is_drawn(mine):
            few.append(f"{a.owner} ({role})")
    notes = [f"too few first weights to tell their distribution: {_short(few)}"] if few else []
    return list(found.values()), notes


def frozen_values(
    left: Graph, right: Graph, alignment: Alignment, ours: Arrays, theirs: Arrays
) -> tuple[list[Difference], list[str]]:
    """Say of constants on both sides whether their own values are equal; others are drawn here."""
    same: list[str] = []
    apart = Difference("values", "frozen weights", "", "", "none",
                       detail="OTHER values of their own; the same for both here")  # fmt: skip
    for a, b, role, mine, other in _both(left, right, alignment, ours, theirs):
        if role in a.frozen and role in b.frozen:
            own = gap(mine, other.reshape(mine.shape))
            if own.within(CALL):
                same.append(f"{a.owner} ({role})")
            else:
                apart.places.append(Place(a.owner, b.owner))
    notes = [f"frozen in both, with the same values of their own: {_short(same)}"] if same else []
    return [apart] if apart.places else [], notes


def _both(
    left: Graph, right: Graph, alignment: Alignment, ours: Arrays, theirs: Arrays
) -> Iterator[tuple[Call, Call, str, np.ndarray, np.ndarray]]:
    """Yield weights that both sides have, each once; no statistics."""
    seen: set[str] = set()
    for i, j in sorted(alignment.pairs.items()):
        a, b = left.calls[i], right.calls[j]
        for role in sorted(a.roles.keys() & b.roles.keys()):
            names = (f"first|{a.key}|{role}", f"first|{b.key}|{role}")
            if names[0] not in ours or names[1] not in theirs or a.place(role) in seen:
                continue
            seen.add(a.place(role))
            mine, other = ours[names[0]], theirs[names[1]]
            if not role.startswith("moving") and mine.size == other.size:
                yield a, b, role, mine, other


def _is_drawn(a: np.ndarray) -> bool:
    """Return whether numbers are random: few are equal."""
    return len(np.unique(a)) > a.size / 2 and bool(a.any()) and not bool((a == 1).all())


def _are_alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two weights may be of one distribution; constants must be equal."""
    a, b = a.reshape(-1), b.reshape(-1)
    if not (_is_drawn(a) and _is_drawn(b)):
        return np.array_equal(a, b)
    with np.errstate(divide="ignore"):  # SciPy's, of a single number
        # Sizes without signs show tails and widths twice as well.
        return all(
            stats.ks_2samp(x, y, method="asymp").pvalue > CHANCE
            for x, y in ((a, b), (np.abs(a), np.abs(b)))
        )


def _text(a: np.ndarray) -> str:
    values = np.unique(a)
    if len(values) <= 2 and not _is_drawn(a):
        return ", ".join(f"{v:g}" for v in values)
    return f"within ±{np.abs(a).max():.2g}, deviation {a.std():.2g}"


def _short(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
