"""A call of a torch function as it can be run again, and its activations in canonical layout."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from portproof.graph.calls import Call
from portproof.record.inferred import NORMS, infer, may_be_inferred
from portproof.record.role import Role
from portproof.record.torch_calls import WEIGHT, Spec

HOLE = torch.empty(0)
"""Stands for the activations among arguments that are kept, lest these keep them."""


@dataclass
class Live:
    """A call as it can be run again: the function, its arguments and its roles."""

    spec: Spec
    run: Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]
    """Takes the activations, and settings to use in place of its own."""
    order: np.ndarray | None
    batch: int = 0
    """The axis that holds the samples."""
    rows: tuple[int, ...] | None = None
    """For (rows, F): the sizes of the axes that were folded into the first."""
    keeps_order: bool = False
    """Whether features come out in the order in which they went in."""
    cut: list[int] | None = None
    """The sizes of the patches of which a convolution is a dense layer's."""
    grid: list[int] | None = None
    """How many patches there are along each axis."""
    made: np.ndarray | None = None
    """The place of each feature that it gives in canonical order, if it does not keep one."""

    @property
    def roles(self) -> dict[str, Role]:
        """Its weights by role."""
        return self.spec.roles

    def canonical(self, t: torch.Tensor, is_input: bool) -> np.ndarray:
        """Return activations with channels last, batch first and features in canonical order."""
        t = t.detach()
        if self.spec.kind == WEIGHT:
            return self.spec.roles["value"].canonical(t.numpy()).copy()
        if self.spec.channels_first and t.ndim > 2:
            t = t.movedim(1, -1)
        if self.cut is not None:
            t = _in_patches(t, self.cut) if is_input else t.flatten(1, -2)
        if self.rows is not None and t.ndim == 2:
            t = t.unflatten(0, self.rows)
        if self.batch and t.ndim > self.batch:
            t = t.movedim(self.batch, 0)
        order = self._order(is_input)
        if order is not None and t.shape[-1] == len(order):
            t = t[..., torch.from_numpy(order)]
        return t.numpy().copy()

    def _order(self, is_input: bool) -> np.ndarray | None:
        return self.order if is_input or self.keeps_order else self.made

    def native(self, a: np.ndarray, is_input: bool) -> torch.Tensor:
        """Return the inverse of `canonical`."""
        if self.spec.kind == WEIGHT:
            return torch.from_numpy(np.array(self.spec.roles["value"].native(a), order="C"))
        order = self._order(is_input)
        if order is not None and a.shape[-1] == len(order):
            a = a[..., np.argsort(order)]
        t = torch.from_numpy(np.array(a))  # a copy, lest something in place write into it
        if self.batch and t.ndim > self.batch:
            t = t.movedim(0, self.batch)
        if self.rows is not None:
            t = t.flatten(0, len(self.rows) - 1)
        if self.cut is not None and self.grid is not None:
            sizes = self.cut if is_input else [1] * len(self.cut)
            t = _from_patches(t, sizes, self.grid)
        if self.spec.channels_first and t.ndim > 2:
            t = t.movedim(-1, 1)
        return t.contiguous()


def _in_patches(t: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Return a map (N, …, C) as patches (N, L, sizes · C), rows, columns and channels in order."""
    rank = len(sizes)
    for n, size in enumerate(sizes):
        t = t.unflatten(1 + 2 * n, (-1, size))
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
    return t.permute(order).flatten(1, rank).flatten(2)


def _from_patches(t: torch.Tensor, sizes: list[int], grid: list[int]) -> torch.Tensor:
    """Return the inverse of `_in_patches`."""
    rank = len(sizes)
    t = t.unflatten(-1, (*sizes, -1)).unflatten(1, grid)
    order = [0, *(n for k in range(rank) for n in (1 + k, 1 + rank + k)), 2 * rank + 1]
    t = t.permute(order)
    for n in range(rank):
        t = t.flatten(1 + n, 2 + n)
    return t


def put_channels_first(spec: Spec, ndim: int, channel: int | None) -> None:
    """Let an elementwise call, or a norm over all axes, take a map's channels from axis 1.

    Args:
        spec: of the call.
        ndim: of what it takes, with the axis of samples.
        channel: the axis that holds channels there.
    """
    if ndim < 3 or channel != 1:
        return
    if spec.kind in ("scale", "shift", "prelu"):
        spec.channels_first = True
    elif spec.kind == "layer_norm" and spec.settings.get("axes") == ndim - 1:
        spec.channels_first = True
        for role in spec.roles.values():
            role.canonical, role.native = _channels_last, _channels_second


def _channels_last(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(a, 0, -1)


def _channels_second(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(a, -1, 0)


def strides_of(name: str, weight: torch.Tensor) -> tuple[int, ...]:
    """Return a kernel's strides as (in, out)."""
    return weight.stride()[::-1] if name == "linear" else weight.stride()


def cropped(func: Any, own: dict[str, Any], chosen: Mapping[str, Any]) -> torch.Tensor:
    """Compute a transposed convolution in full, then cut off what the settings say."""
    own |= {"padding": 0, "output_padding": 0}
    own |= {"stride": chosen["strides"], "dilation": chosen["dilation"]}
    full = func(**own)
    parts = [
        slice(before, size - behind)
        for (before, behind), size in zip(chosen["crop"], full.shape[2:], strict=True)
    ]
    return full[(slice(None), slice(None), *parts)]


def cropped_by(name: str, args: Any, kwargs: Any) -> list[list[int]] | None:
    """Return the crop of a map (N, C, …) by a slice or by negative padding.

    Returns:
        How many places before and behind each axis; None where it does something else.
    """
    x = args[0] if args and isinstance(args[0], torch.Tensor) else None
    if x is None or x.ndim < 3:
        return None
    if name == "pad":
        pads = list(args[1] if len(args) > 1 else kwargs["pad"])
        if not 0 < len(pads) <= 2 * (x.ndim - 2) or max(pads) > 0:
            return None
        pads += [0] * (2 * (x.ndim - 2) - len(pads))
        return [[-pads[i], -pads[i + 1]] for i in range(len(pads) - 2, -1, -2)]
    if name != "getitem":
        return None
    index = list(args[1]) if isinstance(args[1], tuple) else [args[1]]
    if (places := [i for i, part in enumerate(index) if part is Ellipsis]) and len(places) == 1:
        index[places[0] : places[0] + 1] = [slice(None)] * (x.ndim - len(index) + 1)
    index += [slice(None)] * (x.ndim - len(index))
    if not all(isinstance(part, slice) for part in index):
        return None
    cut = [part.indices(n) for part, n in zip(index, x.shape, strict=True)]
    found = [[start, n - stop] for (start, stop, _), n in zip(cut, x.shape, strict=True)]
    is_plain = all(step == 1 for *_, step in cut) and found[:2] == [[0, 0], [0, 0]]
    return found[2:] if is_plain else None


def is_cut(call: Call, crop: list[list[int]]) -> bool:
    """Return whether a convolution may do what a slice right behind it does: crop, or pad less."""
    if call.kind != "conv" or set(call.settings["strides"]) != {1}:
        return call.kind == "deconv"
    pads = zip(call.settings["padding"], crop, strict=True)
    return all(a >= c and b >= d for (a, b), (c, d) in pads)


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a structure, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_of(item)


def outputs_of(out: Any) -> list[torch.Tensor]:
    """Return the tensors of what a module returns: in order, a dictionary's by key."""
    if isinstance(out, torch.Tensor):
        return [out]
    if isinstance(out, Mapping):
        ordered = out.values() if hasattr(out, "to_tuple") else [out[k] for k in sorted(out)]
        return [t for v in ordered for t in outputs_of(v)]
    if isinstance(out, tuple | list):
        return [t for v in out for t in outputs_of(v)]
    return []


def replaced_in(value: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    """Return a structure with another tensor in the place of one."""
    if value is old:
        return new
    if isinstance(value, dict):
        return {k: replaced_in(v, old, new) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(replaced_in(v, old, new) for v in value)
    return value


def infer_module(
    module: nn.Module, forward: Callable[..., Any], x: torch.Tensor, args: Any, kwargs: Any
) -> None:
    """Find out what a module of the user's own is, by feeding it numbers and weights.

    Args:
        module: it.
        forward: its own.
        x: the one tensor among its arguments.
        args: these.
        kwargs: these, too.
    """
    if not x.is_floating_point() or x.ndim < 2:
        return
    weights = dict(module.named_parameters(recurse=False))
    kept = {name: p.detach().clone() for name, p in weights.items()}

    def fill(values: Mapping[str, Any]) -> None:
        for name, p in weights.items():
            p.copy_(torch.as_tensor(values[name]))

    def run(fed: np.ndarray, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        fill(drawn)
        given, named = replaced_in((args, kwargs), x, torch.from_numpy(fed.copy()))
        found: np.ndarray = forward(*given, **named).numpy().copy()
        return found

    with torch.no_grad():
        try:
            infer(module, run, tuple(x.shape), weights, NORMS)
        finally:
            fill(kept)


def is_inferable(module: nn.Module) -> bool:
    """Return whether a module is of the user's own, with vectors of its own and nothing else."""
    weights = dict(module.named_parameters())
    is_torchs = type(module).__module__.partition(".")[0] == "torch"
    is_whole = len(weights) == len(list(module.parameters(recurse=False)))
    has_more = any(b.is_floating_point() for b in module.buffers()) or not is_whole
    are_vectors = all(sum(size != 1 for size in p.shape) < 2 for p in weights.values())
    are_vectors = are_vectors and all(0 not in p.stride() for p in weights.values())
    return not is_torchs and not has_more and are_vectors and may_be_inferred(weights)
