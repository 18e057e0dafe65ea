"""Which parameter, or which part of one, a torch tensor is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from portproof.graph.calls import Call
from portproof.record.model import Sink
from portproof.record.program import SetUpError
from portproof.record.role import Role
from portproof.record.torch_tags import tag_of

LARGE = 10**6
"""Numbers of a weight whose gradient is not held until all are there."""
_ASIDE = 0.25
"""Beside a place's number, so that e⁰ is not taken for the place 1."""


class Names:
    """The parameters and statistics of a module, found again by the memory they lie in."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = dict(module.named_parameters())
        self.buffers = {
            name: b for name, b in module.named_buffers() if b.is_floating_point() and b.numel()
        }
        self._by_memory = {
            t.untyped_storage().data_ptr(): name
            for name, t in {**self.buffers, **self.parameters}.items()
        }
        self.maps: dict[str, np.ndarray] = {}
        """For weights that are computed: where each number comes from, by place."""
        self.unreadable: set[str] = set()
        self.opened: Mapping[str, Sequence[int]] = {}
        """Parameters that are used by themselves, as the other side uses its own of this shape."""
        self.unfolded: dict[int, np.ndarray] = {}
        """For dense calls: the place of each feature that they make in canonical order."""

    def owner(self, tensor: torch.Tensor) -> str | None:
        """Return the name of the parameter or buffer whose memory a tensor lies in."""
        return self._by_memory.get(tensor.untyped_storage().data_ptr())

    def is_weight(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is a parameter, a part of one, or made of parameters alone."""
        if isinstance(tensor, nn.Parameter):
            return True
        tag = tag_of(tensor)
        if tag.preds:
            return False
        return tag.weights or self.owner(tensor) in self.parameters

    def place(self, tensor: torch.Tensor) -> str:
        """Return a name for these numbers: equal places are the same weights."""
        name = self.owner(tensor)
        if name is None:
            return f"computed{tuple(tensor.shape)}"
        whole = self.parameters.get(name, self.buffers.get(name))
        assert whole is not None
        if tensor.shape == whole.shape and tensor.stride() == whole.stride():
            return name
        return f"{name}[{tensor.storage_offset()}:{tuple(tensor.shape)}:{tensor.stride()}]"

    def is_trained(self, tensor: torch.Tensor) -> bool:
        """Return whether training would move these numbers."""
        name = self.owner(tensor)
        if name in self.parameters:
            return self.parameters[name].requires_grad
        return name is None

    def fill_ids(self) -> None:
        """Give each number in the parameters its own place as value, to see where it goes."""
        start = 0
        with torch.no_grad():
            for p in self.parameters.values():
                places = torch.arange(start, start + p.numel(), dtype=p.dtype).reshape(p.shape)
                p.copy_(places + _ASIDE)
                start += p.numel()

    def learn(self, key: str, seen: np.ndarray) -> None:
        """Take what a call got while each parameter held its own places.

        Args:
            key: the call's key and the role.
            seen: the weight, native layout.
        """
        total = sum(p.numel() for p in self.parameters.values())
        ids = np.rint(seen - _ASIDE).astype(np.int64)
        whole = (
            np.array_equal(ids, seen - _ASIDE)
            and ids.size
            and np.min(ids) >= 0
            and np.max(ids) < total
        )
        if whole and len(np.unique(ids)) == ids.size:
            self.maps[key] = ids
        else:
            self.unreadable.add(key)

    def write(self, key: str, tensor: torch.Tensor, native: np.ndarray) -> None:
        """Put numbers where a weight has its own."""
        with torch.no_grad():
            if self.owner(tensor) is not None:
                tensor.detach().copy_(torch.from_numpy(np.array(native, order="C")))
                return
            if key not in self.maps:
                return
            ids, values = self.maps[key].reshape(-1), native.reshape(-1)
            start = 0
            for p in self.parameters.values():
                here = (ids >= start) & (ids < start + p.numel())
                if here.any():
                    p.view(-1)[torch.from_numpy(ids[here] - start)] = torch.from_numpy(values[here])
                start += p.numel()

    def read(self, key: str, tensor: torch.Tensor) -> np.ndarray:
        """Return a weight's numbers as the parameters hold them now, in its native layout."""
        if self.owner(tensor) is not None or key not in self.maps:
            return tensor.detach().numpy()
        flat = [p.detach().reshape(-1).numpy() for p in self.parameters.values()]
        return np.concatenate(flat)[self.maps[key]]

    def gradient(self, key: str, tensor: torch.Tensor) -> np.ndarray | None:
        """Return the gradient to a weight, in its native layout; None where it is not known.

        It may lie in torch's own memory.
        """
        name = self.owner(tensor)
        if name in self.parameters:
            p = self.parameters[name]
            if p.grad is None:
                return np.zeros(tuple(tensor.shape))
            grad = p.grad.contiguous() if p.is_contiguous() else p.grad
            return grad.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset()).numpy()
        if key not in self.maps:
            return None
        flat = np.concatenate(
            [
                (np.zeros(p.numel()) if p.grad is None else p.grad.reshape(-1).numpy())
                for p in self.parameters.values()
            ]
        )
        return flat[self.maps[key]]

    def uncovered(self, tensors: dict[str, torch.Tensor]) -> list[tuple[str, int]]:
        """Return the parameters that none of these weights covers in full, with what is left.

        Args:
            tensors: weights by key and role.
        """
        left = {name: p.numel() for name, p in self.parameters.items()}
        seen: set[Any] = set()
        starts = np.cumsum([0, *(p.numel() for p in self.parameters.values())])
        for key, tensor in tensors.items():
            name = self.owner(tensor)
            if name in left and self.place(tensor) not in seen:
                seen.add(self.place(tensor))
                left[name] -= tensor.numel()
            elif name is None and key in self.maps:
                fresh = set(self.maps[key].reshape(-1).tolist()) - seen
                seen |= fresh
                for place in fresh:
                    own = int(np.searchsorted(starts, place, side="right")) - 1
                    left[list(left)[own]] -= 1
        return [(name, size) for name, size in left.items() if size > 0]


def gradients(trained: Mapping[str, Role], names: Names) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the gradients to weights by `key|role`, canonical, where they are known.

    They may lie in torch's own memory.
    """
    for key, role in trained.items():
        native = names.gradient(key, role.variable)
        if native is not None:
            yield key, role.canonical(native)


def differentiate(
    total: torch.Tensor, trained: Mapping[str, Role], names: Names, found: Sink
) -> None:
    """Differentiate a sum; note a large weight's gradient once it is whole, and let it go.

    Args:
        total: the sum.
        trained: weights by `key|role`.
        names: of the module.
        found: takes `grad|key|role`.

    Raises:
        SetUpError: a large gradient comes in parts.
    """
    left = dict(trained)
    by_owner: dict[str | None, dict[str, Role]] = {}
    for key, role in trained.items():
        by_owner.setdefault(names.owner(role.variable), {})[key] = role

    def note(roles: Mapping[str, Role]) -> None:
        for key, gradient in gradients(roles, names):
            found[f"grad|{key}"] = gradient

    def whole(p: torch.Tensor, owner: str) -> None:
        if not by_owner[owner].keys() <= left.keys():
            raise SetUpError(f"the gradient to {owner} comes in parts; checkpoint with "
                             "use_reentrant=False gives it at once")  # fmt: skip
        note({key: left.pop(key) for key in by_owner[owner]})
        p.grad = None

    hooks = []
    if None not in by_owner:  # else one is computed of several parameters
        for owner in by_owner:
            p = names.parameters[str(owner)]
            if p.numel() > LARGE:
                add = p.register_post_accumulate_grad_hook
                hooks.append(add(lambda p, owner=str(owner): whole(p, owner)))
    try:
        total.backward()
    finally:
        for hook in hooks:
            hook.remove()
    note(left)


def name_calls(calls: list[Call]) -> None:
    """Name each call by the module that owns its weights, or by the weight where that is shared."""
    keys: dict[str, set[str]] = {}
    for call in calls:
        keys.setdefault(call.owner.rpartition(".")[0], set()).add(call.key)
    for call in calls:
        module = call.owner.rpartition(".")[0]
        several = len(keys[module]) > 1
        call.owner = call.owner if several or not module else module
    named: dict[str, list[str]] = {}
    for call in calls:
        seen = named.setdefault(call.owner, [])
        if call.key not in seen:
            seen.append(call.key)
        if seen.index(call.key):
            call.owner += f"[{seen.index(call.key) + 1}]"
