"""Adam as Keras computes it, the one thing in the recipe that PyTorch lacks."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

SETTLED = 2.0**100
"""A step count at which both of torch's bias corrections are 1 to the last bit.

After 2**24 steps, β₂ = 0.9999999 still has a correction of 0.81; after these, no float below 1 has.
"""


class KerasAdam(torch.optim.Adam):
    """Adam with ε outside the bias correction (Kingma and Ba, 2015, end of section 2).

    Keras:  lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε)
    torch:  lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)

    The second is the first when torch's ε at step t is ε/√(1−β₂ᵗ), so that is what it is given:
    3.2e-6 at the first step for Keras's 1e-7. Every torch kernel, the fused ones too, stays in use.

    torch wraps the `step` of each class: hooks on steps run twice here once a plain Adam was made.
    """

    def __init__(
        self,
        params: Iterable[Any],
        learning_rate: float,
        betas: tuple[float, float],
        epsilon: float,
        **options: Any,
    ) -> None:
        super().__init__(params, lr=learning_rate, betas=betas, eps=epsilon, **options)
        own = {"epsilon": epsilon, "num_steps": 0}
        self.defaults |= own  # for groups that are added later
        for group in self.param_groups:
            group.update(own)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `num_steps` in each group counts them, also across a checkpoint."""
        for group in self.param_groups:
            group["num_steps"] += 1
            beta_2_power = group["betas"][1] ** group["num_steps"]
            group["eps"] = group["epsilon"] / math.sqrt(1 - beta_2_power)
        return super().step(closure)

    def advance(self, num_steps: int) -> list[float]:
        """Count steps that `step_at` takes; return the rate lr·√(1−β₂ᵗ)/(1−β₁ᵗ) of each."""
        (group,) = self.param_groups
        for weight in group["params"]:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), device=weight.device),
                    "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
                }
            self.state[weight]["step"] += num_steps
        if not hasattr(self, "settled"):  # once: a graph keeps its address
            self.settled = torch.full((), SETTLED, device=group["params"][0].device)
        first = group["num_steps"] + 1
        group["num_steps"] += num_steps
        beta_1, beta_2 = group["betas"]
        return [
            group["lr"] * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)
            for step in range(first, first + num_steps)
        ]

    @torch.no_grad()
    def step_at(self, rate: Tensor) -> None:
        """Take a step at a rate (), of float32 on a GPU, that lies on the weights' device.

        A CUDA graph can hold it. The Python numbers of `step`, of which ε is another each time,
        would stay as they were when it was captured; here all that changes is in the rate. torch's
        kernel computes Keras's formula when its own bias corrections are 1: with a settled count.
        """
        (group,) = self.param_groups
        weights = group["params"]
        slots = [self.state[weight] for weight in weights]
        torch._fused_adam_(
            weights,
            [weight.grad for weight in weights],
            [slot["exp_avg"] for slot in slots],
            [slot["exp_avg_sq"] for slot in slots],
            [],
            [self.settled] * len(weights),
            lr=rate,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["epsilon"],
            amsgrad=False,
            maximize=False,
        )
