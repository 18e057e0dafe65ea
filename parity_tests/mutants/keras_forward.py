"""Porting mistakes in Keras up to the logits: settings, data, weights, layers."""

from typing import Any

import keras
import numpy as np

import keras_impl.settings
import pipeline.batches
import pipeline.preprocess
from parity_tests import differences as by
from parity_tests.catalogue import JAX, TORCH, UNKNOWN, mutant
from parity_tests.mutants.keras_patches import (
    after_building,
    build_layers_with,
    build_sequential_with,
    compile_with,
    dense_with,
    replace_everywhere,
    rescale_then,
    run_instead,
)
from pipeline.datasets import FASHION_MNIST_CLASSES

# Settings that are not what they were in torch.


@mutant("layers", "forced.pool1", "Leaky ReLU with slope 0.3, rounded", difference=by.SLOPE)
def keras_slope() -> None:
    """LeakyReLU is left with Keras's default slope, 0.3."""
    build_layers_with("LeakyReLU", lambda slope, name: keras.layers.LeakyReLU(name=name))


@mutant(
    "architecture",
    "layers.pool3.output_shape.0",
    "unmatched kernel (1152, 128), bias",
    difference=by.SAME_POOL,
)
def valid_pool() -> None:
    """The pools have Keras's default padding, none."""
    build_layers_with(
        "MaxPooling2D", lambda size, padding, name: keras.layers.MaxPooling2D(size, name=name)
    )


@mutant(
    "architecture",
    "layers.conv1.output_shape.0",
    "padding [0, 0] | [1, 1]",
    difference=by.PADDING,
    quick=False,
)
def valid_convolution() -> None:
    """The convolutions have Keras's default padding, none."""
    build_layers_with(
        "Conv2D", lambda filters, size, padding, name: keras.layers.Conv2D(filters, size, name=name)
    )


@mutant(
    "architecture",
    "layers.conv1.output_shape.0",
    "padding [0, 1] | [1, 1], strides 2 | 1",
    quick=False,
)
def strided_convolution() -> None:
    """The first convolution moves by two pixels."""
    build_layers_with(
        "Conv2D",
        lambda filters, size, padding, name: keras.layers.Conv2D(
            filters, size, strides=1 + (name == "conv1"), padding=padding, name=name
        ),
    )


@mutant(
    "architecture", "layers.pool3.output_shape.0", "unmatched kernel (6272, 128), bias", quick=False
)
def overlapping_pool() -> None:
    """The last pool moves by one pixel."""
    build_layers_with(
        "MaxPooling2D",
        lambda size, padding, name: keras.layers.MaxPooling2D(
            size, strides=1 if name == "pool3" else None, padding=padding, name=name
        ),
    )


@mutant("layers", "forced.logits", "softmax in Keras alone", difference=by.CROSS_ENTROPY)
def softmax_output() -> None:
    """The model ends in a softmax, which the loss takes for logits."""
    build_layers_with("Dense", dense_with(logits={"activation": "softmax"}))


@mutant(
    "layers",
    "forced.logits",
    "softmax in Keras alone",
    engine=JAX,
    difference=by.CROSS_ENTROPY,
    quick=False,
)
def clipped_probabilities() -> None:
    """The loss takes the logarithm of a softmax that is clipped to 1e-7."""
    build_layers_with("Dense", dense_with(logits={"activation": "softmax"}))
    compile_with("losses.CategoricalCrossentropy", from_logits=False)


@mutant("logits", "loss.", "Keras takes what goes into its", difference=by.CROSS_ENTROPY)
def probabilities_of_logits() -> None:
    """`from_logits=True` is left out."""
    compile_with("losses.CategoricalCrossentropy", from_logits=False)


@mutant("layers", "forced.hidden", "ReLU in Keras")
def hidden_relu() -> None:
    """The hidden layer has a ReLU of its own before the LeakyReLU."""
    build_layers_with("Dense", dense_with(hidden={"activation": "relu"}))


@mutant("logits", "loss.", "the loss is a sum in Keras", quick=False)
def loss_sum() -> None:
    """The loss is summed over the batch."""
    compile_with("losses.CategoricalCrossentropy", reduction="sum")


@mutant("logits", "loss.", "labels are smoothed by 0.1 in", quick=False)
def label_smoothing() -> None:
    """Labels are smoothed by 0.1."""
    compile_with("losses.CategoricalCrossentropy", label_smoothing=0.1)


@mutant("optimizer", "step.1.", "epsilon 1e-08 | 1e-07", difference=by.EPSILON, quick=False)
def torch_epsilon() -> None:
    """Ε is 1e-8, torch's default."""
    compile_with("optimizers.Adam", epsilon=1e-8)


@mutant("optimizer", "step.1.", "beta_1 0.5 | 0.9")
def beta_1() -> None:
    """Β₁ is 0.5."""
    compile_with("optimizers.Adam", beta_1=0.5)


@mutant("optimizer", "step.1.", "learning_rate 0.0003 | 0.001")
def learning_rate() -> None:
    """The learning rate is 3e-4."""
    compile_with("optimizers.Adam", learning_rate=3e-4)


@mutant("optimizer", "step.1.", "weight_decay 0.004 | 0", difference=by.WEIGHT_DECAY, quick=False)
def weight_decay() -> None:
    """Adam has Keras's weight decay."""
    compile_with("optimizers.Adam", weight_decay=0.004)


@mutant("optimizer", "step.1.", "gradients are clipped by each", difference=by.CLIPPING)
def clipped_norms() -> None:
    """`clipnorm` clips the norm of each gradient."""
    compile_with("optimizers.Adam", clipnorm=0.1)


@mutant("optimizer", "step.2.", "each weight moves 1.00", difference=by.SCHEDULES, quick=False)
def cosine_schedule() -> None:
    """A schedule lowers the learning rate each step."""
    compile_with("optimizers.Adam", learning_rate=keras.optimizers.schedules.CosineDecay(1e-3, 100))


@mutant("initialisation", "conv1.bias", "frozen bias, kernel | none", difference=by.FROZEN)
def frozen_layer() -> None:
    """The first convolution is frozen."""
    after_building(lambda model: setattr(model.get_layer("conv1"), "trainable", False))


@mutant("layers", "forced.hidden", "float32-inside-float64", engine=TORCH, difference=by.PROMOTION)
def float32_promotion() -> None:
    """Keras's type promotion computes the dense layers of a float64 model in float32."""
    keras_impl.settings._keep_float64 = lambda: None


@mutant(
    "layers",
    "forced.conv1",
    "float32-inside-float64",
    engine=JAX,
    difference=by.PROMOTION,
    quick=False,
)
def no_x64() -> None:
    """JAX's switch for float64 is off."""
    import jax

    jax.config.update("jax_enable_x64", False)


# The data.


@mutant("data", "batches", "order-differs", engine=TORCH, difference=by.FIT_SHUFFLE)
def shuffled_batches() -> None:
    """`fit` shuffles the batches once more."""
    real = keras.Model.fit

    def fit(self: keras.Model, *arguments: Any, shuffle: bool, **options: Any) -> Any:
        return real(self, *arguments, **options)

    keras.Model.fit = fit


@mutant("data", "batches", "last-batch-dropped", quick=False)
def dropped_batch() -> None:
    """The number of batches is rounded down."""
    pipeline.batches.Batches.__len__ = lambda self: len(self.data) // self.batch_size


@mutant("data", "batches", "images-inverted")
def inverted() -> None:
    """Images are inverted."""
    rescale_then(lambda scaled: 1 - scaled)


@mutant("data", "batches", "images-scaled-twice", quick=False)
def scaled_twice() -> None:
    """Pixels are divided by 255 where they are loaded, and by a layer again."""
    rescale_then(lambda scaled: scaled / 255)


@mutant("data", "batches", "images-rescaled", quick=False)
def divided_by_256() -> None:
    """Pixels are divided by 256."""
    rescale_then(lambda scaled: scaled * (255 / 256))


@mutant("data", "batches", "images-rearranged", quick=False)
def rearranged() -> None:
    """The even rows of an image, and then the odd ones, are read as the image."""
    rescale_then(lambda scaled: np.concatenate([scaled[:, ::2], scaled[:, 1::2]], axis=1))


@mutant("data", "batches", "images-flipped")
def flipped_images() -> None:
    """An augmentation mirrors every image."""
    rescale_then(lambda scaled: np.ascontiguousarray(scaled[:, :, ::-1]))


@mutant("data", "batches", "labels-permuted", quick=False)
def alphabetical_labels() -> None:
    """Classes are numbered in the alphabetical order of their names."""
    ranks = np.argsort(np.argsort(FASHION_MNIST_CLASSES))
    real = pipeline.batches.one_hot
    pipeline.batches.one_hot = lambda labels, num_classes, dtype: real(
        ranks[labels], num_classes, dtype
    )


@mutant("data", "batches", "other-split", difference=by.SPLIT)
def validation_split() -> None:
    """The split is that of `validation_split`: the last part, unshuffled."""

    def split(num_images: int, fraction: float, seed: int) -> Any:
        num_train = num_images - int(np.ceil(num_images * fraction))
        return np.arange(num_train), np.arange(num_train, num_images)

    pipeline.preprocess.train_validation_split = split


@mutant("data", "batches", "validation-trained-on")
def trained_on_everything() -> None:
    """All images are trained on, the validation images among them."""
    real = pipeline.preprocess.train_validation_split

    def split(num_images: int, fraction: float, seed: int) -> Any:
        return np.arange(num_images), real(num_images, fraction, seed)[1]

    pipeline.preprocess.train_validation_split = split


@mutant("data", "batches", "order-differs", quick=False)
def own_order() -> None:
    """The order is drawn by a generator of its own."""
    pipeline.batches.epoch_order = lambda num_images, seed, epoch: np.random.default_rng(
        [seed, epoch]
    ).permutation(num_images)


# The network's build.


@mutant("architecture", "layers.act1.name", UNKNOWN)
def activation_after_pool() -> None:
    """Each pool stands before its activation."""

    def reorder(layers: list[Any]) -> list[Any]:
        ordered = list(layers)
        for place, layer in enumerate(layers):
            if layer.name.startswith("pool"):
                ordered[place - 1 : place + 1] = [layer, layers[place - 1]]
        return ordered

    build_sequential_with(reorder)


@mutant("architecture", "layers.pool1.name", UNKNOWN, variant="dropout", quick=False)
def dropout_before_pool() -> None:
    """Each dropout stands before its pool."""

    def reorder(layers: list[Any]) -> list[Any]:
        ordered = list(layers)
        for place, layer in enumerate(layers):
            if layer.name in {"drop1", "drop2", "drop3"}:
                ordered[place - 1 : place + 1] = [layer, layers[place - 1]]
        return ordered

    build_sequential_with(reorder)


# First weights.


@mutant(
    "initialisation", "hidden.kernel", "init-distribution", difference=by.INITIALISERS, quick=False
)
def he_init() -> None:
    """The dense kernels are drawn from He's uniform distribution."""
    he = {"kernel_initializer": "he_uniform"}
    build_layers_with("Dense", dense_with(hidden=he, logits=he))


@mutant("initialisation", "conv", "init-distribution", difference=by.INITIALISERS, quick=False)
def normal_init() -> None:
    """The convolution kernels are drawn from Glorot's normal distribution."""
    build_layers_with(
        "Conv2D",
        lambda filters, size, **options: keras.layers.Conv2D(
            filters, size, kernel_initializer="glorot_normal", **options
        ),
    )


@mutant("initialisation", "", "bias-not-zero")
def constant_bias() -> None:
    """Biases begin with 0.1."""
    tenth = {"bias_initializer": keras.initializers.Constant(0.1)}
    build_layers_with("Dense", dense_with(hidden=tenth, logits=tenth))


# Layers that compute something else than their settings say, and weights carried over wrongly.


@mutant("layers", "forced.flatten", "the same channels in another order", difference=by.FLATTEN)
def flatten_channels_first() -> None:
    """Flatten is told channels_first, which permutes a channels-last map."""
    build_layers_with(
        "Flatten", lambda name: keras.layers.Flatten(data_format="channels_first", name=name)
    )


@mutant("layers", "forced.conv1", UNKNOWN)
def weights_not_loaded() -> None:
    """Keras's own first weights are kept."""
    replace_everywhere("load_weights", lambda model, weights, recipe: None)


@mutant("layers", "forced.pool3", UNKNOWN, difference=by.SAME_POOL)
def pool_from_the_start() -> None:
    """The last pool is padded at the top and left."""

    def pool(layer: Any, inputs: Any) -> Any:
        edge = keras.ops.pad(inputs, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=-1e30)
        return keras.ops.max_pool(edge, 2, padding="valid")

    run_instead("pool3", pool)


@mutant("layers", "forced.hidden", UNKNOWN)
def half_precision_layer() -> None:
    """One layer computes in bfloat16."""

    def dense(layer: Any, inputs: Any) -> Any:
        narrow = [keras.ops.cast(part, "bfloat16") for part in (inputs, layer.kernel)]
        return keras.ops.cast(keras.ops.matmul(*narrow), inputs.dtype) + layer.bias

    run_instead("hidden", dense)


@mutant("layers", "forced.hidden", UNKNOWN)
def ignored_bias() -> None:
    """The hidden layer's bias is there and never added."""
    run_instead("hidden", lambda layer, inputs: keras.ops.matmul(inputs, layer.kernel))


@mutant(
    "layers",
    "forced.hidden_act",
    "Leaky ReLU with slope 0.2, rounded",
    difference=by.FUNCTIONAL_SLOPE,
    quick=False,
)
def one_slope() -> None:
    """One activation is functional, with Keras's default slope."""
    run_instead("hidden_act", lambda layer, inputs: keras.ops.leaky_relu(inputs))


@mutant(
    "layers", "forced.drop3", "dropout 0.4 | none", variant="dropout", difference=by.MODES,
    quick=False,
)  # fmt: skip
def dropout_at_evaluation() -> None:
    """A dropout layer is called with training=True."""

    class Dropout(keras.layers.Dropout):
        def __call__(self, inputs: Any, training: bool | None = None) -> Any:
            return super().__call__(inputs, training=True)

    def dropout(rate: float, seed: int, name: str) -> keras.Layer:
        kind = Dropout if name == "drop3" else keras.layers.Dropout
        return kind(rate, seed=seed, name=name)

    build_layers_with("Dropout", dropout)


# What is made of the logits.


@mutant("logits", "loss.", "float32-inside-float64")
def float32_loss() -> None:
    """The loss is computed in float32."""
    compile_with("losses.CategoricalCrossentropy", dtype="float32")


@mutant("logits", "loss.", UNKNOWN)
def loss_over_classes() -> None:
    """The loss is divided by the number of classes too."""
    real = keras.losses.CategoricalCrossentropy.call

    def call(self: Any, target: Any, logits: Any) -> Any:
        return real(self, target, logits) / target.shape[-1]

    keras.losses.CategoricalCrossentropy.call = call


@mutant("logits", "loss.", UNKNOWN, difference=by.CROSS_ENTROPY)
def unnormalised_loss() -> None:
    """The loss is the true class's negative logit, as of a likelihood that is given none."""
    keras.losses.CategoricalCrossentropy.call = lambda self, target, logits: (
        -keras.ops.sum(target * logits, axis=-1)
    )
