"""Plant a porting mistake in the Keras half, then answer; see `ladder.serve`.

A leaf program: it patches its own processes and nothing imports it. Production code has no hooks
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
from pipeline.datasets import FASHION_MNIST_CLASSES

FAULTS: dict[str, Callable[[], None]] = {}
"""What plants each fault, by its name."""


def fault(plant: Callable[[], None]) -> Callable[[], None]:
    """Register a fault under its function's name, with dashes."""
    FAULTS[plant.__name__.replace("_", "-")] = plant
    return plant


# Settings that are not what they were in torch.


@fault
def keras_slope() -> None:
    """LeakyReLU with Keras's default slope."""
    build_layers_with("LeakyReLU", lambda slope, name: keras.layers.LeakyReLU(name=name))


@fault
def valid_pool() -> None:
    """Pool without padding: 7x7 becomes 3x3."""
    build_layers_with(
        "MaxPooling2D", lambda size, padding, name: keras.layers.MaxPooling2D(size, name=name)
    )


@fault
def valid_convolution() -> None:
    """Leave Keras's default padding, none, in the convolutions."""
    build_layers_with(
        "Conv2D", lambda filters, size, padding, name: keras.layers.Conv2D(filters, size, name=name)
    )


@fault
def softmax_output() -> None:
    """End in a softmax, which the loss then takes for logits."""
    build_layers_with("Dense", dense_with(logits={"activation": "softmax"}))


@fault
def clipped_probabilities() -> None:
    """End in a softmax and tell the loss so, which clips what it takes the logarithm of."""
    build_layers_with("Dense", dense_with(logits={"activation": "softmax"}))
    compile_with("losses.CategoricalCrossentropy", from_logits=False)


@fault
def probabilities_of_logits() -> None:
    """Leave `from_logits=True` out."""
    compile_with("losses.CategoricalCrossentropy", from_logits=False)


@fault
def hidden_relu() -> None:
    """Give the hidden layer an activation of its own, before the one that follows."""
    build_layers_with("Dense", dense_with(hidden={"activation": "relu"}))


@fault
def loss_sum() -> None:
    """Sum the loss over the batch."""
    compile_with("losses.CategoricalCrossentropy", reduction="sum")


@fault
def label_smoothing() -> None:
    """Smooth labels by 0.1."""
    compile_with("losses.CategoricalCrossentropy", label_smoothing=0.1)


@fault
def torch_epsilon() -> None:
    """Adam with torch's default ε, 1e-8."""
    compile_with("optimizers.Adam", epsilon=1e-8)


@fault
def beta_1() -> None:
    """Adam with β₁ of 0.5, as GANs have it."""
    compile_with("optimizers.Adam", beta_1=0.5)


@fault
def learning_rate() -> None:
    """Adam with a learning rate of 3e-4."""
    compile_with("optimizers.Adam", learning_rate=3e-4)


@fault
def weight_decay() -> None:
    """Take torch's coupled weight decay for Keras's, which is decoupled."""
    compile_with("optimizers.Adam", weight_decay=0.004)


@fault
def clipped_norms() -> None:
    """Take `clipnorm` for torch's clipping: it clips each variable's gradient by itself."""
    compile_with("optimizers.Adam", clipnorm=0.1)


@fault
def cosine_schedule() -> None:
    """Decay the learning rate step by step."""
    compile_with("optimizers.Adam", learning_rate=keras.optimizers.schedules.CosineDecay(1e-3, 100))


@fault
def frozen_layer() -> None:
    """Leave the first convolution frozen."""
    after_building(lambda model: setattr(model.get_layer("conv1"), "trainable", False))


@fault
def float32_promotion() -> None:
    """Leave Keras's type promotion, which makes float32 of float64 products."""
    keras_impl.settings._keep_float64 = lambda: None


@fault
def no_x64() -> None:
    """Forget JAX's switch for float64."""
    import jax

    jax.config.update("jax_enable_x64", False)


# The data.


@fault
def shuffled_batches() -> None:
    """Leave `fit` its default, which shuffles a PyDataset's batches once more."""
    real = keras.Model.fit

    def fit(self: keras.Model, *arguments: Any, shuffle: bool, **options: Any) -> Any:
        return real(self, *arguments, **options)

    keras.Model.fit = fit


@fault
def dropped_batch() -> None:
    """Round the number of batches down."""
    pipeline.batches.Batches.__len__ = lambda self: len(self.data) // self.batch_size


@fault
def inverted() -> None:
    """Feed dark garments on a bright ground."""
    rescale_then(lambda scaled: 1 - scaled)


@fault
def flipped_images() -> None:
    """Leave an augmentation in: every image is its mirror image."""
    rescale_then(lambda scaled: np.ascontiguousarray(scaled[:, :, ::-1]))


@fault
def alphabetical_labels() -> None:
    """Let classes be counted in the alphabetical order of their names, as folders are."""
    ranks = np.argsort(np.argsort(FASHION_MNIST_CLASSES))
    real = pipeline.batches.one_hot
    pipeline.batches.one_hot = lambda labels, num_classes, dtype: real(
        ranks[labels], num_classes, dtype
    )


@fault
def validation_split() -> None:
    """Split as Keras's `validation_split` does: the last part, unshuffled."""

    def split(num_images: int, fraction: float, seed: int) -> Any:
        num_train = num_images - int(np.ceil(num_images * fraction))
        return np.arange(num_train), np.arange(num_train, num_images)

    pipeline.preprocess.train_validation_split = split


@fault
def trained_on_everything() -> None:
    """Train on all images, those that validate among them."""
    real = pipeline.preprocess.train_validation_split

    def split(num_images: int, fraction: float, seed: int) -> Any:
        return np.arange(num_images), real(num_images, fraction, seed)[1]

    pipeline.preprocess.train_validation_split = split


@fault
def own_order() -> None:
    """Shuffle with a generator of one's own."""
    pipeline.batches.epoch_order = lambda num_images, seed, epoch: np.random.default_rng(
        [seed, epoch]
    ).permutation(num_images)


# The network's build.


@fault
def activation_after_pool() -> None:
    """Pool before the activation."""

    def reorder(layers: list[Any]) -> list[Any]:
        ordered = list(layers)
        for place, layer in enumerate(layers):
            if layer.name.startswith("pool"):
                ordered[place - 1 : place + 1] = [layer, layers[place - 1]]
        return ordered

    build_sequential_with(reorder)


@fault
def dropout_before_pool() -> None:
    """Drop before pooling instead of after it."""

    def reorder(layers: list[Any]) -> list[Any]:
        ordered = list(layers)
        for place, layer in enumerate(layers):
            if layer.name in {"drop1", "drop2", "drop3"}:
                ordered[place - 1 : place + 1] = [layer, layers[place - 1]]
        return ordered

    build_sequential_with(reorder)


# First weights.


@fault
def he_init() -> None:
    """Draw the dense kernels from He's distribution."""
    he = {"kernel_initializer": "he_uniform"}
    build_layers_with("Dense", dense_with(hidden=he, logits=he))


@fault
def normal_init() -> None:
    """Draw the convolution kernels from Glorot's normal distribution."""
    build_layers_with(
        "Conv2D",
        lambda filters, size, **options: keras.layers.Conv2D(
            filters, size, kernel_initializer="glorot_normal", **options
        ),
    )


@fault
def constant_bias() -> None:
    """Begin with biases of 0.1, as old tutorials do."""
    tenth = {"bias_initializer": keras.initializers.Constant(0.1)}
    build_layers_with("Dense", dense_with(hidden=tenth, logits=tenth))


# Layers that compute something else than their settings say, and weights carried over wrongly.


@fault
def flatten_channels_first() -> None:
    """Tell Flatten that its input is channels-first, which it is not."""
    build_layers_with(
        "Flatten", lambda name: keras.layers.Flatten(data_format="channels_first", name=name)
    )


@fault
def weights_not_loaded() -> None:
    """Keep Keras's own first weights."""
    replace_everywhere("load_weights", lambda model, weights, recipe: None)


@fault
def pool_from_the_start() -> None:
    """Pad the last pool at the top and left, where "same" pads at the bottom and right."""

    def pool(layer: Any, inputs: Any) -> Any:
        edge = keras.ops.pad(inputs, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=-1e30)
        return keras.ops.max_pool(edge, 2, padding="valid")

    run_instead("pool3", pool)


@fault
def half_precision_layer() -> None:
    """Compute the hidden layer in bfloat16."""

    def dense(layer: Any, inputs: Any) -> Any:
        narrow = [keras.ops.cast(part, "bfloat16") for part in (inputs, layer.kernel)]
        return keras.ops.cast(keras.ops.matmul(*narrow), inputs.dtype) + layer.bias

    run_instead("hidden", dense)


@fault
def ignored_bias() -> None:
    """Leave the hidden layer's bias out of the sum."""
    run_instead("hidden", lambda layer, inputs: keras.ops.matmul(inputs, layer.kernel))


@fault
def one_slope() -> None:
    """Use the default slope, 0.2, of the functional form in one place."""
    run_instead("hidden_act", lambda layer, inputs: keras.ops.leaky_relu(inputs))


@fault
def dropout_at_evaluation() -> None:
    """Call a dropout layer with `training=True`, as Monte Carlo dropout does."""

    class Dropout(keras.layers.Dropout):
        def __call__(self, inputs: Any, training: bool | None = None) -> Any:
            return super().__call__(inputs, training=True)

    def dropout(rate: float, seed: int, name: str) -> keras.Layer:
        kind = Dropout if name == "drop3" else keras.layers.Dropout
        return kind(rate, seed=seed, name=name)

    build_layers_with("Dropout", dropout)


# What is made of the logits.


@fault
def float32_loss() -> None:
    """Compute the loss in float32, as a loss built under another floatx does."""
    compile_with("losses.CategoricalCrossentropy", dtype="float32")


@fault
def loss_over_classes() -> None:
    """Take the mean over the classes too, as `reduction="mean"` of an (N, classes) loss does."""
    real = keras.losses.CategoricalCrossentropy.call

    def call(self: Any, target: Any, logits: Any) -> Any:
        return real(self, target, logits) / target.shape[-1]

    keras.losses.CategoricalCrossentropy.call = call


# Gradients that are not the forward pass's.


@fault
def stopped_gradient() -> None:
    """Stop the gradient behind the first activation."""
    run_instead(
        "act1", lambda layer, inputs: keras.ops.stop_gradient(type(layer).call(layer, inputs))
    )


# Steps that are not Adam's as Keras takes them.


@fault
def stale_slots() -> None:
    """Load weights and keep the slots and the step count of an earlier training."""

    def keep(model: Any) -> None:
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        for momentum, velocity in zip(optimizer._momentums, optimizer._velocities, strict=True):
            momentum.assign(keras.ops.full(momentum.shape, 1e-3, momentum.dtype))
            velocity.assign(keras.ops.full(velocity.shape, 1e-6, velocity.dtype))
        optimizer.iterations.assign(100)

    after_compiling(keep)


@fault
def kept_count() -> None:
    """Begin with empty slots and a step count from before, which undoes the bias correction."""

    def keep(model: Any) -> None:
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(10**6)

    after_compiling(keep)


@fault
def torch_formula() -> None:
    """Adam with ε inside the bias correction, as torch has it."""

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


@fault
def skipped_bias() -> None:
    """Take no step for the biases."""
    real = keras.optimizers.Adam.update_step

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if len(variable.shape) > 1:
            real(self, gradient, variable, learning_rate)

    keras.optimizers.Adam.update_step = update_step


@fault
def xla() -> None:
    """Let TensorFlow compile the step with XLA."""
    after_compiling(lambda model: setattr(model, "jit_compile", True))


# Dropout.


@fault
def keep_probability() -> None:
    """Take the rate for the share that is kept, as TensorFlow 1 did."""
    drop_with(
        "drop1",
        lambda layer, inputs, training: draw(inputs, 1 - layer.rate, layer) if training else inputs,
    )


@fault
def unscaled_dropout() -> None:
    """Drop without scaling up what is kept."""
    drop_with(
        "hidden_drop",
        lambda layer, inputs, training: (
            draw(inputs, layer.rate, layer) * (1 - layer.rate) if training else inputs
        ),
    )


@fault
def spatial_dropout() -> None:
    """Drop whole channels."""

    def dropout(rate: float, seed: int, name: str) -> keras.Layer:
        shape = (None, 1, 1, None) if name == "drop2" else None
        return keras.layers.Dropout(rate, noise_shape=shape, seed=seed, name=name)

    build_layers_with("Dropout", dropout)


@fault
def dropout_never() -> None:
    """Call a dropout layer with `training=False`, also in training."""
    drop_with("drop3", lambda layer, inputs, training: inputs)


# Training, epoch by epoch.


@fault
def first_weights_restored() -> None:
    """Restore the weights that a monitor of the wrong sign takes for the best."""
    real = keras.Model.fit

    def fit(self: keras.Model, *arguments: Any, callbacks: list[Any], **options: Any) -> Any:
        first = KeepFirstEpoch()
        history = real(self, *arguments, callbacks=[*callbacks, first], **options)
        self.set_weights(first.weights)
        return history

    keras.Model.fit = fit


@fault
def epoch_schedule() -> None:
    """Halve the learning rate after each epoch."""
    real = keras_impl.train.EpochStart.on_epoch_begin

    def begin(self: Any, epoch: int, logs: Any = None) -> None:
        real(self, epoch, logs)
        if epoch > 0:
            self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 2

    keras_impl.train.EpochStart.on_epoch_begin = begin


# The seams of the fast path, which takes 25 steps in one execution.


@fault
def last_step_left_out() -> None:
    """Take no step at every 25th, the last of those that come in one execution."""
    step_with(lambda step: keras.ops.where(is_last(step), 0, 1))


@fault
def last_step_taken_twice() -> None:
    """Take every 25th step, the last of those that come in one execution, twice."""
    step_with(lambda step: keras.ops.where(is_last(step), 2, 1))


@fault
def partial_call_dropped() -> None:
    """Feed whole executions only, which leaves out an epoch's last steps."""
    real = keras_impl.train.batch_source

    def batch_source(batches: Any, plain: bool) -> Any:
        source = real(batches, plain)
        if batches.seed is None or len(batches) < STEPS_IN_CALL:
            return source
        return source.take(len(batches) // STEPS_IN_CALL * STEPS_IN_CALL)

    keras_impl.train.batch_source = batch_source


@fault
def slots_reset_in_calls() -> None:
    """Begin each execution of several steps with a new optimizer state."""
    before_calls(lambda callback: [v.assign(keras.ops.zeros_like(v)) for v in slots(callback)])


@fault
def order_restarted_in_calls() -> None:
    """Begin each execution of 25 steps with the epoch's first images again."""
    real = keras_impl.train.batch_source

    def batch_source(batches: Any, plain: bool) -> Any:
        if batches.seed is not None:
            read = batches.positions
            batches.positions = lambda index: read(index % STEPS_IN_CALL)[: len(read(index))]
        return real(batches, plain)

    keras_impl.train.batch_source = batch_source


@fault
def masks_repeated_in_calls() -> None:
    """Seed dropout at the start of each execution of several steps, not of each epoch."""
    before_calls(lambda callback: callback.on_epoch_begin(callback.training.epoch))


@fault
def partial_validation_dropped() -> None:
    """Tell `fit` of whole executions only in validation too, which leaves out its last batches."""
    real = keras.Model.fit

    def fit(self: keras.Model, *batches: Any, validation_data: Any, **options: Any) -> Any:
        if len(validation_data) > STEPS_IN_CALL:
            options["validation_steps"] = len(validation_data) // STEPS_IN_CALL * STEPS_IN_CALL
        return real(self, *batches, validation_data=validation_data, **options)

    keras.Model.fit = fit


# What is reported.


@fault
def unweighted_accuracy() -> None:
    """Let each batch count as much as any other in an epoch's accuracy."""

    def update_state(self: Any, target: Any, logits: Any, sample_weight: Any = None) -> None:
        hits = keras.ops.argmax(target, axis=1) == keras.ops.argmax(logits, axis=1)
        keras.metrics.Mean.update_state(self, keras.ops.mean(keras.ops.cast(hits, self.dtype)))

    keras.metrics.CategoricalAccuracy.update_state = update_state


@fault
def predicted_probabilities() -> None:
    """Return probabilities where logits are expected."""

    def shares(logits: Any) -> Any:
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    real = keras_impl.train.predict_logits
    replace_everywhere("predict_logits", lambda *arguments: shares(real(*arguments)))


@fault
def shuffled_predictions() -> None:
    """Return the predictions in another order than the images'."""
    real = keras_impl.train.predict_logits

    def predict_logits(*arguments: Any) -> Any:
        logits = real(*arguments)
        return logits[np.random.default_rng(0).permutation(len(logits))]

    replace_everywhere("predict_logits", predict_logits)


# What must make no difference.


@fault
def keras_json() -> None:
    """Set all that `~/.keras/keras.json` can set otherwise."""
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(1e-3)
    keras.config.set_dtype_policy("mixed_bfloat16")


@fault
def environment_limits() -> None:
    """Limit epochs and steps, as `KERAS_MAX_EPOCHS` and its like do."""
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
    """Replace a function in each module of the half that holds it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("keras_impl.") and hasattr(module, name):
            setattr(module, name, value)


if __name__ == "__main__":
    serve(lambda name: FAULTS[name](), keras_impl.trace.main)
