"""A LightningModule of this pipeline as a subject of the ladder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from ladder.adapters.lightning_fit import loss_of, muted
from ladder.adapters.lightning_layers import (
    Layer,
    canonical_name,
    layer_row,
    out_of,
    trace_layers,
    weight_out,
)
from ladder.arrays import Array, Arrays
from ladder.subject import Facts, segment

CHUNK = 500
"""Images that are run through the module at once."""
SLOTS = {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_hat"}
"""Names that both frameworks' slots have here."""


class LightningSubject(ABC):
    """A module whose `network` is an `nn.Sequential` of named layers and holds every parameter.

    The network's own order is the table's, also where `forward` takes another one. Steps take
    labels one-hot. `input_shape` is one input's, (H, W, C), without the batch axis.
    """

    def __init__(self, module: L.LightningModule, input_shape: Sequence[int]) -> None:
        self.module = module
        self.input_shape = tuple(input_shape)
        self.run_order = trace_layers(module, module, self._sample())
        self.layers = trace_layers(module, module.network, self._sample())  # type: ignore[arg-type]
        self.names = [layer.name for layer in self.layers]

    @abstractmethod
    def weights(self) -> dict[str, Array]:
        """Return the canonical weights."""

    def layer_table(self) -> list[Facts]:
        """Return `name`, `kind`, `output_shape` (H, W, C order) and `parameters` by layer."""
        return [layer_row(layer) for layer in self.layers]

    def points(self, images: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the value once all layers up to each named one have run.

        Raises:
            ValueError: a layer behind a point has run before it was reached.
        """
        ends = {self._end_of(name, names).name: name for name in names}
        found: dict[str, Array] = {}

        def keep(layer: Layer, output: Tensor) -> None:
            if layer.name in ends:
                found[ends[layer.name]] = out_of(output, layer.flat_output)

        with self._evaluating(), self._hooked(keep):
            self.module(self._in(images))
        return found

    def forced(self, inputs: Arrays, names: Sequence[str]) -> dict[str, Array]:
        """Return each segment's output for its own input."""
        found = {}
        with self._evaluating():
            for name in [name for name in names if name in inputs]:
                chosen = segment(self.names, names, name)
                layers = [layer for layer in self.run_order if layer.name in chosen]
                values = self._in(inputs[name], layers[0].flat_input)
                for layer in layers:
                    values = layer.module(values)
                found[name] = out_of(values, layers[-1].flat_output)
        return found

    def predict(self, images: Array) -> Array:
        """Return the module's outputs, dropout off."""
        with self._evaluating():
            parts = [self.module(part) for part in self._in(images).split(CHUNK)]
        return torch.cat(parts).numpy(force=True)

    def loss(self, images: Array, classes: Array) -> Array:
        """Return the validation step's loss; above 500 images the mean over chunks."""
        total = np.float64(0)
        with self._evaluating():
            for start in range(0, len(images), CHUNK):
                batch = images[start : start + CHUNK], classes[start : start + CHUNK]
                loss = self._step(self.module.validation_step, *batch)
                total += np.float64(loss.item()) * len(batch[0]) / len(images)
        return np.asarray(total)

    def gradients(
        self, images: Array, classes: Array, training: bool = True
    ) -> tuple[dict[str, Array], Array]:
        """Return each trainable parameter's gradient, the input's, and the loss.

        In training mode, or else in evaluation mode.
        """
        values = self._in(images).requires_grad_()
        chosen = [entry for entry in self._parameters() if entry[2].requires_grad]
        was_training = self.module.training
        self.module.train(training)
        try:
            loss = self._step(self.module.training_step, values, classes)
            parameters = [parameter for _, _, parameter in chosen]
            *found, of_input = torch.autograd.grad(loss, [*parameters, values], allow_unused=True)
        finally:
            self.module.train(was_training)
        # Where the graph is cut, nothing comes to the input.
        gradients = {} if of_input is None else {"input": out_of(of_input, None)}
        for (name, layer, _), gradient in zip(chosen, found, strict=True):
            if gradient is not None:
                gradients[name] = weight_out(layer, gradient)
        return gradients, np.asarray(loss.item(), np.float64)

    def called(self, layer: Layer, count: int, training: bool) -> Array:
        """Return a layer's output for `count` inputs of ones."""
        assert layer.input_shape is not None
        ones = self._in_place(torch.ones(count, *layer.input_shape))
        was_training = layer.module.training
        layer.module.train(training)
        with torch.no_grad():
            values = layer.module(ones)
        layer.module.train(was_training)
        return out_of(values, layer.flat_output)

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Array]:
        """Return `weight.<param>` and the optimizer's slots, such as `adam.m.<param>`."""
        weights = {f"weight.{name}": array for name, array in self.weights().items()}
        return {**weights, **self.slots(optimizer)}

    def slots(self, optimizer: torch.optim.Optimizer) -> dict[str, Array]:
        """Return the optimizer's slots as `adam.<slot>.<param>`; any that has some is an Adam."""
        return {
            f"adam.{SLOTS.get(slot, slot)}.{name}": weight_out(layer, value).copy()
            for name, layer, parameter in self._parameters()
            for slot, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor) and value.shape == parameter.shape and slot != "step"
        }

    def _num_classes(self) -> int:
        shape = self.run_order[-1].output_shape
        return shape[-1] if shape else 2

    def _step(self, step: Any, images: Array | Tensor, classes: Array) -> Tensor:
        """Return the loss that a step of the module returns."""
        values = images if isinstance(images, Tensor) else self._in(images)
        with muted(self.module):
            return loss_of(step((values, self._labels(classes)), 0))

    def _labels(self, classes: Array) -> Tensor:
        return self._in_place(torch.from_numpy(np.eye(self._num_classes())[classes]))

    def _parameters(self) -> Iterator[tuple[str, Layer, nn.Parameter]]:
        """Yield the parameters with canonical names."""
        for layer in self.layers:
            for name, parameter in layer.module.named_parameters(recurse=False):
                yield f"{layer.name}.{canonical_name(name)}", layer, parameter

    def _in_place(self, values: Tensor) -> Tensor:
        """Return values in the dtype and on the device of the module's parameters."""
        return values.to(next(self.module.parameters()))

    def _sample(self) -> Tensor:
        return self._in(np.zeros((1, *self.input_shape)))

    def _in(self, values: Array, flat: tuple[int, int, int] | None = None) -> Tensor:
        """Return canonical values as the module takes them."""
        tensor = self._in_place(torch.from_numpy(np.ascontiguousarray(values)))
        if flat is not None:
            channels, height, width = flat
            tensor = tensor.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
            return tensor.reshape(len(values), -1)
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor

    def _end_of(self, point: str, names: Sequence[str]) -> Layer:
        """Return the layer whose output a point is: the last to run of those up to it."""
        segment(self.names, names, point)  # checks the names
        up_to = set(self.names[: self.names.index(point) + 1])
        places = [place for place, layer in enumerate(self.run_order) if layer.name in up_to]
        if places[-1] >= len(up_to):
            early = next(layer.name for layer in self.run_order if layer.name not in up_to)
            raise ValueError(f"`{early}` runs before `{point}` is reached: it is no point here")
        return self.run_order[places[-1]]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.module.train(was_training)

    @contextmanager
    def _hooked(self, keep: Any) -> Iterator[None]:
        handles = [
            layer.module.register_forward_hook(
                lambda module, inputs, output, layer=layer: keep(layer, output)
            )
            for layer in self.run_order
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
