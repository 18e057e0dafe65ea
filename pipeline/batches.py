"""Batches: the one source of order, and the arrays that both implementations feed."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.preprocess import LabeledImages, one_hot, rescale
from pipeline.recipe import Recipe

Array = np.ndarray[Any, Any]

# Sub-streams of a run's seed: what is drawn for one purpose never shifts another.
FIRST_WEIGHTS, SAMPLE_ORDER, DROPOUT, MASKS = range(4)


def generator(seed: int, purpose: int, epoch: int = 0, *place: int) -> np.random.Generator:
    """Return NumPy's generator for one purpose in one epoch, and place in it, of a run."""
    words = np.random.SeedSequence([seed, purpose, epoch, *place])
    return np.random.Generator(np.random.PCG64(words))


def dropout_seed(seed: int, epoch: int, index: int = 0) -> int:
    """Return the seed, below 2**31, that a framework's own dropout takes in `epoch`.

    `index` counts what has a generator of its own: Keras's dropout layers, Lightning's ranks.
    """
    return int(generator(seed, DROPOUT, epoch).integers(2**31, size=index + 1)[index])


def epoch_order(num_images: int, seed: int, epoch: int) -> Array:
    """Return the order, int64 (num_images,), of the training images in `epoch` (from 0)."""
    return generator(seed, SAMPLE_ORDER, epoch).permutation(num_images)


def batch_dtype(recipe: Recipe) -> str:
    """Return the dtype that batches come in; bf16 takes float32 batches and casts inside."""
    return "float64" if recipe.precision == "64" else "float32"


@dataclass
class Batches:
    """Batch after batch of a set, the partial last one included.

    `batches[i]` is (images (B, H, W, 1) in [0, 1], one-hot labels (B, classes)).
    Training batches follow the order of `epoch`; without a seed the set's own order holds.
    Of `num_ranks` processes that share each batch, it is the share of one, which may be empty.
    """

    data: LabeledImages
    batch_size: int
    num_classes: int
    dtype: str
    seed: int | None = None
    rank: int = 0
    num_ranks: int = 1

    def __post_init__(self) -> None:
        """Start at epoch 0."""
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Take the order of `epoch` (from 0)."""
        self.epoch = epoch
        if self.seed is None:
            self.order = np.arange(len(self.data))
        else:
            self.order = epoch_order(len(self.data), self.seed, epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def size(self, index: int) -> int:
        """Return how many images a batch has, all ranks' shares together."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return min(self.batch_size, len(self.data) - index * self.batch_size)

    def share(self, index: int) -> slice:
        """Return which images of a batch are this rank's, counted in the batch."""
        first, end = (
            self.size(index) * rank // self.num_ranks for rank in (self.rank, self.rank + 1)
        )
        return slice(first, end)

    def positions(self, index: int) -> Array:
        """Return the places in the set, int64 (B,), of the images of this rank's share."""
        share, first = self.share(index), index * self.batch_size
        return self.order[first + share.start : first + share.stop]

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        chosen = self.positions(index)
        images = rescale(self.data.images[chosen], self.dtype)
        return images, one_hot(self.data.labels[chosen], self.num_classes, self.dtype)


def training_batches(data: LabeledImages, recipe: Recipe) -> Batches:
    """Return the shuffled batches that are trained on."""
    return Batches(
        data, recipe.batch_size, recipe.num_classes, batch_dtype(recipe), seed=recipe.seed
    )


def evaluation_batches(data: LabeledImages, recipe: Recipe) -> Batches:
    """Return batches in the set's own order, for validation and prediction."""
    return Batches(data, recipe.batch_size, recipe.num_classes, batch_dtype(recipe))
