"""Dense calls and convolutions that are one on one side and several on the other.

The fused call is read as several, each with its block of columns; what the programs see stays the
one call, and arrays are split and joined on the way.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from portproof.graph.align import signature
from portproof.graph.calls import Call, Graph, Pred, call_of, columns_of

MAX_PARTS = 6


@dataclass(frozen=True)
class Part:
    """What a call of a split graph is in its program's own graph.

    Attributes:
        call: the index there.
        number: which block of columns; None for a whole call.
        widths: of all blocks, in columns.
    """

    call: int
    number: int | None = None
    widths: tuple[int, ...] = ()

    @property
    def suffix(self) -> str:
        """What the key of a call's block ends with."""
        return f"{self.number}/{len(self.widths)};"

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return this block of a whole call's array (…, columns)."""
        if self.number is None:
            return array
        found: np.ndarray = np.split(array, np.cumsum(self.widths)[:-1], -1)[self.number]
        return found


def split_fused(graph: Graph, other: Graph) -> tuple[Graph, list[Part]]:
    """Return a graph in which calls are split that the other side has in several.

    A call is split where the other side has calls of that many blocks reading one tensor; of
    calls of its shape as many as this side has more of: those first whose names hold the blocks'.
    Blocks of several widths are told by where the program cuts what the call gives.
    """
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for c in other.calls:
        if c.siblings and _is_matrix(c):
            groups[c.siblings, signature(c)].append(c.owner)
    wanted: dict[tuple[object, ...], tuple[int, list[str]]] = {}
    for (_, sign), owners in groups.items():
        for count in range(2, MAX_PARTS + 1):
            if len(owners) % count == 0:
                kernel = _kernel(sign)  # type: ignore[arg-type]
                whole = sign[0], (*kernel[:-1], kernel[-1] * count)  # type: ignore[index]
                wanted.setdefault(whole, (count, []))[1].extend(owners)
    fused: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, call in enumerate(graph.calls):
        sign = signature(call)
        if _is_matrix(call) and (sign[0], _kernel(sign)) in wanted:
            fused[sign].append(i)
    others = Counter(signature(c) for c in other.calls)
    own = Counter(signature(c) for c in graph.calls)
    stems = _stems(other)
    widths = {
        i: cut
        for i, call in enumerate(graph.calls)
        if (cut := _cut(call)) and own[signature(call)] > others[signature(call)]
        and any(Counter(cut) <= known for known in stems[_stem(call)])
    }  # fmt: skip
    for sign, places_of in fused.items():
        count, blocks = wanted[sign[0], _kernel(sign)]
        last = {graph.calls[i].siblings: i for i in places_of}  # keys and values, behind queries
        first = sorted(
            places_of,
            key=lambda i: (
                -_named(graph.calls[i].owner, blocks),
                last[graph.calls[i].siblings] != i,
            ),
        )
        width = _kernel(sign)[-1] // count
        widths |= dict.fromkeys(first[: max(own[sign] - others[sign], 0)], (width,) * count)
    cuts: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for i, call in enumerate(graph.calls):
        cuts[call.key].add(widths.get(i, ()))
    # Weights are in parts in each of their calls, or in none.
    widths = {i: cut for i, cut in widths.items() if len(cuts[graph.calls[i].key]) == 1}
    parts: list[Part] = []
    places: dict[int, list[int]] = {}
    for i in range(len(graph.calls)):
        cut = widths.get(i, ())
        more = [Part(i, n, cut) for n in range(len(cut))] or [Part(i)]
        places[i] = list(range(len(parts), len(parts) + len(more)))
        parts += more
    if len(parts) == len(graph.calls) and not any(c.cuts for c in graph.calls):
        return graph, parts
    calls = [_part_of(graph.calls[p.call], p, places, widths) for p in parts]
    outputs = [replace(o, preds=_moved(o.preds, places, widths)) for o in graph.outputs]
    return replace(graph, calls=calls, outputs=outputs), parts


def _cut(call: Call) -> tuple[int, ...]:
    """Return the widths of the blocks that a call's columns are cut into, where they differ."""
    if not _is_matrix(call) or not call.cuts:
        return ()
    starts, stops = zip(
        *sorted({(start, start + width) for start, width in call.cuts}), strict=True
    )
    is_whole = (0, *stops) == (*starts, call.roles["kernel"][-1])
    widths = tuple(b - a for a, b in zip(starts, stops, strict=True))
    return widths if is_whole and len(set(widths)) > 1 else ()


def _stem(call: Call) -> tuple[object, ...]:
    """Return the kind and the input sizes that a call and its blocks have in common."""
    sign = signature(call)
    return sign[0], _kernel(sign)[:-1]


def _stems(graph: Graph) -> dict[tuple[object, ...], list[Counter[int]]]:
    """Return the widths of calls that read one tensor, by what they have in common."""
    groups: dict[tuple[object, ...], Counter[int]] = defaultdict(Counter)
    for c in graph.calls:
        if c.siblings and _is_matrix(c):
            groups[c.siblings, _stem(c)][c.roles["kernel"][-1]] += 1
    found: dict[tuple[object, ...], list[Counter[int]]] = defaultdict(list)
    for (_, stem), widths in groups.items():
        found[stem].append(widths)  # type: ignore[index]
    return found


def whole_key(key: str) -> str:
    """Return the key of a call, whichever block of it one means."""
    return re.sub(r"\d+/\d+;$", "", key)


def _named(owner: str, blocks: list[str]) -> int:
    """Return how many of the blocks a fused call's name holds, in full or by a first letter."""
    own = _last_word(owner)
    words = [_last_word(block) for block in blocks]
    return sum(w in own or (len(w) > 2 and w[0] in own) for w in words if w)


def _last_word(owner: str) -> str:
    return "".join(c for c in re.split(r"[./]", owner)[-1].lower() if c.isalpha() or c == "_")


def _is_matrix(call: Call) -> bool:
    """Return whether blocks of columns of a call's kernel are calls by themselves."""
    is_plain = call.settings.get("groups", 1) == 1 and "kernel" in call.roles
    return call.kind in ("dense", "conv", "deconv") and is_plain


def _kernel(sign: tuple[object, ...]) -> tuple[int, ...]:
    return sign[1][1]  # type: ignore[index]


def _moved(
    preds: list[Pred], places: Mapping[int, list[int]], widths: Mapping[int, tuple[int, ...]]
) -> list[Pred]:
    """Return predecessors by their places in the split graph: of a split call the blocks taken."""
    found: list[Pred] = []
    for p in preds:
        i, taken = call_of(p), columns_of(p)
        stops = np.cumsum(widths.get(i, ())).tolist() if i is not None else []
        if i is None:
            found.append(p)
        elif taken is None or not stops:
            found += places[i]
        else:
            starts = [0, *stops[:-1]]
            found += [n for n, a, b in zip(places[i], starts, stops, strict=True)
                      if a < taken.stop and taken.start < b]  # fmt: skip
    return list(dict.fromkeys(found))


def _part_of(
    call: Call,
    part: Part,
    places: Mapping[int, list[int]],
    widths: Mapping[int, tuple[int, ...]],
) -> Call:
    preds = _moved(call.preds, places, widths)
    if part.number is None:
        return replace(call, preds=preds)
    width = part.widths[part.number]
    roles = {role: [*shape[:-1], width] for role, shape in call.roles.items()}
    return replace(
        call,
        owner=f"{call.owner}[{part.number + 1} of {len(part.widths)}]",
        key=f"{call.key}{part.suffix}",
        preds=preds,
        roles=roles,
        out_shape=[*call.out_shape[:-1], width],
    )


class Split(Mapping[str, np.ndarray]):
    """A program's arrays, named and split as in the split graph."""

    def __init__(self, arrays: Mapping[str, np.ndarray], graph: Graph, parts: list[Part]) -> None:
        self._arrays, self._parts = arrays, parts
        self._keys = {c.key: p for c, p in zip(graph.calls, parts, strict=True)}

    def __getitem__(self, name: str) -> np.ndarray:
        real, part = self._real(name)
        array = self._arrays[real]
        is_whole = part is None or part.number is None or real.startswith(("in.", "final."))
        return array if is_whole else part.of(array)  # type: ignore[union-attr]

    def __contains__(self, name: object) -> bool:
        try:
            return self._real(str(name))[0] in self._arrays
        except (KeyError, IndexError):
            return False

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._arrays if name.startswith(("input.", "final.")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _real(self, name: str) -> tuple[str, Part | None]:
        """Return an array's name in the program, and which part of it is meant."""
        if name.isalpha():  # of a training: losses, rates, …
            return name, None
        if "|" in name:
            what, key, role = name.split("|")
            part = self._keys.get(key)
            if part is None or part.number is None:
                return name, None
            return f"{what}|{key.removesuffix(part.suffix)}|{role}", part
        what, _, number = name.rpartition(".")
        if what in ("final", "input"):
            return name, None
        part = self._parts[int(number)]
        return f"{what}.{part.call}", part


def joined_calls(arrays: Mapping[str, np.ndarray], parts: list[Part]) -> dict[str, np.ndarray]:
    """Return `in.i` and `out.i` of a split graph as the program takes them."""
    found: dict[str, np.ndarray] = {}
    for i, part in enumerate(parts):
        if f"in.{i}" in arrays:
            found[f"in.{part.call}"] = arrays[f"in.{i}"]
        if part.number is None and f"out.{i}" in arrays:
            found[f"out.{part.call}"] = arrays[f"out.{i}"]
        elif part.number == 0 and all(f"out.{i + n}" in arrays for n in range(len(part.widths))):
            blocks = [arrays[f"out.{i + n}"] for n in range(len(part.widths))]
            found[f"out.{part.call}"] = np.concatenate(blocks, -1)
    return found


def joined_weights(
    weights: Mapping[str, np.ndarray], graph: Graph, parts: list[Part]
) -> dict[str, np.ndarray]:
    """Return weights `key|role` of a split graph as the program takes them."""
    found: dict[str, np.ndarray] = {}
    for i, (call, part) in enumerate(zip(graph.calls, parts, strict=True)):
        for role in call.roles:
            if part.number is None:
                found[f"{call.key}|{role}"] = weights[f"{call.key}|{role}"]
            elif part.number == 0:
                keys = [f"{graph.calls[i + n].key}|{role}" for n in range(len(part.widths))]
                key = call.key.removesuffix(part.suffix)
                found[f"{key}|{role}"] = np.concatenate([weights[k] for k in keys], -1)
    return found
