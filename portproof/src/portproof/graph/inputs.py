"""What a model is fed: shapes as a user writes them, and numbers drawn for them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class InputSpec:
    """One input without its batch axis.

    Attributes:
        shape: sizes behind the batch axis, channels last.
        classes: for integers 0 … classes - 1; None for real numbers.
    """

    shape: tuple[int, ...]
    classes: int | None = None

    @classmethod
    def parse(cls, text: str) -> "InputSpec":
        """Read `64,64,3`, or `int20000:128` for integers below 20000.

        Raises:
            ValueError: it is neither.
        """
        kind, colon, sizes = text.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
            number = kind.removeprefix("int")
            classes = int(number) if colon else None
            good = (not colon or kind.startswith("int")) and all(size > 0 for size in shape)
        except ValueError:
            good = False
        if not good or (classes is not None and classes < 2) or (not shape and not colon):
            raise ValueError(
                f"--input {text}: write sizes behind the batch axis, as in 64,64,3 or "
                "int20000:128 for integers below 20000"
            )
        return cls(shape, classes)

    def draw(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Return a batch: standard normal numbers, or integers with zeros behind in some rows.

        Zeros stand at the end alone, as padding does: ports that count a row's length rely on it.
        """
        if self.classes is None:
            return rng.normal(size=(rows, *self.shape))
        drawn = rng.integers(1, self.classes, size=(rows, *self.shape))
        if not self.shape:
            return drawn
        length = self.shape[-1]
        for row in range(1, rows, 2):
            kept = int(rng.integers(max(length // 2, 1), length + 1))
            drawn[row, ..., min(kept, max(length - 1, 1)) :] = 0
        return drawn

    def __str__(self) -> str:
        """Return it as a user writes it."""
        sizes = ",".join(map(str, self.shape))
        return sizes if self.classes is None else f"int{self.classes}:{sizes}"
