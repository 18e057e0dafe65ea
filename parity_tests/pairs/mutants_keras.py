"""Porting mistakes in the second pair's Keras model, each planted as it is built.

A program for `portproof check`: each function that takes a `build` returns its model changed.
"""

from collections.abc import Callable
from typing import Any

import keras

from parity_tests.pairs import strided_keras as pair

Build = Callable[[], keras.Model]


def torch_epsilon(build: Build = pair.build) -> keras.Model:
    """BatchNorm with torch's default ε, 1e-5."""
    return edit_norms(build(), epsilon=1e-5)


def torch_momentum(build: Build = pair.build) -> keras.Model:
    """BatchNorm with torch's momentum, the share that is added, where Keras's is kept."""
    return edit_norms(build(), momentum=1 - 0.99)


def padded_by_one(build: Build = pair.build) -> keras.Model:
    """Strided convolutions padded on all four sides, as torch's `padding=1` pads."""
    model = build()
    for name in ("conv1", "conv2"):
        layer = model.get_layer(name)
        layer.call = lambda inputs, layer=layer: keras.ops.conv(
            keras.ops.pad(inputs, [(0, 0), (1, 1), (1, 1), (0, 0)]), layer.kernel, strides=2
        )
    return recompile(model)


def clipped_apart(build: Build = pair.build) -> keras.Model:
    """Clip each variable by its own norm: `clipnorm` where `global_clipnorm` was meant."""
    return recompile(build(), clipnorm=pair.MAX_NORM, global_clipnorm=None)


def unclipped(build: Build = pair.build) -> keras.Model:
    """Leave the clipping out."""
    return recompile(build(), global_clipnorm=None)


def coupled_decay(build: Build = pair.build) -> keras.Model:
    """Put the weight decay into the loss, as L2 of the kernels: Adam then divides it."""
    penalty = keras.regularizers.L2(pair.WEIGHT_DECAY / 2)

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if "kernel_regularizer" in config:
            config["kernel_regularizer"] = penalty
        return type(layer).from_config(config)

    optimizer = keras.optimizers.Adam(
        pair.build_schedule(),
        beta_1=pair.BETA_1,
        beta_2=pair.BETA_2,
        epsilon=pair.EPSILON,
        global_clipnorm=pair.MAX_NORM,
    )
    return compile_with(keras.models.clone_model(build(), clone_function=clone), optimizer)


def decayed_biases(build: Build = pair.build) -> keras.Model:
    """Let every variable decay, biases, γ and β too, as Keras does unless told."""
    model = build()
    optimizer = keras.optimizers.AdamW.from_config(model.optimizer.get_config())
    return compile_with(model, optimizer)


def keras_decay(build: Build = pair.build) -> keras.Model:
    """Leave Keras's default weight decay of 0.004."""
    return recompile(build(), weight_decay=0.004)


def softmax_output(build: Build = pair.build) -> keras.Model:
    """End in a softmax, which the loss takes for logits."""
    model = build()
    model.get_layer("logits").activation = keras.activations.softmax
    return recompile(model)


def summed_loss(build: Build = pair.build) -> keras.Model:
    """Sum the loss over the batch."""
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    return compile_with(model, pair.build_optimizer(), loss)


def uneven_pool(build: Build = pair.build) -> keras.Model:
    """Pool by 2, padded right and bottom alone: no mutant, both implementations have it.

    The torch backend repeats the edge's pixels there, where the others count what is in the window.
    """

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer.name == "pool":
            config["strides"] = (2, 2)
        return type(layer).from_config(config)

    return recompile(keras.models.clone_model(build(), clone_function=clone))


def momentum_sgd(build: Build = pair.build) -> keras.Model:
    """Train with SGD and momentum on the same schedule: no mutant, both implementations have it."""
    optimizer = keras.optimizers.SGD(
        pair.build_schedule(), momentum=pair.BETA_1, global_clipnorm=pair.MAX_NORM
    )
    return compile_with(build(), optimizer)


def counted_windows(build: Build = pair.build) -> keras.Model:
    """Take away what makes the torch backend part in `uneven-pool`: count the pixels by hand."""

    def pool(inputs: Any) -> Any:
        padded = keras.ops.pad(inputs, [(0, 0), (0, 1), (0, 1), (0, 0)])
        return keras.ops.average_pool(padded, 3, strides=2)

    model = uneven_pool(build)
    # The mean over the padded window, by the share of it that is no padding.
    model.get_layer("pool").call = lambda inputs: pool(inputs) / pool(keras.ops.ones_like(inputs))
    return recompile(model)


def edit_norms(model: keras.Model, **settings: float) -> keras.Model:
    """Set attributes of every BatchNorm layer."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for name, value in settings.items():
                setattr(layer, name, value)
    return recompile(model)


def recompile(model: keras.Model, **settings: Any) -> keras.Model:
    """Compile with the pair's optimizer, `settings` changed, and the pair's loss."""
    optimizer = pair.build_optimizer()
    if settings:
        optimizer = type(optimizer).from_config(optimizer.get_config() | settings)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return compile_with(model, optimizer)


def compile_with(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: keras.losses.Loss | None = None,
) -> keras.Model:
    """Compile with an optimizer, and the pair's loss unless another is given."""
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    return model
