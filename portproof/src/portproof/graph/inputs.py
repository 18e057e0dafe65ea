"""What a model is fed: shapes as a user writes them, and numbers drawn for them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

EDGE_ROWS = 5
"""Samples of the batch that holds what the usual ones do not: wide numbers, zeros, small ids."""
WIDE = 30.0
"""The factor of wide numbers: beyond ReLU6 and other clamps behind a layer."""
LARGEST = 50_000_000
"""Numbers of one sample."""
MOST_CLASSES = 2**31


@dataclass(frozen=True)
class InputSpec:
    """One input without its batch axis.

    Attributes:
        shape: sizes behind the batch axis, channels last.
        classes: for integers 0 … classes - 1; None for real numbers.
        is_padded: whether zeros stand behind alone, as padding does.
        name: of an input that goes in by name; empty where its place tells.
    """

    shape: tuple[int, ...]
    classes: int | None = None
    is_padded: bool = False
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> "InputSpec":
        """Read `64,64,3`, or `int20000:128` for integers below 20000, or `int20000pad:128`.

        `ids=int20000:128` is an input that goes in by name.

        Raises:
            ValueError: it is none of these, or too large.
        """
        name, _, what = text.rpartition("=")
        kind, colon, sizes = what.rpartition(":")
        found = re.fullmatch(r"int(\d+)(pad)?", kind)
        try:
            shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
            classes = int(found[1]) if found else None
            good = (not colon or found is not None) and all(size > 0 for size in shape)
        except ValueError:
            good = False
        if not good or (classes is not None and classes < 2) or (not shape and not colon):
            raise ValueError(
                f"--input {text}: write sizes behind the batch axis, as in 64,64,3 or "
                "int20000:128 for integers below 20000; int20000pad:128 for zeros behind alone"
            )
        if math.prod(shape) > LARGEST:
            raise ValueError(f"--input {text}: more than {LARGEST:,} numbers in one sample")
        if classes is not None and classes > MOST_CLASSES:
            raise ValueError(f"--input {text}: integers must be below {MOST_CLASSES + 1}")
        return cls(shape, classes, bool(found and found[2]), name)

    def draw(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Return a usual batch: standard normal numbers, or integers, some rows with zeros behind.

        The first row holds ids at both ends of the range, where settings such as a padding index
        act. Single integers take all values, as far as there are rows.
        """
        if self.classes is None:
            return rng.normal(size=(rows, *self.shape))
        length = self.shape[-1] if self.shape else 1
        if length == 1 and not self.is_padded:
            return self._all_classes((rows, *self.shape), rng)
        drawn = rng.integers(1, self.classes, size=(rows, *self.shape))
        if length == 1:
            return drawn
        ends = [n for n in (1, 2, 3) if n < self.classes - 1] + [self.classes - 1]
        drawn[0, ..., : len(ends)] = ends[:length]
        for row in range(1, rows, 2):
            kept = int(rng.integers(max(length // 2, 1), length + 1))
            drawn[row, ..., min(kept, max(length - 1, 1)) :] = 0
        return drawn

    def draw_edges(self, rng: np.random.Generator) -> np.ndarray:
        """Return `EDGE_ROWS` samples of wide numbers or zeros, on which outputs alone are compared.

        Real numbers: a wide sample, one with wide numbers among others, one of whole numbers from
        −3 to 3, and for (time, features) two that end in steps of zeros. Integers: zeros in front,
        within and behind, and small ids.
        """
        if self.classes is not None:
            return self._edge_integers(self.classes, rng)
        drawn = rng.normal(size=(EDGE_ROWS, *self.shape))
        drawn[0] *= WIDE
        drawn[1] *= np.where(rng.random(self.shape) < 1 / 8, WIDE, 1.0)
        whole = rng.integers(-3, 4, self.shape)
        drawn[2] = whole if len(self.shape) != 2 else np.where(whole == 0, 1, whole)
        if len(self.shape) == 2:
            for row in (3, 4):
                drawn[row, int(rng.integers(1, self.shape[0] + 1)) :] = 0
            drawn[4, max(self.shape[0] // 2, 1) :] = 0
        return drawn

    def _edge_integers(self, classes: int, rng: np.random.Generator) -> np.ndarray:
        if self.is_padded or not self.shape or self.shape[-1] == 1:
            return self.draw(EDGE_ROWS, rng)
        length, third = self.shape[-1], max(self.shape[-1] // 3, 1)
        drawn = rng.integers(1, classes, size=(EDGE_ROWS, *self.shape))
        drawn[0] = self._all_classes(self.shape, rng)
        drawn[0, ..., -1] = classes - 1
        drawn[1, ..., :third] = 0
        drawn[2, ..., length // 2 : length // 2 + third] = 0
        drawn[2, ..., -1] = 1
        drawn[3, ..., -third:] = 0
        drawn[4] = np.arange(length) % classes
        return drawn

    def _all_classes(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Return all classes where there is room, else half of it small ones, in any order."""
        assert self.classes is not None
        size = math.prod(shape)
        drawn = np.arange(size) % self.classes
        if self.classes > size:
            drawn[size // 2 :] = rng.integers(0, self.classes, size - size // 2)
        return rng.permutation(drawn).reshape(shape)

    def __str__(self) -> str:
        """Return it as a user writes it."""
        sizes = ",".join(map(str, self.shape))
        padded = "pad" if self.is_padded else ""
        kind = "" if self.classes is None else f"int{self.classes}{padded}:"
        return f"{self.name}={kind}{sizes}" if self.name else f"{kind}{sizes}"


def inputs_of_batch(arrays: Mapping[str, np.ndarray], k: int) -> list[tuple[str, np.ndarray]]:
    """Return the inputs of batch `k` of `made_batches`, in order, each with its name or ""."""
    found = [
        (name.removeprefix(f"x.{k}.").partition("."), a)
        for name, a in arrays.items()
        if name.startswith(f"x.{k}.")
    ]
    return [(name, a) for (_, _, name), a in sorted(found, key=lambda each: int(each[0][0]))]
