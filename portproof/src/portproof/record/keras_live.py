"""A call of a Keras layer as it can be run again, and where its tensors come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from portproof.graph.calls import Op, Pred
from portproof.record.role import Role


@dataclass(frozen=True)
class Tag:
    """Where a tensor comes from."""

    preds: frozenset[Pred] = frozenset()
    ops: tuple[Op, ...] = ()
    drops: tuple[str, ...] = ()
    padding: tuple[Any, Any] | None = None
    """The tensor before zeros were padded, and how many."""
    channel: int | None = None
    """The axis of the channels; None: the last."""
    order: np.ndarray | None = None
    """For (N, F) made of maps: the place of each feature in canonical order, channels last."""


@dataclass
class Live:
    """A call as it can be run again."""

    roles: dict[str, Role]
    run: Callable[[Any], Any]
    """Takes activations; gives what the call gives, before a fused activation."""
    taken: int = 1
    """Last axes of the input that make one axis of features."""
    made: int = 1
    is_channels_first: bool = False
    is_weight: bool = False
    """A weight used by itself: what the call gives has no samples."""
    order: np.ndarray | None = None
    """The place of each feature that it takes in canonical order."""

    def canonical(self, a: np.ndarray, is_input: bool) -> np.ndarray:
        """Return activations with channels last and features in one axis."""
        if self.is_weight:
            return self.roles["value"].canonical(a)
        if self.is_channels_first and a.ndim > 2:
            a = np.moveaxis(a, 1, -1)
        if is_input and self.order is not None:
            a = a[:, self.order]
        n = self.taken if is_input else self.made
        return a.reshape(*a.shape[: a.ndim - n], -1) if n > 1 else a

    def native(self, a: np.ndarray, like: Any, is_input: bool) -> np.ndarray | None:
        """Return the inverse of `canonical` in the shape of `like`; None where it does not fit."""
        if self.is_weight:
            role = self.roles["value"]
            return role.native(a).reshape(like.shape) if a.size == np.prod(like.shape) else None
        if self.is_channels_first and a.ndim > 2:
            a = np.moveaxis(a, -1, 1)
        if is_input and self.order is not None:
            a = a[:, np.argsort(self.order)]
        shape = tuple(like.shape)
        if (self.taken if is_input else self.made) == 1:
            return a
        return a.reshape(shape) if a.size == np.prod(shape) and len(a) == shape[0] else None


def layout(
    tag: Tag, x: Any, out: Any, turned: Sequence[int] | None
) -> tuple[int | None, np.ndarray | None]:
    """Return an operation's result's axis of channels, and order of features.

    Args:
        tag: of what it takes.
        x: that.
        out: the result.
        turned: for each axis of the result, the axis that it was; None where none is moved.
    """
    before, after = tuple(x.shape), tuple(out.shape)
    if turned is not None and len(turned) == len(before):
        channel = len(before) - 1 if tag.channel is None else tag.channel
        return list(turned).index(channel), None
    if before == after:
        return tag.channel, tag.order
    if tag.channel is None or tag.channel >= len(before):
        return None, None
    if len(before) > 2 and after == (before[0], int(np.prod(before[1:]))):
        places = np.arange(after[1]).reshape(before[1:])
        return None, np.moveaxis(places, tag.channel - 1, -1).reshape(-1)
    return (tag.channel if len(before) == len(after) else None), None


def numbers(value: Any) -> np.ndarray:
    """Return a tensor's numbers as NumPy holds them, in memory of their own."""
    a = ops.convert_to_numpy(value)
    return a if a.flags.owndata and a.flags.writeable else np.array(a)


def tensors(value: Any) -> list[Any]:
    """Return the tensors in a structure, in order."""
    return [
        t for t in keras.tree.flatten(value) if ops.is_tensor(t) or isinstance(t, keras.KerasTensor)
    ]
