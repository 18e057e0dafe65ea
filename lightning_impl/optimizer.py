"""Adam as Keras computes it, the one thing in the recipe that PyTorch lacks."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class KerasAdam(torch.optim.Adam):
    """Adam with ε outside the bias correction (Kingma and Ba, 2015, end of section 2).

    Keras:  lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε)
    torch:  lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)

    The second is the first when torch's ε at step t is ε/√(1−β₂ᵗ), so that is what it is given:
    3.2e-6 at the first step for Keras's 1e-7. Every torch kernel, the fused ones too, stays in use.
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
