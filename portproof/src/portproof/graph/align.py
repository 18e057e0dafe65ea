"""Pair the calls of two models without names: by what leads to each, and what follows.

A wrong pairing can raise a false alarm or put one in the wrong place. It cannot make two models
that differ pass, for a pass needs the outputs to agree from the inputs on, with all weights drawn
at random and none left over.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from portproof.graph.calls import Call, Graph, Pred

OPTIONAL = frozenset(["bias", "beta", "gamma", "recurrent_bias", "moving_mean", "moving_variance"])
"""Roles that a call of the same kind may do without."""
# Families of operations that both frameworks surely name; others say nothing about likeness.
SURE = frozenset(["maxpool", "avgpool", "mean", "concat", "add", "mul", "softmax"])
BENDING = frozenset([
    "relu", "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "leaky_relu", "softplus", "softmax",
    "hard_silu", "hard_sigmoid", "relu6", "exp",
])  # fmt: skip
"""Activations, which tell calls of one shape apart that lead to the same one."""

UNORDERED = ", whichever use of its weights"
"""A stage at which calls of shared weights may run in another order."""


@dataclass
class Alignment:
    """Which call of the reference is which of the suspect."""

    pairs: dict[int, int] = field(default_factory=dict)
    how: dict[int, str] = field(default_factory=dict)
    """For each pair: `whole graph`, `ancestors`, `descendants`, `neighbours` or `named`."""
    uneven: dict[str, str] = field(default_factory=dict)
    """Keys of weights that the reference uses more or less often than the suspect, with its own."""
    compared: dict[int, int] = field(default_factory=dict)
    """The pairs that are compared alone: all but those of such weights."""


def signature(call: Call) -> tuple[Hashable, ...]:
    """Return the kind and the shapes of weights, which a call shares with its counterpart."""
    kernel = call.roles.get("kernel", [])
    if call.kind == "conv" and set(kernel[:-2]) == {1} and call.settings.get("groups", 1) == 1:
        return ("dense", ("kernel", tuple(kernel[-2:])))  # at each place the same
    needed = {name: tuple(s) for name, s in call.roles.items() if name not in OPTIONAL}
    if needed:
        return (call.kind, *sorted(needed.items()))
    return (call.kind, *sorted({tuple(s) for s in call.roles.values()}))


def align(left: Graph, right: Graph, named: Sequence[tuple[str, str]] = ()) -> Alignment:
    """Pair the calls of two graphs.

    Args:
        left: the reference.
        right: the suspect.
        named: owners that a user says belong together.

    Raises:
        ValueError: a graph has no such owner.
    """
    found = Alignment()
    marks: tuple[dict[int, str], dict[int, str]] = ({}, {})

    def add(i: int, j: int, how: str) -> None:
        found.pairs[i], found.how[i] = j, how
        marks[0][i] = marks[1][j] = f"pair {len(found.pairs)}"

    for a, b in named:
        ours = [i for i, c in enumerate(left.calls) if c.owner == a]
        theirs = [j for j, c in enumerate(right.calls) if c.owner == b]
        for name, calls, side in ((a, left.calls, "reference"), (b, right.calls, "suspect")):
            if not any(c.owner == name for c in calls):
                owners = [c.owner for c in calls]
                raise ValueError(f"--pair {a}={b}: the {side} has no {name}{nearest(name, owners)}")
        for i, j in zip(ours, theirs, strict=False):
            add(i, j, "named")
    stages = [("whole graph", True), ("whole graph", False), (f"whole graph{UNORDERED}", False),
              ("ancestors", False), (f"ancestors{UNORDERED}", False), ("descendants", True),
              ("descendants", False),
              *((f"neighbours {n}", False) for n in range(4, -1, -1))]  # fmt: skip
    step = 0
    while step < len(stages):
        stage, with_operations = stages[step]
        colours = [
            _colours(graph, mark, stage, with_operations)
            for graph, mark in zip((left, right), marks, strict=True)
        ]
        taken = set(found.pairs.values())
        ours = [i for i in range(len(left.calls)) if i not in found.pairs]
        theirs = [j for j in range(len(right.calls)) if j not in taken]
        how = stage.removesuffix(UNORDERED).rstrip(" 0123456789")
        if how == "neighbours":
            fresh = list(_common(ours, theirs, *colours))
            for i, j in fresh:
                add(i, j, how)
            step = 0 if fresh else step + 1
            continue
        fresh = _alike((left, right), (ours, theirs), colours)
        for i, j in fresh:
            add(i, j, how)
        step += not fresh
    found.uneven = _uneven(left, right, found.pairs)
    found.compared = {i: j for i, j in found.pairs.items()
                      if left.calls[i].key not in found.uneven}  # fmt: skip
    return found


def _uneven(left: Graph, right: Graph, pairs: Mapping[int, int]) -> dict[str, str]:
    """Return the weights that both sides use in their calls alone, and not equally often."""
    partners: dict[str, set[str]] = defaultdict(set)
    for i, j in pairs.items():
        partners[left.calls[i].key].add(right.calls[j].key)
    taken = Counter(key for keys in partners.values() for key in keys)
    counts = [Counter(c.key for c in graph.calls) for graph in (left, right)]
    single = {ours: next(iter(keys)) for ours, keys in partners.items() if len(keys) == 1}
    return {
        ours: theirs
        for ours, theirs in single.items()
        if taken[theirs] == 1 and counts[0][ours] != counts[1][theirs]
    }


def parameters_to_open(left: Graph, right: Graph, alignment: Alignment) -> dict[str, list[int]]:
    """Return which of the suspect's parameters the reference may have as weights used alone.

    A layer of the user's own uses a weight that a module has as a bias, a dense layer or a table,
    or that it computes something of first. Only what is left over is taken.

    Returns:
        By the parameter's name, the shape that the reference's weight has without axes of size 1;
        of a convolution that cuts into patches, of a dense layer's kernel over these.
    """
    taken = set(alignment.pairs.values())
    alone = [tuple(c.roles["value"]) for i, c in enumerate(left.calls)
             if c.kind == "weight" and i not in alignment.pairs]  # fmt: skip
    shapes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for j, call in enumerate(right.calls):
        for part in call.key.split(";")[:-1] if j not in taken and call.kind != "weight" else ():
            role, is_role, place = part.partition("=")  # behind them which block of a fused call
            # A weight that is computed is of parameters that no call uses themselves.
            if is_role and not place.startswith("computed("):
                shape = tuple(n for n in call.roles[role] if n != 1)
                shapes[place.partition("[")[0]].append(shape)
    found = _patches(left, right, alignment)
    for name, own in shapes.items():
        fits = [s for s in alone if s in own or s[::-1] in own]
        if fits:
            alone.remove(fits[0])
            found[name] = list(fits[0])
    for name, size in right.uncovered:
        fits = [s for s in alone if math.prod(s) == size]
        if fits and name not in found:
            alone.remove(fits[0])
            found[name] = list(fits[0])
    return found


def _patches(left: Graph, right: Graph, alignment: Alignment) -> dict[str, list[int]]:
    """Return kernels of convolutions without overlap where the reference has dense layers."""
    taken, found = set(alignment.pairs.values()), {}
    dense = [tuple(c.roles["kernel"]) for i, c in enumerate(left.calls)
             if c.kind == "dense" and i not in alignment.pairs and "kernel" in c.roles]  # fmt: skip
    for j, call in enumerate(right.calls):
        is_whole = call.kind == "conv" and "kernel" in call.roles  # else it is computed
        if j not in taken and is_whole and _is_cutting(call):
            *sizes, outs = call.roles["kernel"]
            if (math.prod(sizes), outs) in dense:
                dense.remove((math.prod(sizes), outs))
                parts = dict(part.partition("=")[::2] for part in call.key.split(";"))
                found[parts["kernel"]] = [math.prod(sizes), outs]
    return found


def _is_cutting(call: Call) -> bool:
    """Return whether a convolution takes each place of its input once, in patches."""
    settings, sizes = call.settings, list(call.roles["kernel"][:-2])
    is_plain = settings.get("groups", 1) == 1 and set(settings.get("dilation", [1])) == {1}
    pads = {n for pair in settings.get("padding", []) for n in pair}
    is_whole = all(n % size == 0 for n, size in zip(call.in_shape[1:-1], sizes, strict=False))
    is_plain = is_plain and is_whole and pads <= {0}
    return is_plain and settings.get("strides") == sizes and max(sizes) > 1


def _alike(
    graphs: tuple[Graph, Graph], ids: tuple[list[int], list[int]], colours: list[dict[int, str]]
) -> list[tuple[int, int]]:
    """Return calls of a colour that only one has on each side; else one pair of the first tie."""
    groups: list[dict[str, list[int]]] = [defaultdict(list), defaultdict(list)]
    for group, own, colour in zip(groups, ids, colours, strict=True):
        for i in own:
            group[colour[i]].append(i)
    both = [
        (xs, groups[1][c]) for c, xs in groups[0].items() if len(xs) == len(groups[1].get(c, ()))
    ]
    single = [(xs[0], ys[0]) for xs, ys in both if len(xs) == 1]
    if single or not both:
        return single
    xs, ys = both[0]
    i = xs[0]
    ours, theirs = (
        {i: graph.calls[i] for i in tied} for graph, tied in zip(graphs, (xs, ys), strict=True)
    )
    place, ranks = _ranks(ours)[i], _ranks(theirs)
    unlike = {j: -likeness(ours[i].owner, call.owner) for j, call in theirs.items()}
    return [(i, min(ys, key=lambda j: (unlike[j], abs(ranks[j] - place), j)))]


def _ranks(calls: Mapping[int, Call]) -> dict[int, int]:
    """Return each call's place among its like, in the order of their names' numbers.

    Numbers say no more than that: Keras counts layers of a class, torch those of a list.
    """
    keys = {i: ([int(n) for n in re.findall(r"\d+", call.owner)], i) for i, call in calls.items()}
    return {i: rank for rank, i in enumerate(sorted(keys, key=lambda i: keys[i]))}


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint at the names that are most alike, for an error's end."""
    sorted_names = sorted(set(names), key=lambda n: (-SequenceMatcher(None, name, n).ratio(), n))
    return f"; nearest are {', '.join(sorted_names[:3])}" if sorted_names else ""


def likeness(a: str, b: str) -> float:
    """Return how many words two owners' names share, of all; only ties are settled by it."""
    mine, theirs = (Counter(_words(name)) for name in (a, b))
    return sum((mine & theirs).values()) / max(sum((mine | theirs).values()), 1)


def _words(name: str) -> list[str]:
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return [w for word in words for w in (word, word[0])]


def _hash(*parts: object) -> str:
    return hashlib.md5(repr(parts).encode(), usedforsecurity=False).hexdigest()[:16]


def _colours(
    graph: Graph, marks: dict[int, str], stage: str, with_operations: bool
) -> dict[int, str]:
    """Return each call's colour: equal colours may be paired at this stage."""
    calls = graph.calls
    base = {
        i: _hash(
            signature(c),
            marks.get(i),
            (sorted({op.name for op in c.between} & SURE), {c.then} & BENDING)
            if with_operations
            else None,
        )
        for i, c in enumerate(calls)
    }
    turn = [0] * len(calls) if stage.endswith(UNORDERED) else _turns(calls)
    stage = stage.removesuffix(UNORDERED)
    followers = _followers(graph)
    if stage.startswith("neighbours"):
        ring = base
        for _ in range(int(stage.split()[1])):
            ring = {i: _hash(ring[i], _seen(ring, c.preds), _seen(ring, followers[i]))
                    for i, c in enumerate(calls)}  # fmt: skip
        return ring
    ancestors: dict[int, str] = {}
    for i, c in enumerate(calls):
        ancestors[i] = _hash(base[i], _seen(ancestors, c.preds), turn[i])
    descendants: dict[int, str] = {}
    for i in reversed(range(len(calls))):
        descendants[i] = _hash(base[i], _seen(descendants, followers[i]))
    if stage == "ancestors":
        return ancestors
    if stage == "descendants":
        return descendants
    return {i: _hash(ancestors[i], descendants[i]) for i in ancestors}


def _turns(calls: list[Call]) -> list[int]:
    """Return, for each call, which use of its weights it is, from 0."""
    uses = Counter[str]()
    turns = []
    for call in calls:
        turns.append(uses[call.key])
        uses[call.key] += 1
    return turns


def _followers(graph: Graph) -> dict[int, list[Pred]]:
    """Return the readers of each call: other calls, and outputs by name."""
    readers: list[tuple[Pred, list[Pred]]] = [(i, c.preds) for i, c in enumerate(graph.calls)]
    readers += [(f"output {k}", o.preds) for k, o in enumerate(graph.outputs)]
    found: dict[int, list[Pred]] = defaultdict(list)
    for name, preds in readers:
        for p in preds:
            if isinstance(p, int):
                found[p].append(name)
    return found


def _seen(colour: dict[int, str], places: Sequence[int | str]) -> list[str]:
    return sorted(colour[p] if isinstance(p, int) else p for p in places)


def _common(
    a: list[int], b: list[int], left: dict[int, str], right: dict[int, str]
) -> Iterator[tuple[int, int]]:
    """Pair calls of equal colours in order: the longest common subsequence."""
    n, m = len(a), len(b)
    best = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            best[i][j] = (
                best[i + 1][j + 1] + 1
                if left[a[i]] == right[b[j]]
                else max(best[i + 1][j], best[i][j + 1])
            )
    i = j = 0
    while i < n and j < m:
        if left[a[i]] == right[b[j]]:
            yield a[i], b[j]
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
