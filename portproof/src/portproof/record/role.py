"""A weight of a call, as the framework holds it and as both sides agree on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Role:
    """One weight of a call: its variable, or the tensor that a function got; its two layouts."""

    variable: Any
    canonical: Callable[[np.ndarray], np.ndarray] = lambda a: a
    native: Callable[[np.ndarray], np.ndarray] = lambda a: a
    """The inverse of `canonical`, up to the variable's shape."""
    added: float = 0.0
    """What the call adds to the variable's numbers: its weight is that much more than they are."""
    part: int | None = None
    """The row of the variable, where roles share one."""
    is_statistic: bool = False

    def value(self, numbers: np.ndarray) -> np.ndarray:
        """Return the weight, canonical, of the variable's numbers."""
        value = self.canonical(numbers)
        return value + self.added if self.added else value

    def stored(self, value: np.ndarray) -> np.ndarray:
        """Return the variable's numbers, up to its shape: the inverse of `value`."""
        return self.native(value - self.added if self.added else value)


def role_of(weight: Any) -> Role:
    """Return a role made of a variable, or of one with its two functions; a role is kept."""
    if isinstance(weight, Role):
        return weight
    return Role(*weight) if isinstance(weight, tuple) else Role(weight)
