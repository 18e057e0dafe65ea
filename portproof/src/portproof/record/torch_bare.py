"""Weights that a module uses by themselves: class tokens, positions, a layer's own by hand."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from portproof.record.role import Role
from portproof.record.torch_calls import (
    CONCATENATIONS,
    ELEMENTWISE_WEIGHTS,
    PRODUCTS,
    WEIGHT,
    Spec,
)
from portproof.record.torch_live import Live, replaced_in, strides_of, tensors_of
from portproof.record.torch_tags import Tag, put_tag, tag_of

if TYPE_CHECKING:
    from portproof.record.torch_recorder import Recorder

LOOKUPS = {"getitem", "index_select"}
BARE = {*ELEMENTWISE_WEIGHTS, *CONCATENATIONS, *PRODUCTS, *LOOKUPS, "embedding"}
"""Functions that may take a weight by itself."""


def with_bare_weights(recorder: "Recorder", name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return a function's arguments in which a weight used by itself is what a call gives."""
    tensors = list(tensors_of((args, kwargs)))
    weights = [t for t in tensors if recorder.names.is_weight(t)]
    xs = [t for t in tensors if not recorder.names.is_weight(t)]
    for weight in weights:
        if _is_bare(recorder, name, weight, xs, weights):
            args, kwargs = replaced_in((args, kwargs), weight, _call_of(recorder, weight, name))
    return args, kwargs


def _is_bare(
    recorder: "Recorder",
    name: str,
    weight: torch.Tensor,
    xs: list[torch.Tensor],
    weights: list[torch.Tensor],
) -> bool:
    """Return whether a weight is used by itself, and not as the weight of a layer.

    Args:
        recorder: that sees it.
        name: of the function.
        weight: one of its weights.
        xs: its data.
        weights: all of its weights.
    """
    held, names = recorder.names.owner(weight) or "", recorder.names
    owner = names.parameters.get(held)
    # One that cuts into patches is a dense layer on the other side.
    is_cutting = name.startswith("conv") and len(names.opened.get(held, ())) == 2
    if owner is None or not owner.is_contiguous() or is_cutting:
        return False
    if name not in BARE or held in names.opened:
        return held in names.opened
    if name in LOOKUPS:  # by an index: rows that are no view
        return bool(xs)
    if name in PRODUCTS:  # by a layer's weight in another sense, as a head reads an embedding
        return any(_is_of_another(recorder, name, w) for w in weights)
    if name == "embedding":  # rows of fixed places
        return isinstance(weight, nn.Parameter) and not any(tag_of(x).preds for x in xs)
    is_core = name in CONCATENATIONS or recorder.spread(weight).variable.squeeze().ndim > 1
    return is_core and any(tag_of(x).preds for x in xs)


def _is_of_another(recorder: "Recorder", name: str, weight: torch.Tensor) -> bool:
    """Return whether an earlier call read these numbers as another kind of weight."""
    used = recorder.uses.get(recorder.names.owner(weight) or "")
    return used is not None and used[:2] != ("dense", strides_of(name, weight))


def _call_of(recorder: "Recorder", weight: torch.Tensor, function: str) -> torch.Tensor:
    """Note a weight that is used by itself as a call of its own; return what it gives.

    Args:
        recorder: that sees it.
        weight: a parameter or a view of one; the whole parameter is the call's.
        function: that reads it.
    """
    name = recorder.names.owner(weight)
    assert name is not None
    whole = recorder.names.parameters[name]
    if name not in recorder.read:
        recorder.number += 1
        live = Live(Spec(WEIGHT, {"value": _role(recorder, name, function)}, data=""), _same, None)
        index = recorder.start(live.spec, live, whole, [whole], Tag())
        recorder.read[name] = recorder.finish(index, live, whole.view_as(whole))
    given = recorder.read[name]
    start = weight.storage_offset() - whole.storage_offset()
    new = given.as_strided(weight.size(), weight.stride(), start)
    put_tag(new, tag_of(given))
    return new


def _role(recorder: "Recorder", name: str, function: str) -> Role:
    """Return a parameter's role, without axes of size 1, turned as the other side has it."""
    whole, wanted = recorder.names.parameters[name], recorder.names.opened.get(name)
    shape = tuple(whole.shape)
    if wanted is None and name in recorder.uses:
        return replace(recorder.uses[name][2], variable=whole)
    core = tuple(n for n in shape if n != 1)
    # torch's dense layers have outputs first; of a square one the shape does not tell.
    is_turned = core != tuple(wanted or core) or (
        wanted is not None and function == "linear" and len(set(core)) == 1
    )
    if function.startswith("conv") and len(shape) > 2 and wanted is not None:
        moved = (*shape[2:], shape[1], shape[0])
        return Role(whole, lambda a: np.moveaxis(a, (0, 1), (-1, -2)).squeeze(),
                    lambda a: np.moveaxis(a.reshape(moved), (-1, -2), (0, 1)))  # fmt: skip
    if is_turned:
        return Role(whole, lambda a: a.reshape(core).T, lambda a: a.T.reshape(shape))
    return Role(whole, lambda a: a.squeeze(), lambda a: a.reshape(shape))


def cut_into_patches(
    recorder: "Recorder", spec: Spec, x: torch.Tensor
) -> tuple[list[int] | None, list[int] | None]:
    """Let a convolution be a dense layer of patches, if the other side has that.

    Returns:
        The patches' sizes, and how many there are along each axis.
    """
    kernel = spec.roles.get("kernel")
    if spec.kind != "conv" or kernel is None:
        return None, None
    if recorder.names.owner(kernel.variable) not in recorder.names.opened:
        return None, None
    sizes = list(kernel.variable.shape[2:])
    kept, inverse = kernel.canonical, kernel.native
    shape = kept(kernel.variable.detach().numpy()).shape
    kernel.canonical = lambda a: kept(a).reshape(-1, shape[-1])
    kernel.native = lambda a: inverse(a.reshape(shape))
    spec.kind, spec.settings = "dense", {}
    return sizes, [n // size for n, size in zip(x.shape[2:], sizes, strict=True)]


def _same(t: torch.Tensor, _: Any) -> torch.Tensor:
    return t
