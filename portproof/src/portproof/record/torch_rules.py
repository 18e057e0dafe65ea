"""torch's optimizers with ε where Keras has it, which shows whether nothing else is different.

Keras's Adam divides by √v + ε and corrects the bias in front, torch's corrects v first; Keras's
RMSprop and Adagrad divide by √(v + ε), torch's by √v + ε; Keras's Adamax divides by the largest
gradient + ε, torch's adds ε to each gradient before it takes the largest.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from portproof.graph.steps import PLACED


def place_epsilon(
    stack: ExitStack, precision: str, epsilon: float, is_rate_kept: bool = False
) -> None:
    """Let torch's optimizers have ε as Keras has it, as long as `stack` is open.

    Args:
        stack: of contexts.
        precision: of Adam's and Adamax's βs in their powers, of AdamW's decay and of what Adagrad
            starts from: Keras on TensorFlow takes them in `float32`.
        epsilon: the number; a group whose own is so many times torch's has so many times this one.
        is_rate_kept: whether the learning rate is part of RMSprop's velocity, as in Keras.
    """
    kind = np.dtype(precision).type
    steps = {
        "RMSprop": _each(partial(_by_root, _root_mean_square, epsilon, is_rate_kept)),
        "Adagrad": _each(partial(_by_root, partial(_sum, kind), epsilon, False)),
        "Adamax": _each(partial(_by_largest, kind, epsilon)),
    }
    for name in ("Adam", "AdamW"):  # one may have its step of the other: both before any patch
        steps[name] = _adam(getattr(torch.optim, name).step, kind, epsilon)
    for name in PLACED:
        stack.enter_context(mock.patch.object(getattr(torch.optim, name), "step", steps[name]))


def spare_decay(stack: ExitStack, spared: Sequence[torch.nn.Parameter], decay: float) -> None:
    """Let optimizers decay weights by `decay`, whatever a group says, and those in `spared` not."""
    add, ids = torch.optim.Optimizer.add_param_group, {id(p) for p in spared}

    def add_in_parts(self: Any, group: dict[str, Any]) -> None:
        given = group["params"]
        params = [given] if isinstance(given, torch.Tensor) else list(given)
        for is_spared, own in ((False, decay), (True, 0.0)):
            part = [p for p in params
                    if (id(p[1] if isinstance(p, tuple) else p) in ids) == is_spared]  # fmt: skip
            if part:
                add(self, {**group, "params": part, "weight_decay": own})

    patch = mock.patch.object(torch.optim.Optimizer, "add_param_group", add_in_parts)
    stack.enter_context(patch)


def keep_rate_in_velocity(stack: ExitStack) -> None:
    """Let torch's SGD have the learning rate in its velocity, as Keras has it.

    Keras adds μ·v − lr·g, which it keeps as v; torch takes lr times what it keeps, μ·v + g, away.
    """

    @torch.no_grad()
    def step(self: Any, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            kept = group["momentum"]
            for p in (p for p in group["params"] if p.grad is not None):
                move = -group["lr"] * (_gradient(group, p) + group["weight_decay"] * p)
                state = self.state[p]
                if "momentum_buffer" in state:  # the first one is not dampened
                    move = (1 - group["dampening"]) * move
                velocity = state.setdefault("momentum_buffer", torch.zeros_like(p))
                velocity.mul_(kept).add_(move)
                p.add_(kept * velocity + move if group["nesterov"] else velocity)
        return loss

    stack.enter_context(mock.patch.object(torch.optim.SGD, "step", step))


def _adam(step: Callable[..., Any], kind: Any, epsilon: float) -> Callable[..., Any]:
    """Return Adam's step with a rate and an ε for each step that make it Keras's."""

    def keras_step(self: Any, closure: Any = None) -> Any:
        with torch.enable_grad():  # first, for it sees the groups as they are
            loss = None if closure is None else closure()
        kept = [dict(group) for group in self.param_groups]
        for group in self.param_groups:
            counts = [self.state[p]["step"] for p in group["params"] if self.state.get(p)]
            t = 1 + int(max(counts, default=0))
            first, second = (1 - beta**t for beta in group["betas"])
            own = [1 - float(kind(beta)) ** t for beta in group["betas"]]
            change = (own[1] / second) ** 0.5 * first / own[0]
            group["eps"] *= epsilon / self.defaults["eps"] / second**0.5
            group["lr"] = group["lr"] * change
            if group.get("decoupled_weight_decay"):  # by the rate, too
                group["weight_decay"] = float(kind(group["weight_decay"])) / change
        try:
            step(self)
            return loss
        finally:
            for group, before in zip(self.param_groups, kept, strict=True):
                group.update({name: before[name] for name in ("eps", "lr", "weight_decay")})

    return keras_step


def _each(
    move_of: Callable[[Any, Any, torch.Tensor], torch.Tensor],
) -> Callable[..., Any]:
    """Return a step that takes `move_of(group, state, gradient)` away from each weight."""

    @torch.no_grad()
    def step(self: Any, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            told = {**group, "share": group["eps"] / self.defaults["eps"]}
            for p in (p for p in group["params"] if p.grad is not None):
                gradient = _gradient(group, p) + group["weight_decay"] * p
                p.sub_(move_of(told, self.state[p], gradient))
        return loss

    return step


def _by_root(
    moments: Callable[[Any, Any, torch.Tensor], torch.Tensor],
    epsilon: float,
    is_rate_kept: bool,
    group: Any,
    state: Any,
    gradient: torch.Tensor,
) -> torch.Tensor:
    """Divide a gradient by the root of `moments(group, state, gradient)` + ε."""
    move = gradient / (moments(group, state, gradient) + epsilon * group["share"]).sqrt()
    if decay := group.get("lr_decay"):
        move = move / (1 + (float(state["step"]) - 1) * decay)
    if group.get("momentum"):
        before = state.get("momentum_buffer", torch.zeros_like(move))
        move = group["lr"] * move if is_rate_kept else move
        move = state["momentum_buffer"] = group["momentum"] * before + move
        return move if is_rate_kept else group["lr"] * move
    return group["lr"] * move


def _by_largest(
    kind: Any, epsilon: float, group: Any, state: Any, gradient: torch.Tensor
) -> torch.Tensor:
    """Divide the mean gradient by the largest one + ε."""
    first, second = group["betas"]
    t = state["count"] = state.get("count", 0) + 1
    mean = torch.lerp(state.get("mean", torch.zeros_like(gradient)), gradient, 1 - first)
    largest = torch.maximum(second * state.get("largest", gradient.abs()), gradient.abs())
    state["mean"], state["largest"] = mean, largest
    divisor = (1 - float(kind(first)) ** t) * (largest + epsilon * group["share"])
    return group["lr"] * mean / divisor


def _gradient(group: Any, p: torch.Tensor) -> torch.Tensor:
    assert p.grad is not None
    return -p.grad if group.get("maximize") else p.grad


def _root_mean_square(group: Any, state: Any, gradient: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros_like(gradient)
    for name, new in (("square_avg", gradient**2), ("grad_avg", gradient)):
        state[name] = torch.lerp(state.get(name, zeros), new, 1 - group["alpha"])
    mean = state["grad_avg"] ** 2 if group["centered"] else 0.0
    return state["square_avg"] - mean


def _sum(kind: Any, group: Any, state: Any, gradient: torch.Tensor) -> torch.Tensor:
    if not state["step"]:
        state["sum"] = torch.full_like(gradient, float(kind(group["initial_accumulator_value"])))
    state["step"] += 1
    state["sum"] = state["sum"] + gradient**2
    return state["sum"]
