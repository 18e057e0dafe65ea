"""Plant a porting mistake in the Keras implementation, then answer; see `ladder.serve`.

A program: it patches its own processes and nothing imports it. Production code has no hooks
for it.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

import keras_impl.data
import keras_impl.fast
import keras_impl.model
import keras_impl.settings
import keras_impl.trace
import keras_impl.train
import keras_impl.weights
import pipeline.batches
import pipeline.preprocess
from ladder.serve import serve
from parity_tests import differences as by
from parity_tests.catalogue import JAX, PLANTERS, TORCH, UNKNOWN, mutant
from pipeline.datasets import FASHION_MNIST_CLASSES

# Settings that are not what they were in torch.


@mutant("contract", "layers.act1.negative_slope", "leaky-slope", difference=by.SLOPE)
def keras_slope() -> None:
    """LeakyReLU is left with Keras's default slope, 0.3."""
    build_layers_with("LeakyReLU", lambda slope, name: keras.layers.LeakyReLU(name=name))


@mutant("contract", "layers.pool1.padding", "pool-valid", difference=by.SAME_POOL)
def valid_pool() -> None:
    """The pools have Keras's default padding, none."""
    build_layers_with(
        "MaxPooling2D", lambda size, padding, name: keras.layers.MaxPooling2D(size, name=name)
    )


@mutant("contract", "layers.conv1.padding", "conv-padding", difference=by.PADDING, quick=False)
def valid_convolution() -> None:
    """The convolutions have Keras's default padding, none."""
    build_layers_with(
        "Conv2D", lambda filters, size, padding, name: keras.layers.Conv2D(filters, size, name=name)
    )


@mutant("contract", "layers.logits.activation", "softmax-output", difference=by.CROSS_ENTROPY)
def softmax_output() -> None:
    """The model ends in a softmax, which the loss takes for logits."""
    build_layers_with("Dense", dense_with(logits={"activation": "softmax"}))


@mutant(
    "contract",
    "layers.logits.activation",
    "softmax-output",
    engine=JAX,
    difference=by.CROSS_ENTROPY,
    quick=False,
)
def clipped_probabilities() -> None:
    """The loss takes the logarithm of a softmax that is clipped to 1e-7."""
    build_layers_with("Dense", dense_with(logits={"activation": "softmax"}))
    compile_with("losses.CategoricalCrossentropy", from_logits=False)


@mutant("contract", "loss.takes", "softmax-before-loss", difference=by.CROSS_ENTROPY)
def probabilities_of_logits() -> None:
    """`from_logits=True` is left out."""
    compile_with("losses.CategoricalCrossentropy", from_logits=False)


@mutant("contract", "layers.hidden.activation", "activation-added")
def hidden_relu() -> None:
    """The hidden layer has a ReLU of its own before the LeakyReLU."""
    build_layers_with("Dense", dense_with(hidden={"activation": "relu"}))


@mutant("contract", "loss.reduction", "loss-sum", quick=False)
def loss_sum() -> None:
    """The loss is summed over the batch."""
    compile_with("losses.CategoricalCrossentropy", reduction="sum")


@mutant("contract", "loss.label_smoothing", "label-smoothing", quick=False)
def label_smoothing() -> None:
    """Labels are smoothed by 0.1."""
    compile_with("losses.CategoricalCrossentropy", label_smoothing=0.1)


@mutant("contract", "optimizer.epsilon", "adam-epsilon-value", difference=by.EPSILON, quick=False)
def torch_epsilon() -> None:
    """Ε is 1e-8, torch's default."""
    compile_with("optimizers.Adam", epsilon=1e-8)


@mutant("contract", "optimizer.beta_1", "adam-beta-1")
def beta_1() -> None:
    """Β₁ is 0.5."""
    compile_with("optimizers.Adam", beta_1=0.5)


@mutant("contract", "optimizer.learning_rate", "learning-rate")
def learning_rate() -> None:
    """The learning rate is 3e-4."""
    compile_with("optimizers.Adam", learning_rate=3e-4)


@mutant("contract", "optimizer.", "decoupled-weight-decay", difference=by.WEIGHT_DECAY, quick=False)
def weight_decay() -> None:
    """Adam has Keras's weight decay."""
    compile_with("optimizers.Adam", weight_decay=0.004)


@mutant("contract", "optimizer.clipping", "clipped-gradients", difference=by.CLIPPING)
def clipped_norms() -> None:
    """`clipnorm` clips the norm of each gradient."""
    compile_with("optimizers.Adam", clipnorm=0.1)


@mutant("contract", "optimizer.schedule", "learning-rate", difference=by.SCHEDULES, quick=False)
def cosine_schedule() -> None:
    """A schedule lowers the learning rate each step."""
    compile_with("optimizers.Adam", learning_rate=keras.optimizers.schedules.CosineDecay(1e-3, 100))


@mutant("contract", "frozen", "frozen-layer", difference=by.FROZEN)
def frozen_layer() -> None:
    """The first convolution is frozen."""
    after_building(lambda model: setattr(model.get_layer("conv1"), "trainable", False))


@mutant("layers", "forced.hidden", "float32-inside-float64", engine=TORCH, difference=by.PROMOTION)
def float32_promotion() -> None:
    """Keras's type promotion computes the dense layers of a float64 model in float32."""
    keras_impl.settings._keep_float64 = lambda: None


@mutant(
    "contract", "dtypes", "float32-inside-float64", engine=JAX, difference=by.PROMOTION, quick=False
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


@mutant("architecture", "layers", "activation-order")
def activation_after_pool() -> None:
    """Each pool stands before its activation."""

    def reorder(layers: list[Any]) -> list[Any]:
        ordered = list(layers)
        for place, layer in enumerate(layers):
            if layer.name.startswith("pool"):
                ordered[place - 1 : place + 1] = [layer, layers[place - 1]]
        return ordered

    build_sequential_with(reorder)


@mutant("architecture", "layers", "layer-order", variant="dropout", quick=False)
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


@mutant("layers", "forced.flatten", "flatten-order", difference=by.FLATTEN)
def flatten_channels_first() -> None:
    """Flatten is told channels_first, which permutes a channels-last map."""
    build_layers_with(
        "Flatten", lambda name: keras.layers.Flatten(data_format="channels_first", name=name)
    )


@mutant("layers", "forced.", "weights-not-loaded")
def weights_not_loaded() -> None:
    """Keras's own first weights are kept."""
    replace_everywhere("load_weights", lambda model, weights, recipe: None)


@mutant("layers", "forced.pool3", "pool-padding", difference=by.SAME_POOL)
def pool_from_the_start() -> None:
    """The last pool is padded at the top and left."""

    def pool(layer: Any, inputs: Any) -> Any:
        edge = keras.ops.pad(inputs, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=-1e30)
        return keras.ops.max_pool(edge, 2, padding="valid")

    run_instead("pool3", pool)


@mutant("layers", "forced.hidden", "half-precision")
def half_precision_layer() -> None:
    """One layer computes in bfloat16."""

    def dense(layer: Any, inputs: Any) -> Any:
        narrow = [keras.ops.cast(part, "bfloat16") for part in (inputs, layer.kernel)]
        return keras.ops.cast(keras.ops.matmul(*narrow), inputs.dtype) + layer.bias

    run_instead("hidden", dense)


@mutant("layers", "forced.hidden", "missing-bias")
def ignored_bias() -> None:
    """The hidden layer's bias is there and never added."""
    run_instead("hidden", lambda layer, inputs: keras.ops.matmul(inputs, layer.kernel))


@mutant("layers", "forced.hidden_act", "leaky-slope", difference=by.FUNCTIONAL_SLOPE, quick=False)
def one_slope() -> None:
    """One activation is functional, with Keras's default slope."""
    run_instead("hidden_act", lambda layer, inputs: keras.ops.leaky_relu(inputs))


@mutant(
    "layers",
    "forced.drop3",
    "dropout-at-evaluation",
    variant="dropout",
    difference=by.MODES,
    quick=False,
)
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


@mutant("logits", "loss.", "mean-over-classes")
def loss_over_classes() -> None:
    """The loss is divided by the number of classes too."""
    real = keras.losses.CategoricalCrossentropy.call

    def call(self: Any, target: Any, logits: Any) -> Any:
        return real(self, target, logits) / target.shape[-1]

    keras.losses.CategoricalCrossentropy.call = call


# Gradients that are not the forward pass's.


@mutant("gradients", "gradient.", "zero-gradient", quick=False)
def stopped_gradient() -> None:
    """`stop_gradient` cuts the first block off."""
    run_instead(
        "act1", lambda layer, inputs: keras.ops.stop_gradient(type(layer).call(layer, inputs))
    )


# Steps that are not Adam's as Keras takes them.


@mutant("optimizer", "step.1.", "stale-optimizer-state", quick=False)
def stale_slots() -> None:
    """Weights are loaded, slots and step count are an earlier training's."""

    def keep(model: Any) -> None:
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        for momentum, velocity in zip(optimizer._momentums, optimizer._velocities, strict=True):
            momentum.assign(keras.ops.full(momentum.shape, 1e-3, momentum.dtype))
            velocity.assign(keras.ops.full(velocity.shape, 1e-6, velocity.dtype))
        optimizer.iterations.assign(100)

    after_compiling(keep)


@mutant("optimizer", "step.1.weight.", "no-bias-correction")
def kept_count() -> None:
    """Slots are empty but the step count is an earlier training's."""

    def keep(model: Any) -> None:
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(10**6)

    after_compiling(keep)


@mutant("optimizer", "step.1.weight.", "adam-epsilon-placement", difference=by.EPSILON, quick=False)
def torch_formula() -> None:
    """Ε is inside the bias correction, whatever the optimizer is called."""

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        ops, index = keras.ops, self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, variable.dtype)
        corrections = [
            1 - ops.power(ops.cast(beta, variable.dtype), step)
            for beta in (self.beta_1, self.beta_2)
        ]
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        root = ops.sqrt(v) / ops.sqrt(corrections[1]) + self.epsilon
        self.assign_sub(variable, ops.cast(learning_rate, m.dtype) / corrections[0] * m / root)

    keras.optimizers.Adam.update_step = update_step


@mutant("optimizer", "step.1.", "frozen-bias", difference=by.FROZEN, quick=False)
def skipped_bias() -> None:
    """The optimizer takes no step for biases."""
    real = keras.optimizers.Adam.update_step

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if len(variable.shape) > 1:
            real(self, gradient, variable, learning_rate)

    keras.optimizers.Adam.update_step = update_step


@mutant(quick=False, is_harmless=True)
def xla() -> None:
    """TensorFlow compiles the step with XLA."""
    after_compiling(lambda model: setattr(model, "jit_compile", True))


# Dropout.


@mutant("dropout", "drop_own.drop1", "dropout-rate", variant="dropout", difference=by.DROPOUT_MASKS)
def keep_probability() -> None:
    """The rate is taken for the share that is kept."""
    drop_with(
        "drop1",
        lambda layer, inputs, training: draw(inputs, 1 - layer.rate, layer) if training else inputs,
    )


@mutant(
    "dropout",
    "drop_own.hidden_drop",
    "dropout-not-scaled",
    variant="dropout",
    difference=by.DROPOUT_MASKS,
    quick=False,
)
def unscaled_dropout() -> None:
    """What dropout keeps is not scaled up."""
    drop_with(
        "hidden_drop",
        lambda layer, inputs, training: (
            draw(inputs, layer.rate, layer) * (1 - layer.rate) if training else inputs
        ),
    )


@mutant(
    "dropout",
    "drop_own.drop2",
    "spatial-dropout",
    variant="dropout",
    difference=by.DROPOUT_MASKS,
    quick=False,
)
def spatial_dropout() -> None:
    """Whole channels are dropped."""

    def dropout(rate: float, seed: int, name: str) -> keras.Layer:
        shape = (None, 1, 1, None) if name == "drop2" else None
        return keras.layers.Dropout(rate, noise_shape=shape, seed=seed, name=name)

    build_layers_with("Dropout", dropout)


@mutant("dropout", "drop_own.drop3", "dropout-rate", variant="dropout", difference=by.MODES)
def dropout_never() -> None:
    """A dropout layer is called with training=False in training."""
    drop_with("drop3", lambda layer, inputs, training: inputs)


# Training, epoch by epoch.


@mutant("training", "trained.", "evaluated-other-weights", quick=False)
def first_weights_restored() -> None:
    """The first epoch's weights are restored, as by a monitor of the wrong sign."""
    real = keras.Model.fit

    def fit(self: keras.Model, *arguments: Any, callbacks: list[Any], **options: Any) -> Any:
        first = KeepFirstEpoch()
        history = real(self, *arguments, callbacks=[*callbacks, first], **options)
        self.set_weights(first.weights)
        return history

    keras.Model.fit = fit


@mutant("optimizer", "step.6.weight.", "schedule-per-epoch", difference=by.SCHEDULES, quick=False)
def epoch_schedule() -> None:
    """The learning rate is halved by hand after each epoch."""
    real = keras_impl.train.EpochStart.on_epoch_begin

    def begin(self: Any, epoch: int, logs: Any = None) -> None:
        real(self, epoch, logs)
        if epoch > 0:
            self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 2

    keras_impl.train.EpochStart.on_epoch_begin = begin


# The seams of the fast path, which takes 25 steps in one execution.


@mutant("training", "seam.25.", UNKNOWN, quick=False)
def last_step_left_out() -> None:
    """No step is taken at the last of each 25 that come in one call."""
    step_with(lambda step: keras.ops.where(is_last(step), 0, 1))


@mutant("training", "seam.25.", UNKNOWN, quick=False)
def last_step_taken_twice() -> None:
    """The last of each 25 steps that come in one call is taken twice."""
    step_with(lambda step: keras.ops.where(is_last(step), 2, 1))


@mutant("training", "seam.52.", UNKNOWN, quick=False)
def partial_call_dropped() -> None:
    """An epoch's last steps, fewer than 25, are left out."""
    real = keras_impl.train.batch_source

    def batch_source(batches: Any, *how: Any) -> Any:
        source = real(batches, *how)
        if batches.seed is None or len(batches) < STEPS_IN_CALL:
            return source
        return source.take(len(batches) // STEPS_IN_CALL * STEPS_IN_CALL)

    keras_impl.train.batch_source = batch_source


@mutant("training", "seam.50.", UNKNOWN, quick=False)
def slots_reset_in_calls() -> None:
    """Each call of 25 steps begins with empty slots."""
    before_calls(lambda callback: [v.assign(keras.ops.zeros_like(v)) for v in slots(callback)])


@mutant("training", "seam.50.", UNKNOWN, quick=False)
def order_restarted_in_calls() -> None:
    """Each call of 25 steps begins with the epoch's first images."""
    real = keras_impl.train.batch_source

    def batch_source(batches: Any, *how: Any) -> Any:
        if batches.seed is not None:
            read = batches.positions
            batches.positions = lambda index: read(index % STEPS_IN_CALL)[: len(read(index))]
        return real(batches, *how)

    keras_impl.train.batch_source = batch_source


@mutant("dropout", "drop_steps.", "dropout-masks-repeated", variant="dropout", quick=False)
def masks_repeated_in_calls() -> None:
    """Dropout is seeded at the start of each call of 25 steps."""
    before_calls(lambda callback: callback.on_epoch_begin(callback.training.epoch))


@mutant("evaluation", "history.val_", UNKNOWN, quick=False)
def partial_validation_dropped() -> None:
    """Validation's last batches, fewer than 25, are left out."""
    real = keras.Model.fit

    def fit(self: keras.Model, *batches: Any, validation_data: Any, **options: Any) -> Any:
        if len(validation_data) > STEPS_IN_CALL:
            options["validation_steps"] = len(validation_data) // STEPS_IN_CALL * STEPS_IN_CALL
        return real(self, *batches, validation_data=validation_data, **options)

    keras.Model.fit = fit


# What is reported.


@mutant("evaluation", "history.", "metric-unweighted-mean", difference=by.METRICS, quick=False)
def unweighted_accuracy() -> None:
    """An epoch's accuracy is the mean of its batches' means."""

    def update_state(self: Any, target: Any, logits: Any, sample_weight: Any = None) -> None:
        hits = keras.ops.argmax(target, axis=1) == keras.ops.argmax(logits, axis=1)
        keras.metrics.Mean.update_state(self, keras.ops.mean(keras.ops.cast(hits, self.dtype)))

    keras.metrics.CategoricalAccuracy.update_state = update_state


@mutant("training", "trained_logits", "softmax-output", difference=by.CROSS_ENTROPY, quick=False)
def predicted_probabilities() -> None:
    """Predictions are probabilities."""

    def shares(logits: Any) -> Any:
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    real = keras_impl.train.predict_logits
    replace_everywhere("predict_logits", lambda *arguments: shares(real(*arguments)))


@mutant("training", "trained_logits", "predictions-permuted", quick=False)
def shuffled_predictions() -> None:
    """Predictions are returned in another order."""
    real = keras_impl.train.predict_logits

    def predict_logits(*arguments: Any) -> Any:
        logits = real(*arguments)
        return logits[np.random.default_rng(0).permutation(len(logits))]

    replace_everywhere("predict_logits", predict_logits)


# What must make no difference.


@mutant(difference=by.KERAS_JSON, is_harmless=True)
def keras_json() -> None:
    """`keras.json` sets channels_first, float16, another ε and mixed precision."""
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(1e-3)
    keras.config.set_dtype_policy("mixed_bfloat16")


@mutant(difference=by.KERAS_JSON, quick=False, is_harmless=True)
def environment_limits() -> None:
    """The environment limits epochs and steps."""
    keras.config.set_max_epochs(1)
    keras.config.set_max_steps_per_epoch(2)


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
    """Return what builds a dense layer, with further options by its name."""

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


if __name__ == "__main__":
    serve(lambda name: PLANTERS[name](), keras_impl.trace.main)
