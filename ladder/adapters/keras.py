"""A compiled Keras model of this pipeline as a subject of the ladder, on each of the backends."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from ladder.adapters.keras_described import call, layer_row, numpy_of, weights_of
from ladder.arrays import Array, Arrays
from ladder.subject import Facts, segment

CHUNK = 500
"""Images that are run through the model at once."""
SLOTS = {"momentum": "m", "velocity": "v", "velocity_hat": "v_hat"}
"""Names that both frameworks' slots have here."""


class KerasSubject(ABC):
    """A compiled Sequential model; its layers in order are the table. Labels are one-hot."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.layers = list(model.layers)
        self.names = [layer.name for layer in self.layers]

    @abstractmethod
    def weights(self) -> dict[str, Array]:
        """Return the canonical weights."""

    def layer_table(self) -> list[Facts]:
        """Return `name`, `kind`, `output_shape` without the batch axis, `parameters` by layer."""
        return [layer_row(layer) for layer in self.layers]

    def points(self, images: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the value once all layers up to each named one have run."""
        for name in names:
            segment(self.names, names, name)
        values, found = self._tensor(images), {}
        for layer in self.layers[: self.names.index(names[-1]) + 1]:
            values = call(layer, values, training=False)
            if layer.name in names:
                found[layer.name] = numpy_of(values)
        return found

    def forced(self, inputs: Arrays, names: Sequence[str]) -> dict[str, Array]:
        """Return each segment's output for its own input."""
        found = {}
        for name in [name for name in names if name in inputs]:
            values = self._tensor(inputs[name])
            for layer in segment(self.names, names, name):
                values = call(self.model.get_layer(layer), values, training=False)
            found[name] = numpy_of(values)
        return found

    def predict(self, images: Array) -> Array:
        """Return the model's outputs, dropout off."""
        parts = [
            numpy_of(self.model(self._tensor(images[start : start + CHUNK]), training=False))
            for start in range(0, len(images), CHUNK)
        ]
        return np.concatenate(parts)

    def loss(self, images: Array, classes: Array) -> Array:
        """Return the compiled loss in evaluation mode; above 500 images the mean over chunks."""
        total = np.float64(0)
        for start in range(0, len(images), CHUNK):
            x = self._tensor(images[start : start + CHUNK])
            y = self._targets(classes[start : start + CHUNK])
            outputs = self.model(x, training=False)
            loss = self.model.compute_loss(x=x, y=y, y_pred=outputs, training=False)
            total += np.float64(numpy_of(loss)) * len(x) / len(images)
        return np.asarray(total)

    def gradients(
        self, images: Array, classes: Array, training: bool = True
    ) -> tuple[dict[str, Array], Array]:
        """Return each trainable parameter's gradient, the input's, and the loss.

        In training mode, or else in evaluation mode.
        """
        compute = {
            "tensorflow": _tensorflow_gradients,
            "jax": _jax_gradients,
            "torch": _torch_gradients,
        }[keras.backend.backend()]
        # Masks' counters and seeds' states, which a call in training mode moves.
        kept = [(variable, numpy_of(variable)) for variable in self.model.non_trainable_variables]
        try:
            loss, found, of_input = compute(
                self.model, self._tensor(images), self._targets(classes), training
            )
        finally:
            for variable, value in kept:
                variable.assign(value)
        trainable = self.model.trainable_variables
        places = {variable.path: place for place, variable in enumerate(trainable)}
        # Where the graph is cut, nothing comes to the input.
        gradients = {} if of_input is None else {"input": numpy_of(of_input)}
        for name, variable in self._parameters():
            gradient = found[places[variable.path]] if variable.path in places else None
            if gradient is not None:
                gradients[name] = numpy_of(gradient)
        return gradients, np.asarray(numpy_of(loss), np.float64)

    def state(self) -> dict[str, Array]:
        """Return `weight.<param>` and the optimizer's slots, such as `adam.m.<param>`."""
        weights = {f"weight.{name}": array for name, array in self.weights().items()}
        return {**weights, **self.slots()}

    def slots(self) -> dict[str, Array]:
        """Return the optimizer's slots as `adam.<slot>.<param>`; any optimizer here is an Adam."""
        owners = {
            f"{variable.path.replace('/', '_')}_": name for name, variable in self._parameters()
        }
        slots = {}
        for variable in self.model.optimizer.variables:
            for start, name in owners.items():
                if variable.name.startswith(start):
                    slot = variable.name.removeprefix(start)
                    slots[f"adam.{SLOTS.get(slot, slot)}.{name}"] = numpy_of(variable)
        return slots

    def _parameters(self) -> list[tuple[str, keras.Variable]]:
        """Return each parameter with its canonical name."""
        return [
            (f"{layer.name}.{variable.name}", variable)
            for layer in self.layers
            for variable in weights_of(layer)
        ]

    def _input_dtype(self) -> str:
        return keras.backend.standardize_dtype(self.model.inputs[0].dtype)

    def _tensor(self, values: Array) -> Any:
        return keras.ops.convert_to_tensor(values, dtype=self._input_dtype())

    def _targets(self, classes: Array) -> Any:
        return self._tensor(np.eye(self.model.outputs[0].shape[-1])[classes])


class AfterEachStep(keras.callbacks.Callback):
    """Keep the subject's state after each of the first `num_steps` steps, with the step's loss.

    `subject_of` makes a subject of the model that is trained. `Reached` ends the fit.
    """

    class Reached(Exception):  # noqa: N818
        """The last step has been taken."""

    def __init__(self, subject_of: Any, num_steps: int) -> None:
        super().__init__()
        self.subject_of, self.num_steps = subject_of, num_steps
        self.states: list[dict[str, Array]] = []
        self._before = (0.0, 0.0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Follow Keras's running loss, which begins anew."""
        self._before = (0.0, 0.0)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Keep a copy of the state."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # during an epoch, JAX's trainer keeps the state aside
        loss = np.asarray(self._own_loss())
        self.states.append({**self.subject_of(self.model).state(), "loss": loss})
        if len(self.states) == self.num_steps:
            raise self.Reached

    def _own_loss(self) -> float:
        """Return the step's own loss: Keras keeps the sum over the epoch's images so far."""
        tracker = next(metric for metric in self.model.metrics if metric.name == "loss")
        total, count = float(numpy_of(tracker.total)), float(numpy_of(tracker.count))
        before_total, before_count = self._before
        self._before = (total, count)
        return (total - before_total) / (count - before_count)


def _tensorflow_gradients(
    model: keras.Model, x: Any, y: Any, training: bool
) -> tuple[Any, list[Any], Any]:
    import tensorflow as tf

    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = model(x, training=training)
        loss = model.compute_loss(x=x, y=y, y_pred=outputs, training=training)
    *found, of_input = tape.gradient(loss, [*variables, x])
    return loss, found, of_input


def _jax_gradients(
    model: keras.Model, x: Any, y: Any, training: bool
) -> tuple[Any, list[Any], Any]:
    import jax

    others = [variable.value for variable in model.non_trainable_variables]
    metrics = [variable.value for variable in model.metrics_variables]

    def loss_of(trainable: list[Any], x: Any) -> Any:
        outputs, updated = model.stateless_call(trainable, others, x, training=training)
        loss, _ = model.stateless_compute_loss(
            trainable, updated, metrics, x=x, y=y, y_pred=outputs, training=training
        )
        return loss

    trainable = [variable.value for variable in model.trainable_variables]
    value_and_gradients = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1)))
    loss, (found, of_input) = value_and_gradients(trainable, x)
    return loss, found, of_input


def _torch_gradients(
    model: keras.Model, x: Any, y: Any, training: bool
) -> tuple[Any, list[Any], Any]:
    import torch

    x = x.detach().requires_grad_()
    variables = [variable.value for variable in model.trainable_variables]
    outputs = model(x, training=training)
    loss = model.compute_loss(x=x, y=y, y_pred=outputs, training=training)
    *found, of_input = torch.autograd.grad(loss, [*variables, x], allow_unused=True)
    return loss, found, of_input
