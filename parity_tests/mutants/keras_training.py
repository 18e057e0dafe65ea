"""Porting mistakes in how Keras trains and in what it reports, and changes that are none."""

from typing import Any

import keras
import numpy as np

import keras_impl.train
from parity_tests import differences as by
from parity_tests.catalogue import UNKNOWN, mutant
from parity_tests.mutants.keras_patches import (
    STEPS_IN_CALL,
    KeepFirstEpoch,
    after_compiling,
    before_calls,
    build_layers_with,
    draw,
    drop_with,
    is_last,
    replace_everywhere,
    run_instead,
    slots,
    step_with,
)

# Gradients that are not the forward pass's.


@mutant("gradients", "gradient.", "no gradient comes back to it in Keras", quick=False)
def stopped_gradient() -> None:
    """`stop_gradient` cuts the first block off."""
    run_instead(
        "act1", lambda layer, inputs: keras.ops.stop_gradient(type(layer).call(layer, inputs))
    )


@mutant("gradients", "gradient.", UNKNOWN)
def scaled_loss() -> None:
    """In training the loss is doubled, and nothing divides the gradients again."""
    real = keras.Model.compute_loss

    def compute_loss(self: Any, *arguments: Any, training: bool = True, **named: Any) -> Any:
        loss = real(self, *arguments, training=training, **named)
        return 2 * loss if training else loss

    keras.Model.compute_loss = compute_loss


# Steps that are not Adam's as Keras takes them.


@mutant("optimizer", "step.1.", UNKNOWN, quick=False)
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


@mutant("optimizer", "step.1.", "each weight moves 0.31")
def kept_count() -> None:
    """Slots are empty but the step count is an earlier training's."""

    def keep(model: Any) -> None:
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(10**6)

    after_compiling(keep)


@mutant("optimizer", "step.1.", UNKNOWN, difference=by.EPSILON, quick=False)
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


@mutant("optimizer", "step.1.", UNKNOWN, difference=by.FROZEN, quick=False)
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


@mutant("optimizer", "step.6.", UNKNOWN, difference=by.SCHEDULES, quick=False)
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


@mutant("dropout", "drop_steps.drop1", "dropout-masks-repeated", variant="dropout", quick=False)
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
