"""What Keras's layers, optimizers, losses and metrics are, as facts that frameworks share."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from ladder.exchange import Array
from ladder.subject import Facts, snake_case


def layer_row(layer: keras.Layer) -> Facts:
    """Return a layer's row of the table; an unknown kind is named by its class."""
    row: Facts = {
        "name": layer.name,
        "kind": kind_of(layer),
        "output_shape": list(layer.output.shape[1:]),
        "parameters": sum(int(np.prod(variable.shape)) for variable in weights_of(layer)),
    }
    match layer:
        case keras.layers.Conv2D():
            row |= {"filters": layer.filters, **_convolution(layer), "groups": layer.groups}
        case keras.layers.MaxPooling2D() | keras.layers.AveragePooling2D():
            row |= {
                "pool_size": list(layer.pool_size),
                "strides": list(layer.strides),
                "padding": layer.padding,
            }
        case keras.layers.LeakyReLU():
            row |= {"negative_slope": float(layer.negative_slope)}
        case keras.layers.Activation():
            row |= {"kind": layer.activation.__name__}
        case keras.layers.Dropout():
            row |= {"rate": float(layer.rate)}
        case keras.layers.Dense():
            row |= {
                "units": layer.units,
                "use_bias": layer.use_bias,
                "activation": layer.activation.__name__,
            }
    return row


def _convolution(layer: Any) -> Facts:
    return {
        "kernel_size": list(layer.kernel_size),
        "strides": list(layer.strides),
        "dilation": list(layer.dilation_rate),
        "padding": layer.padding,
        "use_bias": layer.use_bias,
        "activation": layer.activation.__name__,
    }


_KINDS = {
    keras.layers.Conv2D: "convolution",
    keras.layers.LeakyReLU: "leaky_relu",
    keras.layers.ReLU: "relu",
    keras.layers.Softmax: "softmax",
    keras.layers.MaxPooling2D: "max_pool",
    keras.layers.AveragePooling2D: "average_pool",
    keras.layers.Dropout: "dropout",
    keras.layers.Flatten: "flatten",
    keras.layers.Dense: "dense",
}


def kind_of(layer: keras.Layer) -> str:
    """Return a layer's kind; a subclass is what its parent is, and an unknown one its class."""
    known = [_KINDS[parent] for parent in type(layer).__mro__ if parent in _KINDS]
    return known[0] if known else snake_case(type(layer).__name__)


def weights_of(layer: keras.Layer) -> list[keras.Variable]:
    """Return parameters; counters and masks are integers."""
    return [variable for variable in layer.weights if "float" in variable.dtype]


def call(layer: keras.Layer, values: Any, training: bool) -> Any:
    """Call a layer in a mode; most take no such argument."""
    takes_it = layer._call_has_training_arg
    return layer(values, training=training) if takes_it else layer(values)


def optimizer_kind(optimizer: keras.optimizers.Optimizer) -> str:
    """Return `adam`, `sgd`, `rmsprop`, …; AdamW is Adam with a decoupled weight decay."""
    return {"adamw": "adam"}.get(name := type(optimizer).__name__.lower(), name)


SLOTS = {
    ("adam", "momentum"): "m",
    ("adam", "velocity"): "v",
    ("adam", "velocity_hat"): "v_hat",
}


def optimizer_contract(optimizer: keras.optimizers.Optimizer) -> Facts:
    """Return an optimizer's resolved settings."""
    kind = optimizer_kind(optimizer)
    decay = float(optimizer.weight_decay or 0.0)
    found: Facts = {
        "kind": kind,
        "learning_rate": float(numpy_of(optimizer.learning_rate)),
        "weight_decay": decay,
        "weight_decay_kind": "decoupled" if decay else "none",
        "clipping": _clipping(optimizer),
        "schedule": _schedule(optimizer),
        "gradient_accumulation": optimizer.gradient_accumulation_steps or 1,
    }
    if kind == "adam":
        found |= {
            **{name: float(getattr(optimizer, name)) for name in ("beta_1", "beta_2", "epsilon")},
            "epsilon_placement": "outside",
            "amsgrad": optimizer.amsgrad,
        }
    elif kind == "sgd":
        found |= {
            "momentum": float(optimizer.momentum),
            "nesterov": optimizer.nesterov,
        }
    return found


def _clipping(optimizer: keras.optimizers.Optimizer) -> str:
    for name, words in (
        ("clipnorm", "norm of each gradient"),
        ("global_clipnorm", "global norm"),
        ("clipvalue", "value"),
    ):
        if (limit := getattr(optimizer, name)) is not None:
            return f"{words}, at most {float(limit):g}"
    return "none"


def _schedule(optimizer: keras.optimizers.Optimizer) -> str:
    schedule = optimizer._learning_rate
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return "each step"
    return "none"


def loss_contract(loss: Any) -> Facts:
    """Return a compiled loss's resolved settings."""
    name = name_of(loss)
    options = getattr(loss, "_fn_kwargs", {})
    found: Facts = {
        "kind": _LOSSES.get(name.removeprefix("sparse_"), name),
        "reduction": _REDUCTIONS.get(getattr(loss, "reduction", "mean"), "none"),
    }
    if "crossentropy" in name:
        found |= {
            "takes": "logits" if options.get("from_logits", False) else "probabilities",
            "label_smoothing": float(options.get("label_smoothing", 0.0)),
        }
    return found


def name_of(loss: Any) -> str:
    """Return a loss's kind in snake case."""
    if isinstance(loss, str):
        return snake_case(loss)
    return snake_case(getattr(loss, "__name__", type(loss).__name__))


_LOSSES = {
    "categorical_crossentropy": "categorical cross-entropy",
    "binary_crossentropy": "binary cross-entropy",
    "mean_squared_error": "mean squared error",
}


_REDUCTIONS = {
    "sum_over_batch_size": "mean over the batch",
    "mean": "mean over the batch",
    "mean_with_sample_weight": "mean over the batch",
    "sum": "sum over the batch",
}


def metrics_contract(model: keras.Model) -> Facts:
    """Return each compiled metric's kind; Keras's are means weighted by batch size."""
    compiled = getattr(model, "_compile_metrics", None)
    found = {}
    for metric in keras.tree.flatten(compiled._user_metrics) if compiled else []:
        name = metric if isinstance(metric, str) else metric.name
        kind = metric if isinstance(metric, str) else snake_case(type(metric).__name__)
        name = {"acc": "accuracy"}.get(name, name)
        is_share = kind.endswith("accuracy") or kind == "acc"
        found[name] = "share of images, weighted by batch size" if is_share else kind
    return found


def initialisers(layers: Sequence[keras.Layer]) -> Facts:
    """Return the name of what draws each parameter's first values."""
    found = {}
    for layer in layers:
        for name in ("kernel", "bias"):
            initialiser = getattr(layer, f"{name}_initializer", None)
            if initialiser is not None and any(one.name == name for one in weights_of(layer)):
                found[f"{layer.name}.{name}"] = snake_case(type(initialiser).__name__)
    return found


def numpy_of(values: Any) -> Array:
    """Return a copy of a backend's tensor."""
    return np.array(keras.ops.convert_to_numpy(values))
