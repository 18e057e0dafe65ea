"""Causes that are searched for: an order of calls, a scale before a softmax, several at once."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, combinations, islice, permutations, product

import numpy as np
from scipy.optimize import minimize_scalar

from portproof.graph.align import BENDING
from portproof.graph.calls import Graph, Op
from portproof.graph.gaps import CALL
from portproof.graph.verdict import Difference

MOST_EXCHANGED = 3
"""Calls of one shape before a stretch that are tried in each other's place."""
SOFTMAX = ("softmax", "log_softmax")
FACTORS = ("mul", "rmul", "div", "truediv")
"""Functions whose constants are tried one by one."""
_Option = tuple[str, str, str, bool, str]
"""A function and one of its variants: key, text, whether it rounds a constant, and of what."""
MOST_TRIALS = 40
"""Of several causes at once, in all stretches together."""
MOST_CONSTANTS = 3
"""In float32 in one stretch."""
_DOUBLINGS = range(-8, 9)
"""Scales that are tried first, as powers of 2."""
_LARGEST_SQUARE = 4096
"""Of a scale's square, the largest numerator or denominator but 1."""


def scale(names: Sequence[str], apart: Callable[[dict[str, str]], float], other: str) -> str | None:
    """Return the factor of the scores before a softmax that makes a stretch equal, in words.

    Args:
        names: of the functions there, of `SOFTMAX`.
        apart: how far the stretch is apart with functions replaced by variants.
        other: the side whose numbers are wanted, in words.
    """

    def at(doublings: float) -> float:
        return apart(dict.fromkeys(names, f"scaled={2.0 ** float(doublings)!r}"))

    if not names:
        return None
    sizes = {doublings: at(doublings) for doublings in _DOUBLINGS}
    nearest = min(sizes, key=lambda doublings: sizes[doublings])
    if not math.isfinite(sizes[nearest]):
        return None
    bounds, options = (nearest - 1, nearest + 1), {"xatol": 1e-9, "maxiter": 60}
    found = minimize_scalar(at, bounds=bounds, method="bounded", options=options)
    square = Fraction(4.0**found.x).limit_denominator(_LARGEST_SQUARE)
    if square in (0, 1) or at(math.log2(square) / 2) > CALL:
        return None
    return f"Scores times {math.sqrt(square):.6g} (√({square})) before the softmax in {other}"


def together(
    variants: Mapping[str, Mapping[str, tuple[str, bool, str]]],
    vanishes: Callable[[dict[str, str], bool], bool],
    is_small: bool,
) -> tuple[str, dict[str, str], bool] | None:
    """Find constants in float32 that act together in a stretch, and one variant beside them.

    Args:
        variants: of each function there: the text, whether it rounds a constant, and its base.
        vanishes: whether functions replaced by variants give the other side's numbers; or, where
            that is asked, the side's own.
        is_small: whether the gap may be of constants alone.

    Returns:
        The cause in words, the variants, and whether they are constants alone.
    """
    for them in _trials(variants, is_small):
        swaps = {name: key for name, key, *_ in them}
        if not vanishes(swaps, False):
            continue
        bases = {name: base for name, _, _, is_constant, base in them if is_constant and base}
        is_rule = all(o[3] for o in them) and (not bases or vanishes(bases, True))
        texts = [o[2] if is_rule or not o[4] else variants[o[0]][o[4]][0] for o in them]
        words = [text.rstrip(",") for text in texts]
        words[1:] = [w if w[1:2].isupper() else w[:1].lower() + w[1:] for w in words[1:]]
        return ", and ".join(words), swaps, is_rule
    return None


def _trials(
    variants: Mapping[str, Mapping[str, tuple[str, bool, str]]], is_small: bool
) -> Iterator[list[_Option]]:
    """Yield constants that may act together, few first; then each other variant beside some."""
    options = [(name, key, *of[key]) for name, of in variants.items() for key in of]
    rounding = {name: [o for o in options if o[0] == name and o[3]] for name in variants}

    def constants(size: int) -> Iterator[tuple[_Option, ...]]:
        for names in combinations(rounding, size):
            yield from product(*(rounding[name] for name in names))

    for size in range(2, MOST_CONSTANTS + 1):
        yield from (list(c) for c in constants(size) if is_small or any(o[4] for o in c))
    for size in range(1, MOST_CONSTANTS):
        for chosen in constants(size):
            taken = {name for name, *_ in chosen}
            yield from ([o, *chosen] for o in options if not o[3] and o[0] not in taken)


def variants_of(
    name: str, known: Mapping[str, tuple[str, bool, str]], own: Graph, other: Graph
) -> dict[str, tuple[str, bool, str]]:
    """Return variants of a function, also by the numbers that the two sides' functions take.

    Of a product each of its constants is rounded to float32; an activation is a leaky ReLU by the
    other side's slopes.

    Args:
        name: of the function.
        known: its other variants.
        own: the side that computes it.
        other: the other side.
    """
    found = dict(known)
    if name in FACTORS:
        ops = (op for op in _ops(own) if op.text.partition("(")[0] == name)
        for v in sorted({v for op in ops for v in op.args.get("args", []) if isinstance(v, float)}):
            if v != float(np.float32(v)):
                found[f"factor={v!r}"] = (f"a factor, {v:g}, rounded to float32", True, "")
    if "as_relu" in known:
        told = [op.args for op in _ops(other) if op.name == "leaky_relu"]
        for v in {v for args in told for v in (*args.values(), *args.get("args", ()))
                  if isinstance(v, float) and v > 0}:  # fmt: skip
            found[f"slope={v!r}"] = (f"leaky ReLU with slope {v:g}", False, "")
            if v != (single := float(np.float32(v))):
                text = f"leaky ReLU with slope {v:g}, rounded to float32,"
                found[f"slope={single!r}"] = (text, False, "")
    return found


def _ops(graph: Graph) -> Iterator[Op]:
    yield from chain(*(c.between for c in graph.calls), *(o.between for o in graph.outputs))


def preds_of_one_shape(
    d: Difference,
    graph: Graph,
    by_place: Mapping[tuple[str, str], list[tuple[int, int]]],
    paired: Collection[int],
) -> list[list[int]]:
    """Return, for each stretch of a difference, the calls of one shape that lead to it.

    No groups where they are too many, or stretches have different numbers of them or share some.
    """
    groups: list[list[int]] = []
    for place in d.places:
        stretches = [graph.calls[j].preds for _, j in by_place.get((place.left, place.right), [])]
        if place.left == "the last call":
            stretches = [graph.outputs[int(place.right.removeprefix("output") or 0)].preds]
        for preds in stretches:
            found = sorted({p for p in preds if isinstance(p, int) and p in paired})
            shapes = Counter(tuple(graph.calls[j].out_shape) for j in found)
            shape = max(shapes, key=lambda each: shapes[each], default=())
            group = [j for j in found if tuple(graph.calls[j].out_shape) == shape]
            if group not in groups:
                groups.append(group)
    counts = {len(group) for group in groups}
    is_many = not counts or len(counts) > 1 or not 1 < max(counts) <= MOST_EXCHANGED
    return [] if is_many or len({*chain(*groups)}) < sum(map(len, groups)) else groups


def order(
    groups: list[list[int]],
    left: Graph,
    right: Graph,
    pairs: Mapping[int, int],
    apart: Callable[[dict[int, int]], float],
) -> str | None:
    """Return which calls stand in each other's place, if their exchange makes a stretch equal.

    Args:
        groups: calls of the suspect that are tried in all orders, the same in each group.
        left: the reference.
        right: the suspect.
        pairs: which calls belong together.
        apart: how far the stretch is apart where each call hands on what another's counterpart
            gives.
    """
    counterparts = {j: i for i, j in pairs.items()}
    for places in islice(permutations(range(len(groups[0]))), 1, None) if groups else ():
        others = {group[k]: group[n] for group in groups for k, n in enumerate(places) if k != n}
        if apart(others) > CALL:
            continue
        first = {j: others[j] for j in groups[0] if j in others}
        names = [(left.calls[counterparts[n]].owner, right.calls[j].owner)
                 for j, n in first.items()]  # fmt: skip
        ours, theirs = (", ".join(side) for side in zip(*names, strict=True))
        if len({right.calls[j].siblings for j in first}) > 1:
            return f"what {theirs} give stands where that of {ours} does in the reference"
        meant = " ".join(f"--pair '{a}={b}'" for a, b in names)
        return f"{theirs} do what {ours} do in the reference ({meant}, if that is meant)"
    return None


def in_turn(names: Iterable[str], own: Graph, other: Graph) -> list[str]:
    """Return functions in the order in which they are suspected.

    First those that the other side has not; activations last, for what pools and pads do may look
    like another one: a maximum with padded zeros is as good as never negative.
    """
    families = {op.text.partition("(")[0]: op.name for op in _ops(own)}
    known = {op.name for op in _ops(other)}
    return sorted(names, key=lambda n: (
        families.get(n, n) in known, families.get(n, n) in BENDING, n))  # fmt: skip
