"""What the mutants of the Keras implementation patch it with."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras

import keras_impl.fast
import keras_impl.model
import keras_impl.train
import pipeline.batches

STEPS_IN_CALL = keras_impl.fast.STEPS_PER_EXECUTION


class KeepFirstEpoch(keras.callbacks.Callback):
    """Keep the weights that a model has after its first epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep them."""
        if epoch == 0:
            self.weights = self.model.get_weights()


def is_last(step: Any) -> Any:
    """Return whether a step, from 0, is the last of an execution."""
    return step % STEPS_IN_CALL == STEPS_IN_CALL - 1


def step_with(times: Callable[[Any], Any]) -> None:
    """Let Adam take a step `times(step)` times, up to twice; the first step is 0."""
    real = keras.optimizers.Adam.update_step

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index, count = self._get_variable_index(variable), times(self.iterations)
        state = (variable, self._momentums[index], self._velocities[index])
        for taken in range(2):
            before = [keras.ops.copy(value) for value in state]
            real(self, gradient, variable, learning_rate)
            for value, kept in zip(state, before, strict=True):
                value.assign(keras.ops.where(count > taken, value, kept))

    keras.optimizers.Adam.update_step = update_step


def before_calls(act: Callable[[Any], object]) -> None:
    """Let `act(callback)` be done before each execution of several steps."""

    def begin(self: Any, batch: int, logs: Any = None) -> None:
        if self.model.steps_per_execution > 1:
            act(self)

    keras_impl.train.EpochStart.on_train_batch_begin = begin


def slots(callback: Any) -> list[Any]:
    """Return the optimizer's slots of a callback's model."""
    optimizer = callback.model.optimizer
    return [*optimizer._momentums, *optimizer._velocities] if optimizer.built else []


def build_layers_with(name: str, make: Callable[..., Any]) -> None:
    """Let the model's module build `name` with `make`."""
    exchange(keras_impl.model, f"layers.{name}", make)


def build_sequential_with(reorder: Callable[[list[Any]], list[Any]]) -> None:
    """Let the model's module put its layers in another order."""
    changed = {"Sequential": lambda layers, name: keras.Sequential(reorder(layers), name=name)}
    keras_impl.model.keras = SimpleNamespace(**{**vars(keras_impl.model.keras), **changed})


def compile_with(path: str, **changes: Any) -> None:
    """Let `compile_model` change options of `keras.<path>`."""
    room, name = path.split(".")
    real = getattr(getattr(keras, room), name)
    exchange(keras_impl.train, path, lambda **options: real(**{**options, **changes}))


def exchange(module: Any, path: str, value: Any) -> None:
    """Let a module see `value` as `keras.<path>`."""
    room, name = path.split(".")
    changed = SimpleNamespace(**{**vars(getattr(module.keras, room)), name: value})
    module.keras = SimpleNamespace(**{**vars(module.keras), room: changed})


def dense_with(**options: dict[str, Any]) -> Callable[..., keras.Layer]:
    """Return a function that builds a dense layer, with further options by its name."""

    def dense(units: int, name: str) -> keras.Layer:
        return keras.layers.Dense(units, name=name, **options.get(name, {}))

    return dense


def after_building(change: Callable[[Any], object]) -> None:
    """Let each model that is built be changed by `change`."""
    real = keras_impl.model.build_model

    def build_model(recipe: Any) -> keras.Model:
        model = real(recipe)
        change(model)
        return model

    replace_everywhere("build_model", build_model)


def after_compiling(change: Callable[[Any], object]) -> None:
    """Let each model that is compiled be changed by `change`."""
    real = keras_impl.train.compile_model

    def compile_model(model: Any, recipe: Any) -> None:
        real(model, recipe)
        change(model)

    replace_everywhere("compile_model", compile_model)


def run_instead(name: str, call: Callable[[Any, Any], Any]) -> None:
    """Let a layer compute `call(layer, inputs)`; its settings stay what they are."""

    def change(model: Any) -> None:
        layer = model.get_layer(name)
        layer.call = lambda inputs, **_: call(layer, inputs)

    after_building(change)


def drop_with(name: str, call: Callable[[Any, Any, bool], Any]) -> None:
    """Let a dropout layer compute `call(layer, inputs, training)`."""

    def change(model: Any) -> None:
        layer = model.get_layer(name)
        layer.call = lambda inputs, training=False: call(layer, inputs, training)

    after_building(change)


def draw(inputs: Any, rate: float, layer: Any) -> Any:
    """Return the framework's own dropout of `inputs`."""
    return keras.random.dropout(inputs, rate, seed=layer.seed_generator)


def rescale_then(change: Callable[[Any], Any]) -> None:
    """Change the batches' images after they are scaled."""
    real = pipeline.batches.rescale
    pipeline.batches.rescale = lambda images, dtype: change(real(images, dtype))


def replace_everywhere(name: str, value: Any) -> None:
    """Replace a function in each module of the implementation that holds it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("keras_impl.") and hasattr(module, name):
            setattr(module, name, value)
