"""What is known of a torch tensor while a model runs: where it comes from, and in which layout."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from portproof.graph.calls import Op, Pred
from portproof.record.program import cuts_of, drops
from portproof.record.torch_calls import DROPOUTS, FAMILIES, NO_OPERATION

MAX_OPS = 40
"""Operations kept of a stretch: the last ones."""


@dataclass(frozen=True, eq=False)
class Tag:
    """Provenance and layout of one tensor."""

    preds: frozenset[Pred] = frozenset()
    ops: tuple[Op, ...] = ()
    drops: tuple[str, ...] = ()
    weights: bool = False
    """Made of parameters alone."""
    channel: int | None = None
    """The axis that holds channels or features."""
    batch: int | None = 0
    """The axis that holds the samples; with `rows`, where it was before they were folded."""
    rows: tuple[int, ...] | None = None
    """For (rows, F): the sizes of the axes that were folded into the first."""
    order: np.ndarray | None = None
    """For (N, …, F) made of maps: the place of each feature in canonical order, channels last."""
    unpadded: tuple[torch.Tensor, list[list[int]]] | None = None
    """The tensor before padding with zeros, and how much, axis by axis behind the channels."""
    cut: tuple[int, ...] | None = None
    """For maps (N, C, …) that features were cut into: the sizes that they had then, without N."""


def tag_of(tensor: torch.Tensor) -> Tag:
    """Return a tensor's tag; an empty one where it came from nowhere that was seen."""
    return getattr(tensor, "_portproof_tag", Tag())


_numbers = itertools.count()


def id_of(tensor: torch.Tensor) -> int:
    """Return a number of this tensor's own; `id` is given again once a tensor is gone."""
    if not hasattr(tensor, "_portproof_number"):
        tensor._portproof_number = next(_numbers)  # type: ignore[attr-defined]
    return tensor._portproof_number  # type: ignore[attr-defined]


def put_tag(tensor: torch.Tensor, tag: Tag) -> None:
    """Attach what is known to the tensor itself, so that it lives exactly as long."""
    tensor._portproof_tag = tag  # type: ignore[attr-defined]


def function_name(func: Any) -> str:
    """Return a torch function's plain name; a property's own name where one is read."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


REDUCING = {"squeeze", "select", "unbind", "mean", "sum", "amax", "amin", "max", "min", "prod"}
"""Functions that may take an axis away, by its number."""
_NARROW = {torch.float32: "", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_CASTS = {
    torch.Tensor.float: torch.float32,
    torch.Tensor.half: torch.float16,
    torch.Tensor.bfloat16: torch.bfloat16,
}


def in_float64(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any], set[str]]:
    """Return a call with float64 where it asks for real numbers in less, and what it asked for.

    All is computed in float64; float32, which a model has by default, is nothing to note.
    """
    asked = {a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)} & _NARROW.keys()
    if asked:
        args = tuple(torch.float64 if isinstance(a, torch.dtype) and a in asked else a
                     for a in args)  # fmt: skip
        kwargs = {k: torch.float64 if isinstance(a, torch.dtype) and a in asked else a
                  for k, a in kwargs.items()}  # fmt: skip
    if func in _CASTS:
        func, asked = torch.Tensor.double, {_CASTS[func]}
    named = {_NARROW[dtype] for dtype in asked} - {""}
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        named.add("torch.autocast")  # which leaves float64 as it is
    return func, args, kwargs, named


def dropout_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, bool]:
    """Return a dropout function's rate, and whether it is told to drop."""
    rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    is_on = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
    return float(rate), bool(is_on)


def cut_off(x: torch.Tensor, outs: list[torch.Tensor], tag: Tag) -> list[list[int] | None]:
    """Return which columns of what one call gives the results of an operation are, if they are."""
    is_part = [o.ndim == x.ndim and o.shape != x.shape and o.dtype == x.dtype for o in outs]
    if tag.ops or len(tag.preds) != 1 or not any(is_part):
        return [None] * len(outs)
    numbers = [t.detach().resolve_conj().resolve_neg().numpy() for t in (x, *outs)]
    return cuts_of(numbers[0], numbers[1:], tag.channel)


def after(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    xs: list[torch.Tensor],
    out: torch.Tensor,
) -> Tag:
    """Return the tag of what an operation without weights gives.

    Args:
        func: the function.
        args: its arguments.
        kwargs: its named arguments.
        xs: the tensors among its arguments that carry data, first first, as tagged before it ran.
        out: one of its results.
    """
    tags = [tag_of(x) for x in xs]
    name = function_name(func)
    known = [t for t in tags if t.preds]
    ops = _merge(known)
    dropped = tuple(d for t in known for d in t.drops)
    if name in DROPOUTS:
        dropped += drops(dropout_of(args, kwargs)[0], DROPOUTS[name])
    elif name not in NO_OPERATION:
        ops = (*ops, operation(name, args, kwargs))[-MAX_OPS:]
    first = next((t for t in tags if t.preds), Tag())
    x = next((x for x, t in zip(xs, tags, strict=True) if t.preds), xs[0])
    turns = _turned(name, [a for a in args if not isinstance(a, torch.Tensor)], kwargs, x.ndim)
    return Tag(
        frozenset().union(*(t.preds for t in tags)),
        ops,
        dropped,
        all(t.weights for t in tags),
        _moved(name, args, kwargs, x, first.channel, out),
        *_folded(name, args, kwargs, x, first, out),
        _order(name, args, kwargs, xs, out),
        _padding(name, args, kwargs, x, first),
        _cut(x, first, turns, out),
    )


def _merge(tags: list[Tag]) -> tuple[Op, ...]:
    seen: dict[tuple[str, int], Op] = {}
    for tag in tags:
        for op in tag.ops:
            seen.setdefault((op.text, id(op)), op)
    return tuple(seen.values())


def operation(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Op:
    """Describe an operation in a few words, with its plain arguments."""
    plain = [_plain(a) for a in args if not _holds_tensor(a)]
    named = {k: _plain(v) for k, v in kwargs.items() if not _holds_tensor(v) and v is not None}
    named = {k: v for k, v in named.items() if k not in ("inplace", "_stacklevel", "dtype")}
    words = [str(v) for v in plain if v is not None] + [f"{k}={v}" for k, v in named.items()]
    text = f"{name}({', '.join(words)})" if words else name
    return Op(FAMILIES.get(name, name), text[:120], {"args": plain, **named})


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, tuple | list | torch.Size):
        return [_plain(v) for v in value]
    return str(value)[:40]


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_tensor(v) for v in value)
    return isinstance(value, torch.Tensor)


def _moved(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    x: torch.Tensor,
    axis: int | None,
    out: torch.Tensor,
) -> int | None:
    """Return where an axis stands after an operation; None where it is lost."""
    if axis is None or axis >= x.ndim:
        return None
    turned = _turned(name, [a for a in args if not isinstance(a, torch.Tensor)], kwargs, x.ndim)
    if turned is not None:
        return turned.index(axis)
    gone = _taken_away(name, args, kwargs, x.ndim) if out.ndim == x.ndim - 1 else None
    if gone is not None:
        return None if gone == axis else axis - (gone < axis)
    if axis == 0 or out.ndim in {2, x.ndim}:
        is_lost = axis == 0 and out.shape[:1] != x.shape[:1]
        return None if is_lost else min(axis, 1) if out.ndim == 2 else axis
    is_kept = out.shape[: axis + 1] == x.shape[: axis + 1]
    if name in ("flatten", "reshape", "view") and is_kept:
        return axis
    is_last = axis == x.ndim - 1 and out.ndim > 0 and out.shape[-1] == x.shape[-1]
    return out.ndim - 1 if is_last else None


def _taken_away(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], ndim: int) -> int | None:
    """Return which axis an operation takes one place of, or sums up; None where it is not told."""
    given = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if name == "getitem":
        parts = given if isinstance(given, tuple) else (given,)
        ints = [n for n, part in enumerate(parts) if isinstance(part, int)]
        is_plain = all(isinstance(part, int | slice) for part in parts)
        return ints[0] if is_plain and len(ints) == 1 else None
    if name in REDUCING and isinstance(given, int):
        return given % ndim
    return None


def _folded(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    x: torch.Tensor,
    tag: Tag,
    out: torch.Tensor,
) -> tuple[int | None, tuple[int, ...] | None]:
    """Return the samples' axis, and what was folded into rows, after an operation."""
    if tag.rows is None:
        if name in ("flatten", "reshape", "view") and x.ndim > 2 == out.ndim:
            for n in range(2, x.ndim):
                if math.prod(x.shape[:n]) == out.shape[0] != x.shape[0]:
                    return tag.batch, tuple(x.shape[:n])
        return _moved(name, args, kwargs, x, tag.batch, out), None
    if out.ndim == 2 and out.shape[0] == x.shape[0]:
        return tag.batch, tag.rows
    return (tag.batch if out.shape[: len(tag.rows)] == tag.rows else None), None


def _turned(name: str, rest: list[Any], kwargs: dict[str, Any], ndim: int) -> list[int] | None:
    """Return, for each axis of the result, the axis it was; None where none changes its place."""
    order = list(range(ndim))
    if name == "permute":
        dims = kwargs.get("dims", rest[0] if len(rest) == 1 else rest)
        return [d % ndim for d in dims]
    if name in ("transpose", "swapaxes", "swapdims") and len(rest) + len(kwargs) == 2:
        a, b = (d % ndim for d in [*rest, *kwargs.values()])
        order[a], order[b] = b, a
        return order
    if name == "movedim" and len(rest) == 2 and all(isinstance(r, int) for r in rest):
        order.insert(rest[1] % ndim, order.pop(rest[0] % ndim))
        return order
    if name in ("T", "mT", "t") and ndim >= 2:
        order[-2:] = order[:-3:-1]
        return order
    return None


def _order(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    xs: list[torch.Tensor],
    out: torch.Tensor,
) -> np.ndarray | None:
    """Return where each feature on a result's last axis stands in canonical order."""
    if out.ndim < 2:
        return None
    x, tag = xs[0], tag_of(xs[0])
    width = out.shape[-1]
    if name in ("cat", "concat", "concatenate") and len(xs) > 1:
        parts, start = [], 0
        for part in xs:
            order = tag_of(part).order
            own = np.arange(part.shape[-1]) if order is None else order
            parts.append(own + start)
            start += part.shape[-1]
        is_plain = all(tag_of(part).order is None for part in xs)
        return None if is_plain or start != width else np.concatenate(parts)
    first, axis = out.ndim - 1, tag.channel
    is_joined = x.ndim > out.ndim and x.shape[:first] == out.shape[:-1]
    if is_joined and math.prod(x.shape[first:]) == width:
        if axis is None or axis < first or axis >= x.ndim - 1:
            return None
        places = np.arange(width).reshape(tuple(x.shape[first:]))
        return np.moveaxis(places, axis - first, -1).reshape(-1)
    rest = [a for a in args if not isinstance(a, torch.Tensor)]
    turned, gone = _turned(name, rest, kwargs, x.ndim), None
    if turned is not None:
        return tag.order if turned[-1] == x.ndim - 1 else None
    if out.ndim == x.ndim - 1:
        gone = _taken_away(name, args, kwargs, x.ndim)
    is_kept = x.shape == out.shape or (gone is not None and gone < x.ndim - 1)
    return tag.order if is_kept else None


def _cut(
    x: torch.Tensor, tag: Tag, turns: list[int] | None, out: torch.Tensor
) -> tuple[int, ...] | None:
    """Return the sizes of the maps that features were cut into, while channels stay where they are.

    Args:
        x: what an operation takes.
        tag: of it.
        turns: how the operation moves axes, if it does.
        out: what it gives.
    """
    if x.ndim == 2 and out.ndim > 2 and out.shape[0] == x.shape[0] and tag.order is None:
        return tuple(out.shape[1:]) if out.numel() == x.numel() else None
    is_kept = turns is None and out.ndim == x.ndim and out.shape[:2] == x.shape[:2]
    return tag.cut if is_kept else None


def _padding(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], x: torch.Tensor, tag: Tag
) -> tuple[torch.Tensor, list[list[int]]] | None:
    """Return the zeros padded on the axes behind the channels, if nothing else was padded."""
    if name == "pad":
        pads = list(kwargs.get("pad", args[1] if len(args) > 1 else ()))
        mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
        value = kwargs.get("value", args[3] if len(args) > 3 else None)
        rank = x.ndim - 2
        if mode != "constant" or value not in (None, 0, 0.0) or len(pads) > 2 * rank:
            return None
        pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)][::-1]
        return x, [[0, 0]] * (rank - len(pairs)) + pairs
    return tag.unpadded if name in NO_OPERATION and name not in ("squeeze", "unsqueeze") else None


def own_tag(call: int, channel: int | None, batch: int | None, rows: tuple[int, ...] | None) -> Tag:
    """Return the tag of a call's own output."""
    return Tag(frozenset([call]), channel=channel, batch=batch, rows=rows)


def axes_of(t: torch.Tensor) -> tuple[int, ...]:
    """Return the axes of an output in canonical order: samples, the rest, channels."""
    tag, axes = tag_of(t), list(range(t.ndim))
    channel = tag.channel if tag.channel is not None and tag.channel < t.ndim else None
    if channel is not None and channel != tag.batch:
        axes.append(axes.pop(axes.index(channel)))
    if tag.batch is not None and tag.batch < t.ndim:
        axes.insert(0, axes.pop(axes.index(tag.batch)))
    return tuple(axes)
