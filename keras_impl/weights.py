"""The canonical weights, to and from a Keras model."""

from typing import Any

import keras
import numpy as np

from ladder.arrays import check_shapes
from pipeline.network import check_weights
from pipeline.recipe import Recipe

Weights = dict[str, np.ndarray[Any, Any]]


def export_weights(model: keras.Model) -> Weights:
    """Return the model's weights in canonical form, which is Keras's own layout."""
    return {name: keras.ops.convert_to_numpy(value) for name, value in _variables(model).items()}


def load_weights(model: keras.Model, weights: Weights, recipe: Recipe) -> None:
    """Set the model's weights from canonical ones, in the model's own dtype.

    Raises:
        ValueError: missing, extra or misshapen entries.
    """
    check_weights(weights, recipe, "canonical weights")
    for name, variable in _variables(model).items():
        variable.assign(weights[name])


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return each trainable variable by its canonical name, such as `conv1.kernel`."""
    return {
        f"{layer.name}.{variable.name}": variable
        for layer in model.layers
        for variable in layer.trainable_variables
    }


def export_training_state(model: keras.Model) -> Weights:
    """Return weights, Adam's slots and its step count, all that training goes on from.

    Slots are named `adam.m.conv1.kernel` and `adam.v.conv1.kernel`, the count `adam.step`.
    """
    return {
        name: keras.ops.convert_to_numpy(value) for name, value in _training_state(model).items()
    }


def load_training_state(model: keras.Model, state: Weights) -> None:
    """Set weights, Adam's slots and its step count.

    Raises:
        ValueError: missing, extra or misshapen entries.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = _training_state(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    check_shapes(state, shapes, "training state")
    for name, variable in variables.items():
        variable.assign(state[name])


def _training_state(model: keras.Model) -> dict[str, keras.Variable]:
    weights = _variables(model)
    names = {variable.path.replace("/", "_"): name for name, variable in weights.items()}
    slots = {
        f"adam.{letter}.{names[variable.name.removesuffix(suffix)]}": variable
        for variable in model.optimizer.variables
        for letter, suffix in (("m", "_momentum"), ("v", "_velocity"))
        if variable.name.endswith(suffix)
    }
    return {**weights, **slots, "adam.step": model.optimizer.iterations}
