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
from portproof.graph.calls import Call, Graph, Pred

MAX_PARTS = 6


@dataclass(frozen=True)
class Part:
    """What a call of a split graph is in its program's own graph.

    Attributes:
        call: the index there.
        number: which block of columns; None for a whole call.
        count: of how many.
    """

    call: int
    number: int | None = None
    count: int = 1


def split_fused(graph: Graph, other: Graph) -> tuple[Graph, list[Part]]:
    """Return a graph in which calls are split that the other side has in several.

    A call is split where the other side has calls of that many blocks reading one tensor; of
    calls of its shape as many as this side has more of: those first whose names hold the blocks'.
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
    counts: dict[int, int] = {}
    others = Counter(signature(c) for c in other.calls)
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
        num_same = sum(signature(c) == sign for c in graph.calls)
        counts |= dict.fromkeys(first[: max(num_same - others[sign], 0)], count)
    parts: list[Part] = []
    places: dict[int, list[int]] = {}
    for i in range(len(graph.calls)):
        count = counts.get(i, 1)
        places[i] = list(range(len(parts), len(parts) + count))
        parts += [Part(i, n if count > 1 else None, count) for n in range(count)]
    if len(parts) == len(graph.calls):
        return graph, parts
    calls = [_part_of(graph.calls[p.call], p, places) for p in parts]
    outputs = [replace(o, preds=_moved(o.preds, places)) for o in graph.outputs]
    return replace(graph, calls=calls, outputs=outputs), parts


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


def _moved(preds: list[Pred], places: Mapping[int, list[int]]) -> list[Pred]:
    return [q for p in preds for q in (places[p] if isinstance(p, int) else [p])]


def _part_of(call: Call, part: Part, places: Mapping[int, list[int]]) -> Call:
    preds = _moved(call.preds, places)
    if part.number is None:
        return replace(call, preds=preds)
    roles = {role: [*shape[:-1], shape[-1] // part.count] for role, shape in call.roles.items()}
    width = call.out_shape[-1] // part.count
    return replace(
        call,
        owner=f"{call.owner}[{part.number + 1} of {part.count}]",
        key=f"{call.key}{part.number}/{part.count};",
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
        return array if is_whole else np.split(array, part.count, -1)[part.number]  # type: ignore[union-attr,index]

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
            return f"{what}|{key.removesuffix(f'{part.number}/{part.count};')}|{role}", part
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
        elif part.number == 0 and all(f"out.{i + n}" in arrays for n in range(part.count)):
            blocks = [arrays[f"out.{i + n}"] for n in range(part.count)]
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
                keys = [f"{graph.calls[i + n].key}|{role}" for n in range(part.count)]
                key = call.key.removesuffix(f"0/{part.count};")
                found[f"{key}|{role}"] = np.concatenate([weights[k] for k in keys], -1)
    return found
