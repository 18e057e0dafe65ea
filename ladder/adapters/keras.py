"""A compiled Keras model as a subject of the ladder, on each of Keras's three backends.

A program too: `python -m ladder.adapters.keras module:function QUESTION TRACE`, where the function
returns a compiled model.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ladder.adapters.calling import answer_reference, load_reference
from ladder.adapters.keras_described import (
    SLOTS,
    call,
    initialisers,
    is_statistic,
    layer_row,
    loss_contract,
    metrics_contract,
    name_of,
    numpy_of,
    optimizer_contract,
    optimizer_kind,
    settings_of,
    weights_of,
)
from ladder.exchange import Array, Arrays, check_shapes, read_question
from ladder.subject import Facts, segment

CHUNK = 500
"""Images that are run through the model at once."""


class KerasSubject:
    """A compiled model, Sequential or functional; its layers in order are the table.

    `forced` needs a chain, in which each layer is fed by the one before it.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.layers = [
            layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)
        ]
        self.names = [layer.name for layer in self.layers]

    def contract(self) -> Facts:
        """Return the resolved settings of the compiled and built objects."""
        compute, weights = self._dtypes()
        layers = [layer for layer in self.layers if hasattr(layer, "data_format")]
        formats = sorted({layer.data_format for layer in layers} - {None})
        optimizer = optimizer_contract(self.model.optimizer)
        if optimizer["weight_decay"]:
            decays = self.model.optimizer._use_weight_decay
            decayed = [name for name, variable in self._parameters() if decays(variable)]
            optimizer["decayed"] = sorted(decayed)
        return {
            "optimizer": optimizer,
            "loss": loss_contract(self.model.loss),
            "metrics": metrics_contract(self.model),
            "dtypes": {"compute": compute, "weights": weights},
            "data_format": "/".join(formats) or keras.config.image_data_format(),
            "initialisers": initialisers(self.layers),
            "frozen": sorted(
                name for name, variable in self._parameters() if not variable.trainable
            ),
            "layers": {row["name"]: settings_of(row) for row in self.layer_table()},
        }

    def layer_table(self) -> list[Facts]:
        """Return a row for each layer, read off the built model.

        `name`, `kind`, `output_shape` without the batch axis, `parameters` (moving statistics are
        not counted), and what the kind has: `filters`, `kernel_size`, `strides`, `padding`,
        `pool_size`, `negative_slope`, `rate`, `units`, `use_bias`, ….
        """
        return [layer_row(layer) for layer in self.layers]

    def weights(self) -> dict[str, Array]:
        """Return parameters and moving statistics in canonical form."""
        return {
            name: _canonical(self._layer_of(name), numpy_of(variable))
            for name, variable in self._variables()
        }

    def load_weights(self, weights: Arrays) -> None:
        """Set parameters and moving statistics.

        Raises:
            ValueError: missing, extra or misshapen entries.
        """
        shapes = {name: array.shape for name, array in self.weights().items()}
        check_shapes(weights, shapes, "canonical weights")
        for name, variable in self._variables():
            variable.assign(weights[name].reshape(variable.shape))

    def points(self, images: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the value once all layers up to each named one have run."""
        for name in names:
            segment(self.names, names, name)
        values = self._tensor(images)
        if not self._is_chain():
            outputs = [self.model.get_layer(name).output for name in names]
            found = keras.Model(self.model.inputs, outputs)(values, training=False)
            return dict(zip(names, map(numpy_of, found), strict=True))
        found = {}
        for layer in self.layers[: self.names.index(names[-1]) + 1]:
            values = call(layer, values, training=False)
            if layer.name in names:
                found[layer.name] = numpy_of(values)
        return found

    def forced(self, inputs: Arrays, names: Sequence[str]) -> dict[str, Array]:
        """Return each segment's output for its own input.

        Raises:
            ValueError: the layers are not a chain.
        """
        if not self._is_chain():
            raise ValueError("the layers are not a chain: one is not fed by the one before it")
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

        In training mode, or else in evaluation mode. Moving statistics are left as they were.
        """
        compute = {
            "tensorflow": _tensorflow_gradients,
            "jax": _jax_gradients,
            "torch": _torch_gradients,
        }[keras.backend.backend()]
        kept = [(variable, numpy_of(variable)) for variable in self.model.non_trainable_variables]
        try:
            loss, found, of_input = compute(
                self.model, self._tensor(images), self._targets(classes), training
            )
        finally:
            for variable, value in kept:
                variable.assign(value)
        places = {variable.path: place for place, variable in enumerate(self._trainable())}
        # Where the graph is cut, nothing comes to the input.
        gradients = {} if of_input is None else {"input": numpy_of(of_input)}
        for name, variable in self._parameters():
            gradient = found[places[variable.path]] if variable.path in places else None
            if gradient is not None:
                gradients[name] = _canonical(self._layer_of(name), numpy_of(gradient))
        return gradients, np.asarray(numpy_of(loss), np.float64)

    def steps(
        self, batches: Sequence[tuple[Array, Array]], steps_per_epoch: int | None = None
    ) -> Iterator[dict[str, Array]]:
        """Train with `fit` on the batches as given and yield the state after each step."""
        after = AfterEachStep(lambda model: self)
        size = steps_per_epoch or len(batches)
        parts = [
            (images.astype(self._input_dtype()), self._targets(classes))
            for images, classes in batches
        ]
        for epoch, start in enumerate(range(0, len(parts), size)):
            self.model.fit(
                _Given(parts[start : start + size]),
                initial_epoch=epoch,
                epochs=epoch + 1,
                shuffle=False,
                verbose=0,
                callbacks=[after],
            )
        yield from after.states

    def state(self) -> dict[str, Array]:
        """Return `weight.<param>` and the optimizer's slots, such as `adam.m.<param>`."""
        weights = {f"weight.{name}": array for name, array in self.weights().items()}
        return {**weights, **self.slots()}

    def slots(self) -> dict[str, Array]:
        """Return the optimizer's slots as `<kind>.<slot>.<param>`."""
        optimizer = self.model.optimizer
        kind = optimizer_kind(optimizer)
        owners = {
            f"{variable.path.replace('/', '_')}_": name for name, variable in self._parameters()
        }
        slots = {}
        for variable in optimizer.variables:
            for start, name in owners.items():
                if variable.name.startswith(start):
                    slot = SLOTS.get((kind, suffix := variable.name.removeprefix(start)), suffix)
                    value = _canonical(self._layer_of(name), numpy_of(variable))
                    slots[f"{kind}.{slot}.{name}"] = value
        return slots

    def _variables(self) -> Iterator[tuple[str, keras.Variable]]:
        """Yield each parameter and moving statistic with its canonical name."""
        for layer in self.layers:
            for variable in weights_of(layer):
                yield f"{layer.name}.{variable.name}", variable

    def _parameters(self) -> list[tuple[str, keras.Variable]]:
        return [
            (name, variable) for name, variable in self._variables() if not is_statistic(variable)
        ]

    def _layer_of(self, name: str) -> keras.Layer:
        return self.model.get_layer(name.rpartition(".")[0])

    def _trainable(self) -> list[keras.Variable]:
        return list(self.model.trainable_variables)

    def _input_dtype(self) -> str:
        return keras.backend.standardize_dtype(self.model.inputs[0].dtype)

    def _tensor(self, values: Array) -> Any:
        return keras.ops.convert_to_tensor(values, dtype=self._input_dtype())

    def _targets(self, classes: Array) -> Any:
        """Return labels as the compiled loss takes them."""
        name = name_of(self.model.loss)
        if "sparse" in name:
            return keras.ops.convert_to_tensor(classes)
        width = self.model.outputs[0].shape[-1]
        if width == 1:
            return self._tensor(classes[:, np.newaxis])
        return self._tensor(np.eye(width)[classes])

    def _is_chain(self) -> bool:
        fed = [self.model.inputs[0], *(layer.output for layer in self.layers)]
        return len(self.model.inputs) == 1 and all(
            layer.input is source for layer, source in zip(self.layers, fed, strict=False)
        )

    def _dtypes(self) -> tuple[str, str]:
        """Return the dtypes that one image's values really have, and the weights'."""
        values = self._tensor(np.zeros((1, *self.model.inputs[0].shape[1:])))
        names = set()
        if self._is_chain():
            for layer in self.layers:
                values = call(layer, values, training=False)
                names.add(keras.backend.standardize_dtype(values.dtype))
        else:
            names = {layer.compute_dtype for layer in self.layers}
        weights = {variable.dtype for _, variable in self._variables()}
        return "/".join(sorted(names)), "/".join(sorted(weights))


class AfterEachStep(keras.callbacks.Callback):
    """Keep the subject's state after each of the first `num_steps` steps, with the step's loss.

    `subject_of` makes a subject of the model that is trained; `stops` ends the fit there, by
    raising `Reached`.
    """

    class Reached(Exception):  # noqa: N818
        """The last step has been taken."""

    def __init__(
        self, subject_of: Any, num_steps: int | None = None, *, stops: bool = False
    ) -> None:
        super().__init__()
        self.subject_of, self.num_steps, self.stops = subject_of, num_steps, stops
        self.states: list[dict[str, Array]] = []
        self._before = (0.0, 0.0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Follow Keras's running loss, which begins anew."""
        self._before = (0.0, 0.0)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Keep a copy of the state."""
        if self.num_steps is not None and len(self.states) >= self.num_steps:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # during an epoch, JAX's trainer keeps the state aside
        loss = np.asarray(self._own_loss())
        self.states.append({**self.subject_of(self.model).state(), "loss": loss})
        if self.stops and len(self.states) == self.num_steps:
            raise self.Reached

    def _own_loss(self) -> float:
        """Return the step's own loss: Keras keeps the sum over the epoch's images so far."""
        tracker = next(metric for metric in self.model.metrics if metric.name == "loss")
        total, count = float(numpy_of(tracker.total)), float(numpy_of(tracker.count))
        before_total, before_count = self._before
        self._before = (total, count)
        return (total - before_total) / (count - before_count)


class _Given(keras.utils.PyDataset):
    """Batches as they are given."""

    def __init__(self, batches: Sequence[tuple[Any, Any]]) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return tuple(numpy_of(part) for part in self.batches[index])  # type: ignore[return-value]


def _canonical(layer: keras.Layer, array: Array) -> Array:
    """Return a parameter in canonical form, which is Keras's own but for depthwise kernels."""
    if isinstance(layer, keras.layers.DepthwiseConv2D) and array.ndim == 4:
        return array.reshape(*array.shape[:2], 1, -1)  # (H, W, in, multiplier)
    return array


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


def configure(precision: str) -> None:
    """Set Keras up for a user's pair at `precision`, 32 or 64, before a model is built."""
    keras.config.set_floatx("float64" if precision == "64" else "float32")
    keras.config.set_dtype_policy(keras.config.floatx())
    if precision != "64":
        return
    # Except on TensorFlow, Keras's type promotion turns float64 times float64 into float32.
    from keras.src.backend.common import dtypes

    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)


def main(reference: str, question_path: Path, trace_path: Path) -> int:
    """Answer a question about what `module:function` returns; return the exit code."""
    question = read_question(question_path)
    configure(str(question.settings.get("precision", "32")))
    return answer_reference(
        f"keras-{keras.backend.backend()}",
        question,
        lambda: KerasSubject(load_reference(reference)()),
        trace_path,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:])))
