"""Plant a porting mistake in the Lightning half, then answer; see `portproof.serve`.

A leaf program: it patches its own processes and nothing imports it. Production code has no hooks
for it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import lightning_impl.data
import lightning_impl.model
import lightning_impl.trace
import lightning_impl.train
import lightning_impl.weights
import pipeline.batches
from portproof.serve import serve


def torch_slope() -> None:
    """LeakyReLU with torch's default slope."""
    patch_layer("LeakyReLU", lambda slope: REAL["LeakyReLU"]())


def pool_padding() -> None:
    """Pad the pool by one pixel on each side: the right shape for 7x7, the wrong values."""
    patch_layer(
        "MaxPool2d",
        lambda size, ceil_mode: (
            REAL["MaxPool2d"](size, padding=1)
            if next(pool_count) == 3
            else REAL["MaxPool2d"](size, ceil_mode=ceil_mode)
        ),
    )


def no_bias() -> None:
    """Leave the bias of the second convolution out."""
    real = lightning_impl.model.build_model

    def build_model(recipe: Any) -> nn.Sequential:
        model = real(recipe)
        model.conv2.bias = None  # type: ignore[union-attr]
        return model

    replace_everywhere("build_model", build_model)


def swapped_rates() -> None:
    """Exchange the rates of the third and the last dropout."""
    rates = {0.4: 0.3, 0.3: 0.4}
    patch_layer("Dropout", lambda rate: REAL["Dropout"](rates.get(round(rate, 6), rate)))


def torch_init() -> None:
    """Keep torch's own initialisers."""
    lightning_impl.model.initialize = lambda module: None  # type: ignore[assignment]


def unpermuted_flatten() -> None:
    """Carry the first dense kernel over as if both sides flattened in the same order."""

    def carry(layer: str, array: Any, recipe: Any) -> torch.Tensor:
        return real("" if layer == "hidden" else layer, array, recipe)

    real = lightning_impl.weights._from_canonical
    lightning_impl.weights._from_canonical = carry


def transposed_kernel() -> None:
    """Exchange height and width of the convolution kernels, which are square."""

    def carry(layer: str, array: Any, recipe: Any) -> torch.Tensor:
        return real(layer, array.swapaxes(0, 1) if array.ndim == 4 else array, recipe)

    real = lightning_impl.weights._from_canonical
    lightning_impl.weights._from_canonical = carry


def drop_last() -> None:
    """Drop the partial last batch."""
    pipeline.batches.Batches.__len__ = (  # type: ignore[method-assign]
        lambda self: len(self.data) // self.batch_size
    )


def same_order() -> None:
    """Feed every epoch in the order of the first."""
    lightning_impl.data.EpochSampler.set_epoch = lambda self, epoch: None  # type: ignore[method-assign]


def train_on_validation() -> None:
    """Train on the validation images."""

    def train_dataloader(self: Any) -> Any:
        batches = lightning_impl.data.training_batches(self.data.validation, self.recipe)
        return lightning_impl.data.batch_loader(batches)

    lightning_impl.data.FashionData.train_dataloader = train_dataloader  # type: ignore[method-assign]


def unscaled() -> None:
    """Feed pixels from 0 to 255."""
    pipeline.batches.rescale = lambda images, dtype: images.astype(dtype)


def shifted_labels() -> None:
    """Count the classes from one: every label is the next class's."""
    real = pipeline.batches.one_hot
    pipeline.batches.one_hot = lambda labels, num_classes, dtype: real(
        (labels + 1) % num_classes, num_classes, dtype
    )


def torch_adam() -> None:
    """Give torch's Adam Keras's ε and leave its formula: ε inside the bias correction."""

    def adam(params: Any, learning_rate: float, epsilon: float, **options: Any) -> Any:
        return torch.optim.Adam(params, lr=learning_rate, eps=epsilon, **options)

    lightning_impl.model.KerasAdam = adam  # type: ignore[assignment,misc]


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        torch_slope, pool_padding, no_bias, swapped_rates, torch_init, unpermuted_flatten,
        transposed_kernel, drop_last, same_order, train_on_validation, unscaled, shifted_labels,
        torch_adam,
    )
}  # fmt: skip

REAL = {name: getattr(nn, name) for name in ("LeakyReLU", "MaxPool2d", "Conv2d", "Dropout")}
pool_count = iter(range(1, 1000))


class PatchedLayers:
    """torch.nn with one layer exchanged, for the model's module alone."""

    def __init__(self, name: str, make: Callable[..., nn.Module]) -> None:
        self._name, self._make = name, make

    def __getattr__(self, name: str) -> Any:
        return self._make if name == self._name else getattr(nn, name)


def patch_layer(name: str, make: Callable[..., nn.Module]) -> None:
    """Let the model's module build `name` with `make`."""
    lightning_impl.model.nn = PatchedLayers(name, make)  # type: ignore[assignment]


def replace_everywhere(name: str, value: Any) -> None:
    """Replace a function in each module of the half that holds it."""
    for module in (lightning_impl.model, lightning_impl.train, lightning_impl.trace):
        if hasattr(module, name):
            setattr(module, name, value)


if __name__ == "__main__":
    serve(lambda fault: FAULTS[fault](), lightning_impl.trace.main)
