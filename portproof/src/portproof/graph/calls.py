"""A recorded model: its calls that own weights, and what runs between them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

Pred = int | str
"""The index of a call, `3[0:14]` for some of its columns, or the name of an input (`input0`).

`?` where nothing is known."""


@dataclass(frozen=True)
class Op:
    """An operation without weights, between two calls."""

    name: str
    """Its family, one word for both frameworks where both have it: `relu`, `maxpool`, `add`."""
    text: str
    """As its own framework calls it, with the settings that matter."""
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Call:
    """One call of a layer, module or function that owns weights."""

    owner: str
    """The path of the layer or module."""
    key: str
    """Which weights it uses: calls with equal keys share them."""
    kind: str
    roles: dict[str, list[int]] = field(default_factory=dict)
    """Shapes of the weights in canonical layout, by role."""
    frozen: list[str] = field(default_factory=list)
    """Roles that training leaves alone, statistics aside."""
    preds: list[Pred] = field(default_factory=list)
    between: list[Op] = field(default_factory=list)
    """What runs between the outputs of `preds` and this call, in order."""
    drops: list[str] = field(default_factory=list)
    """What drops on that stretch in training, and at what rate; nothing while recording."""
    settings: dict[str, Any] = field(default_factory=dict)
    in_shape: list[int] = field(default_factory=list)
    out_shape: list[int] = field(default_factory=list)
    siblings: str = ""
    """Names the tensor that it reads; calls that read the same one have the same name."""
    then: str = ""
    """The operation that takes what it gives first, if that is one."""
    cuts: list[list[int]] = field(default_factory=list)
    """Where what it gives is cut at once: the first column of each block, and how many."""

    def place(self, role: str) -> str:
        """Return the name of a role's weight; two layers that read one weight have the same."""
        held = dict(part.partition("=")[::2] for part in self.key.split(";"))
        block = "".join(name for name in held if "/" in name)  # of a call read as several
        return held[role] + block if role in held else f"{self.key}|{role}"


@dataclass
class Output:
    """One output of the model."""

    preds: list[Pred]
    between: list[Op]
    drops: list[str]
    shape: list[int]


@dataclass
class Graph:
    """A whole model, as its program describes it."""

    calls: list[Call]
    outputs: list[Output]
    counted: int
    """Numbers in the weights that the calls use, each once."""
    total: int
    """What the framework itself counts: `count_params()` or `sum(p.numel())`."""
    statistics: int
    """Numbers in moving statistics, which the first counts and the second does not."""
    uncovered: list[tuple[str, int]]
    """Weights that no call uses: name and size."""
    unreadable: list[str]
    """Weights that are computed from parameters in a way that cannot be inverted."""
    about: dict[str, Any] = field(default_factory=dict)

    def with_gradient(self, arrays: Mapping[str, np.ndarray]) -> set[int]:
        """Return the calls that a gradient of the outputs reaches.

        Args:
            arrays: gradients through the whole, `grad|key|role` and `input.0`. A call of frozen
                weights has none, and counts by what comes before it.
        """
        found: set[int] = set()
        for i, call in enumerate(self.calls):
            own = [arrays[n] for role in call.roles if (n := f"grad|{call.key}|{role}") in arrays]
            before = [p in found or bool(np.any(arrays.get(str(p).replace("input", "input."), 0)))
                      for p in call.preds]  # fmt: skip
            if any(g.any() for g in own) or (not own and any(before)):
                found.add(i)
        return found

    def reached(self) -> set[int]:
        """Return the calls that lead to an output."""
        open_ends = [p for o in self.outputs for p in o.preds if isinstance(p, int)]
        found: set[int] = set()
        while open_ends:
            i = open_ends.pop()
            if i not in found:
                found.add(i)
                open_ends += [p for p in self.calls[i].preds if isinstance(p, int)]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Graph":
        """Read what `to_dict` gave.

        Raises:
            KeyError, TypeError: a field is missing or unknown.
        """
        calls = [Call(**{**c, "between": _ops(c["between"])}) for c in data["calls"]]
        outputs = [Output(**{**o, "between": _ops(o["between"])}) for o in data["outputs"]]
        uncovered = [(str(name), int(size)) for name, size in data["uncovered"]]
        return cls(**{**data, "calls": calls, "outputs": outputs, "uncovered": uncovered})


def ops_text(ops: Sequence[Op]) -> str:
    """Return a stretch's operations in a line."""
    return " ".join(op.text for op in ops) or "nothing"


def call_of(pred: Pred) -> int | None:
    """Return the index of the call that a predecessor is, in whole or in part; None of an input."""
    number = str(pred).partition("[")[0]
    return int(number) if number.isdigit() else None


def columns_of(pred: Pred) -> range | None:
    """Return which columns of a call's a predecessor is; None for all."""
    found = re.fullmatch(r"\d+\[(\d+):(\d+)\]", str(pred))
    return range(int(found[1]), int(found[2])) if found else None


def note_first_taker(
    calls: Sequence[Call],
    preds: Iterable[Pred],
    before: int,
    ops: Any,
    cuts: Sequence[list[int] | None] = (),
) -> list[frozenset[Pred] | None]:
    """Note the operation that takes first what calls give, and where it cuts that.

    Args:
        calls: all of them.
        preds: what an operation takes comes from these.
        before: how many operations stand between them and it.
        ops: those with it.
        cuts: for each result the first column and the number of columns, if it is a part.

    Returns:
        For each result, the block of one call's columns that it is; None where it is none.
    """
    preds = frozenset(preds)
    call = next(iter(preds), "") if ops and not before and len(preds) == 1 else ""
    for p in preds if ops and not before else ():
        if isinstance(p, int):
            calls[p].then = calls[p].then or ops[-1].name
            calls[p].cuts += [cut for cut in cuts if cut and cut not in calls[p].cuts]
    return [
        frozenset([f"{call}[{cut[0]}:{sum(cut)}]"]) if cut and isinstance(call, int) else None
        for cut in cuts
    ]


CHANNELS = {"as given": 0, "channels first": 1, "channels first in each frame": 2}
"""The axis at which a suspect takes an input's channels, which Keras has last; 0: there, too."""


def order_of(targets: np.ndarray, outputs: Sequence[Sequence[int]]) -> list[int] | None:
    """Return the order of axes in which targets stand, where that is not the canonical one.

    Args:
        targets: of a batch; those of 4 axes or more are maps, laid out as the outputs are.
        outputs: for each output, its axes in canonical order.
    """
    plain = list(range(targets.ndim))
    turned = (list(a) for a in outputs if len(a) == targets.ndim >= 4 and list(a) != plain)
    return next(turned, None)


def _ops(items: list[Mapping[str, Any]]) -> list[Op]:
    return [Op(**item) for item in items]
