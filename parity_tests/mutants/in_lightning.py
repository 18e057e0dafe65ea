"""Plant a porting mistake in the Lightning implementation, then answer; see `ladder.serve`.

A program: it patches its own processes and nothing imports it. Production code has no hooks
for it.
"""

import sys
from collections.abc import Callable, Iterable
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import lightning_impl.data
import lightning_impl.fast
import lightning_impl.model
import lightning_impl.optimizer
import lightning_impl.trace
import lightning_impl.train
import lightning_impl.weights
import pipeline.batches
import pipeline.preprocess
from ladder.serve import serve
from parity_tests import differences as by
from parity_tests.catalogue import PLANTERS, UNKNOWN, mutant

# Settings that are not what they were in Keras.


@mutant("contract", "layers.act1.negative_slope", "leaky-slope", difference=by.SLOPE)
def torch_slope() -> None:
    """LeakyReLU is left with torch's default slope, 0.01."""
    build_layers_with("LeakyReLU", lambda slope: nn.LeakyReLU())


@mutant("contract", "layers.act1.negative_slope", "leaky-slope", difference=by.FLOAT32_SLOPE)
def double_slope() -> None:
    """LeakyReLU's slope is 0.1 as a double."""
    build_layers_with("LeakyReLU", lambda slope: nn.LeakyReLU(0.1))


@mutant("contract", "layers.pool3.padding", "pool-padding", difference=by.SAME_POOL)
def pool_padding() -> None:
    """The last pool has padding=1 to get Keras's 4×4."""
    after_building(lambda network: setattr(network, "pool3", nn.MaxPool2d(2, padding=1)))


@mutant("contract", "layers.pool1", "pool-average")
def average_pool() -> None:
    """Average pooling where Keras has max pooling."""
    build_layers_with("MaxPool2d", nn.AvgPool2d)


@mutant("contract", "layers.conv2.use_bias", "missing-bias")
def no_bias() -> None:
    """The second convolution has no bias."""
    after_building(lambda network: setattr(network.conv2, "bias", None))


@mutant("contract", "layers.conv1.padding", "conv-padding", difference=by.PADDING)
def conv_without_padding() -> None:
    """The first convolution has torch's default padding, none."""
    after_building(lambda network: setattr(network.conv1, "padding", (0, 0)))


@mutant("contract", "layers.drop3.rate", "dropout-rate", variant="dropout")
def swapped_rates() -> None:
    """The rates of the third and the last dropout are exchanged."""
    rates = {0.4: 0.3, 0.3: 0.4}
    build_layers_with("Dropout", lambda rate: nn.Dropout(rates.get(round(rate, 6), rate)))


@mutant("contract", "optimizer.epsilon_placement", "adam-epsilon-placement", difference=by.EPSILON)
def torch_adam() -> None:
    """Torch's Adam is given Keras's ε."""

    def adam(params: Any, learning_rate: float, epsilon: float, **options: Any) -> Any:
        return torch.optim.Adam(params, lr=learning_rate, eps=epsilon, **options)

    lightning_impl.model.KerasAdam = adam


@mutant("contract", "optimizer.epsilon", "adam-epsilon-value", difference=by.EPSILON)
def torch_epsilon() -> None:
    """Ε is 1e-8, torch's default."""
    build_adam_with(epsilon=1e-8)


@mutant("contract", "optimizer.beta_2", "adam-beta-2")
def beta_2() -> None:
    """Β₂ is 0.99."""
    build_adam_with(betas=(BETA_1, 0.99))


@mutant("contract", "optimizer.beta_2", "adam-beta-2", difference=by.BETAS)
def double_beta() -> None:
    """Β₂ is 0.999 as a double."""
    build_adam_with(betas=(BETA_1, 0.999))


@mutant("contract", "optimizer.amsgrad", "adamax-or-amsgrad")
def amsgrad() -> None:
    """Adam is AMSGrad."""
    build_adam_with(amsgrad=True)


@mutant("contract", "optimizer.", "coupled-weight-decay", difference=by.WEIGHT_DECAY)
def coupled_weight_decay() -> None:
    """Adam has L2 inside the gradient."""
    build_adam_with(weight_decay=0.004)


@mutant("contract", "optimizer.", "decoupled-weight-decay", difference=by.WEIGHT_DECAY)
def decoupled_weight_decay() -> None:
    """AdamW with torch's default decay where Keras has Adam."""
    build_adam_with(weight_decay=0.01, decoupled_weight_decay=True)


@mutant("contract", "optimizer", "sgd-instead")
def sgd() -> None:
    """SGD where Keras has Adam."""

    def plain(params: Any, learning_rate: float, **options: Any) -> Any:
        return torch.optim.SGD(params, lr=learning_rate)

    lightning_impl.model.KerasAdam = plain


@mutant("contract", "optimizer.clipping", "clipped-gradients", difference=by.CLIPPING)
def clipped_gradients() -> None:
    """The Trainer clips gradients by their global norm."""
    add_trainer_option("gradient_clip_val", 0.1)


@mutant("contract", "optimizer.gradient_accumulation", "gradient-accumulation")
def accumulated_gradients() -> None:
    """The Trainer takes a step every second batch."""
    add_trainer_option("accumulate_grad_batches", 2)


@mutant("contract", "optimizer.schedule", "schedule-per-epoch", difference=by.SCHEDULES)
def scheduler() -> None:
    """A scheduler halves the learning rate each epoch."""
    take_single_steps()
    real = Classifier.configure_optimizers

    def configure_optimizers(self: Any) -> Any:
        optimizer = real(self)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    Classifier.configure_optimizers = configure_optimizers


@mutant("contract", "frozen", "frozen-bias", difference=by.FROZEN)
def frozen_bias() -> None:
    """The optimizer is given kernels only."""
    choose_parameters(lambda parameters: [one for one in parameters if one.ndim > 1])


@mutant("contract", "frozen", "frozen-layer", difference=by.FROZEN)
def frozen_layer() -> None:
    """The first convolution is frozen."""
    after_building(lambda network: network.conv1.requires_grad_(False))


@mutant("contract", "loss.reduction", "loss-sum")
def loss_sum() -> None:
    """The loss is summed over the batch."""
    compute_loss_with(lambda logits, target: REAL_LOSS(logits, target, reduction="sum"))


@mutant("contract", "loss.label_smoothing", "label-smoothing")
def label_smoothing() -> None:
    """Labels are smoothed by 0.1."""
    compute_loss_with(lambda logits, target: REAL_LOSS(logits, target, label_smoothing=0.1))


@mutant("contract", "loss.takes", "softmax-before-loss", difference=by.CROSS_ENTROPY)
def softmax_before_loss() -> None:
    """A softmax stands before cross_entropy, which has one of its own."""
    compute_loss_with(lambda logits, target: REAL_LOSS(logits.softmax(dim=1), target))


# The data.


@mutant("data", "batches", "last-batch-dropped")
def drop_last() -> None:
    """The partial last batch is dropped."""
    take_single_steps()
    pipeline.batches.Batches.__len__ = lambda self: max(len(self.data) // self.batch_size, 1)


@mutant("data", "batches", "batches-repeated")
def padded_last_batch() -> None:
    """The last batch is filled up with the epoch's first images."""
    take_single_steps()
    real = pipeline.batches.Batches.positions

    def positions(self: Any, index: int) -> Any:
        chosen = real(self, index)
        is_filled = self.seed is not None and index == len(self) - 1
        missing = self.batch_size - len(chosen) if is_filled else 0
        return np.concatenate([chosen, self.order[:missing]])

    pipeline.batches.Batches.positions = positions


@mutant("data", "batches", "order-same-each-epoch")
def same_order() -> None:
    """Each epoch has the order of the first."""
    lightning_impl.data.EpochSampler.set_epoch = lambda self, epoch: None


@mutant("data", "batches", "order-not-shuffled")
def unshuffled() -> None:
    """`shuffle=True` is left out."""
    order_by(lambda num_images, seed, epoch: np.arange(num_images))


@mutant("data", "batches", "order-differs")
def epochs_from_one() -> None:
    """Epochs count from 1 where their order is drawn."""
    real = pipeline.batches.epoch_order
    order_by(lambda num_images, seed, epoch: real(num_images, seed, epoch + 1))


@mutant("data", "batches", "validation-trained-on")
def train_on_validation() -> None:
    """The validation images are trained on."""
    take_single_steps()

    def train_dataloader(self: Any) -> Any:
        batches = lightning_impl.data.training_batches(self.data.validation, self.recipe)
        return lightning_impl.data.batch_loader(batches)

    lightning_impl.data.FashionData.train_dataloader = train_dataloader


@mutant("data", "batches", "training-images-validated")
def validate_on_training() -> None:
    """The training images validate."""
    take_single_steps()

    def val_dataloader(self: Any) -> Any:
        batches = lightning_impl.data.evaluation_batches(self.data.train, self.recipe)
        return lightning_impl.data.batch_loader(batches)

    lightning_impl.data.FashionData.val_dataloader = val_dataloader


@mutant("data", "batches", "other-split", difference=by.SPLIT)
def other_split() -> None:
    """The split has another random_state."""
    real = pipeline.preprocess.train_validation_split
    pipeline.preprocess.train_validation_split = lambda count, fraction, seed: real(
        count, fraction, 42
    )


@mutant("data", "batches", "images-unscaled")
def unscaled() -> None:
    """Pixels are fed from 0 to 255."""
    pipeline.batches.rescale = lambda images, dtype: images.astype(dtype)


@mutant("data", "batches", "images-standardised")
def standardised() -> None:
    """Images are standardised, as torchvision's examples do."""
    rescale_then(lambda scaled, dtype: ((scaled - 0.2860) / 0.3530).astype(dtype))


@mutant("data", "batches", "float32-inside-float64", difference=by.SCALING)
def rescaled_in_float32() -> None:
    """Pixels are divided by 255 in float32 and cast to float64 then."""
    real = pipeline.batches.rescale
    pipeline.batches.rescale = lambda images, dtype: real(images, "float32").astype(dtype)


@mutant("data", "batches", "images-transposed")
def transposed_images() -> None:
    """Height is read for width."""
    rescale_then(lambda scaled, dtype: np.ascontiguousarray(scaled.swapaxes(1, 2)))


@mutant("data", "batches", "labels-shifted")
def shifted_labels() -> None:
    """Classes count from 1."""
    real = pipeline.batches.one_hot
    pipeline.batches.one_hot = lambda labels, num_classes, dtype: real(
        (labels + 1) % num_classes, num_classes, dtype
    )


# The network's build.


@mutant("architecture", "layers", "layer-order", variant="dropout")
def dropout_before_pool() -> None:
    """Each dropout stands before its pool."""

    def reorder(network: Any) -> None:
        layers = dict(network.named_children())
        for name in layers:
            delattr(network, name)
        for name, layer in layers.items():
            if name.startswith("pool"):
                dropped = f"drop{name[-1]}"
                setattr(network, dropped, layers[dropped])
            if not hasattr(network, name):
                setattr(network, name, layer)

    after_building(reorder)


# First weights.


@mutant("initialisation", "", "init-distribution", difference=by.INITIALISERS)
def torch_init() -> None:
    """Torch's own first weights are kept."""
    lightning_impl.model.initialize = lambda module: None


@mutant("initialisation", "", "bias-not-zero", difference=by.INITIALISERS)
def torch_bias_init() -> None:
    """Kernels are drawn as in Keras, biases as in torch."""
    initialize_with(lambda layer: nn.init.xavier_uniform_(layer.weight))


@mutant("initialisation", "", "init-distribution", difference=by.INITIALISERS, quick=False)
def kaiming_init() -> None:
    """Kernels are drawn from He's normal distribution."""
    initialize_with(
        lambda layer: (nn.init.kaiming_normal_(layer.weight), nn.init.zeros_(layer.bias))
    )


@mutant("initialisation", "", "init-distribution", difference=by.INITIALISERS, quick=False)
def gained_init() -> None:
    """Kernels are drawn with the gain of a leaky ReLU."""
    gain = nn.init.calculate_gain("leaky_relu", 0.1)
    initialize_with(
        lambda layer: (nn.init.xavier_uniform_(layer.weight, gain), nn.init.zeros_(layer.bias))
    )


# Layers that compute something else than their settings say, and weights carried over wrongly.


@mutant("layers", "forced.hidden", "flatten-order", difference=by.FLATTEN)
def unpermuted_flatten() -> None:
    """The first dense kernel is carried over without permuting its rows."""
    carry_with(lambda real, layer, array, recipe: real(
        "" if layer == "hidden" else layer, array, recipe
    ))  # fmt: skip


@mutant("layers", "forced.", "kernel-transposed", difference=by.KERNELS)
def transposed_kernel() -> None:
    """Height and width of the square kernels are exchanged."""
    carry_with(lambda real, layer, array, recipe: real(
        layer, array.swapaxes(0, 1) if array.ndim == 4 else array, recipe
    ))  # fmt: skip


@mutant("layers", "forced.", "kernel-flipped", difference=by.KERNELS)
def flipped_kernel() -> None:
    """The kernels are flipped, as for a convolution in the strict sense."""
    carry_with(lambda real, layer, array, recipe: real(
        layer, array[::-1, ::-1] if array.ndim == 4 else array, recipe
    ))  # fmt: skip


@mutant("layers", "forced.", "weights-swapped")
def swapped_biases() -> None:
    """The biases of two layers of the same size are exchanged."""
    exchange = {"conv3.bias": "hidden.bias", "hidden.bias": "conv3.bias"}
    load_weights_from(
        lambda network, weights: {name: weights[exchange.get(name, name)] for name in weights}
    )


@mutant("layers", "forced.hidden", "weights-not-loaded")
def unloaded_layer() -> None:
    """One layer is missed when weights are loaded, as with strict=False."""

    def kept(network: Any, weights: dict[str, Any]) -> dict[str, Any]:
        own = lightning_impl.weights.export_weights(network, RECIPE[0])
        return {
            name: own[name] if name.startswith("hidden.") else weights[name] for name in weights
        }

    load_weights_from(kept)


@mutant("layers", "forced.pool2", "pool-average")
def averaging_pool() -> None:
    """One pool averages, whatever its settings say."""
    run_instead("pool2", lambda layer, inputs: functional.avg_pool2d(inputs, 2, ceil_mode=True))


@mutant("layers", "forced.hidden_act", "activation-missing")
def hidden_activation_missing() -> None:
    """The hidden layer's activation is never called."""
    run_instead("hidden_act", lambda layer, inputs: inputs)


@mutant("layers", "forced.pool2", "leaky-slope", difference=by.SLOPE)
def one_slope() -> None:
    """One activation is functional, with torch's default slope."""
    run_instead("act2", lambda layer, inputs: functional.leaky_relu(inputs))


@mutant("contract", "layers.conv3.padding", "conv-padding", difference=by.PADDING)
def reflected_border() -> None:
    """One convolution pads by reflection."""

    def convolve(layer: Any, inputs: Tensor) -> Tensor:
        padded = functional.pad(inputs, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, layer.weight, layer.bias)

    run_instead("conv3", convolve)


@mutant("layers", "forced.conv3", "float32-inside-float64", difference=by.PROMOTION)
def float32_layer() -> None:
    """One layer computes in float32."""

    def convolve(layer: Any, inputs: Tensor) -> Tensor:
        narrow = [part.float() for part in (inputs, layer.weight, layer.bias)]
        return functional.conv2d(*narrow, padding="same").to(inputs.dtype)

    run_instead("conv3", convolve)


@mutant(
    "layers", "forced.hidden_drop", "dropout-at-evaluation", variant="dropout", difference=by.MODES
)
def dropout_at_evaluation() -> None:
    """Dropout is functional, without its mode: it drops at evaluation too."""

    def hold(network: Any) -> None:
        if hasattr(network, "hidden_drop"):
            layer = network.hidden_drop
            layer.train = lambda mode=True: layer

    after_building(hold)


# What is made of the logits.


@mutant("logits", "logits.", "softmax-output", difference=by.CROSS_ENTROPY)
def log_softmax_output() -> None:
    """The module returns log-probabilities, which cross_entropy leaves as they are."""
    finish_with(lambda logits: logits.log_softmax(dim=1))


@mutant("logits", "", "batch-axis-squeezed")
def squeezed_logits() -> None:
    """`squeeze()` takes the batch axis of a single image away."""
    finish_with(lambda logits: logits.squeeze())


@mutant("logits", "loss.saturated", "clipped-probabilities", difference=by.CROSS_ENTROPY)
def clipped_probabilities() -> None:
    """The loss takes the logarithm of probabilities that are clipped to 1e-7."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        probabilities = logits.softmax(dim=1).clamp(1e-7, 1 - 1e-7)
        return -(target * probabilities.log()).sum(dim=1).mean()

    compute_loss_with(loss)


# Gradients that are not the forward pass's.


@mutant("gradients", "gradient.", "zero-gradient")
def detached_block() -> None:
    """`detach()` cuts the first block off."""
    run_instead("pool1", lambda layer, inputs: type(layer).forward(layer, inputs).detach())


@mutant(difference=by.TIES, is_harmless=True)
def shared_ties() -> None:
    """A pool by amax shares the gradient among equals, which all saw one patch."""

    def pool(layer: Any, inputs: Tensor) -> Tensor:
        return inputs.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-2, -1))

    run_instead("pool1", pool)


@mutant("gradients", "gradient.", "gradient-at-zero", difference=by.AT_ZERO, is_explained=True)
def gradient_at_zero() -> None:
    """An activation is written by hand with `>=`: its gradient at zero is 1."""

    def activate(layer: Any, inputs: Tensor) -> Tensor:
        return torch.where(inputs >= 0, inputs, layer.negative_slope * inputs)

    run_instead("act1", activate)


@mutant("gradients", "gradient.", "float32-inside-float64")
def float32_gradient() -> None:
    """The gradient passes through float32 on its way back."""

    def convolve(layer: Any, inputs: Tensor) -> Tensor:
        outputs = type(layer).forward(layer, inputs)
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: gradient.float().to(gradient.dtype))
        return outputs

    run_instead("conv3", convolve)


# Steps that are not Adam's as Keras takes them.


@mutant("optimizer", "step.1.weight.", "adam-epsilon-placement", difference=by.EPSILON)
def inside_epsilon() -> None:
    """Ε is inside the bias correction, whatever the optimizer is called."""
    lightning_impl.optimizer.KerasAdam.step = torch.optim.Adam.step


@mutant("optimizer", "step.1.weight.", "no-bias-correction")
def no_bias_correction() -> None:
    """Adam does not correct its means for their start at zero."""
    start_adam_at(num_steps=10**9, mean=0.0)


@mutant("optimizer", "step.1.", "stale-optimizer-state")
def stale_slots() -> None:
    """Weights are loaded, slots and step count are an earlier training's."""
    start_adam_at(num_steps=100, mean=1e-3)


@mutant("optimizer", "step.2.", "gradient-accumulation")
def gradients_kept() -> None:
    """Gradients are never set to zero."""
    take_single_steps()
    Classifier.optimizer_zero_grad = lambda self, *arguments: None


@mutant("optimizer", "step.2.", "optimizer-step-skipped")
def skipped_step() -> None:
    """Every second step is skipped, as by a loss scaler."""
    real = lightning_impl.optimizer.KerasAdam.step
    calls = iter(range(10**9))

    def step(self: Any, closure: Any = None) -> Any:
        return closure() if next(calls) % 2 else real(self, closure)

    lightning_impl.optimizer.KerasAdam.step = step


@mutant("optimizer", "step.1.weight.", "learning-rate", difference=by.SCHEDULES)
def warm_up() -> None:
    """The learning rate rises over the first 100 steps."""
    take_single_steps()

    def optimizer_step(
        self: Any, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * min(1.0, (self.global_step + 1) / 100)
        optimizer.step(closure=closure)

    Classifier.optimizer_step = optimizer_step


@mutant("optimizer", "step.1.", "clipped-gradients", difference=by.CLIPPING)
def clipping_by_hand() -> None:
    """A hook clips gradients by their global norm."""

    def clip(self: Any, *arguments: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 0.1)

    Classifier.on_before_optimizer_step = clip


# Dropout.


@mutant(
    "dropout",
    "drop_own.drop1",
    "dropout-not-scaled",
    variant="dropout",
    difference=by.DROPOUT_MASKS,
)
def unscaled_dropout() -> None:
    """What dropout keeps is not scaled up."""

    def drop(layer: Any, inputs: Tensor) -> Tensor:
        scale = 1 - layer.p if layer.training else 1
        return functional.dropout(inputs, layer.p, layer.training) * scale

    run_instead("drop1", drop)


@mutant(
    "dropout", "drop_own.drop2", "spatial-dropout", variant="dropout", difference=by.DROPOUT_MASKS
)
def dropped_channels() -> None:
    """Whole channels are dropped."""

    def drop(layer: Any, inputs: Tensor) -> Tensor:
        return functional.dropout2d(inputs, layer.p, layer.training)

    run_instead("drop2", drop)


# Training, epoch by epoch.


@mutant("optimizer", "step.6.weight.", "schedule-per-epoch", difference=by.SCHEDULES)
def epoch_schedule() -> None:
    """The learning rate is halved by hand after each epoch."""

    def halve(self: Any) -> None:
        for group in self.optimizers().param_groups:
            group["lr"] /= 2

    Classifier.on_train_epoch_end = halve


@mutant("optimizer", "step.6.", "optimizer-state-lost")
def slots_lost() -> None:
    """Each epoch begins with a new optimizer state."""
    real = Classifier.on_train_epoch_start

    def begin(self: Any) -> None:
        real(self)
        forget(self.optimizers().optimizer)

    Classifier.on_train_epoch_start = begin


# The seams of the fast path, which hands the Trainer 25 steps at once.


@mutant("training", "seam.25.", UNKNOWN)
def last_step_left_out() -> None:
    """No step is taken at the last of each 25 that come in one call."""
    step_in_calls(lambda number: 0 if number == STEPS_IN_CALL - 1 else 1)


@mutant("training", "seam.25.", UNKNOWN, quick=False)
def last_step_taken_twice() -> None:
    """The last of each 25 steps that come in one call is taken twice."""
    step_in_calls(lambda number: 2 if number == STEPS_IN_CALL - 1 else 1)


@mutant("training", "seam.52.", "steps-left-out")
def partial_call_dropped() -> None:
    """An epoch's last steps, fewer than 25, are left out."""
    real = lightning_impl.model.take_steps

    def take_steps(module: Any, batch: Any, batch_size: int, loss_of: Any) -> Any:
        is_whole = len(batch[0]) == STEPS_IN_CALL * batch_size
        return real(module, batch, batch_size, loss_of) if is_whole else torch.zeros(1)

    lightning_impl.model.take_steps = take_steps


@mutant("training", "seam.50.", UNKNOWN, quick=False)
def slots_reset_in_calls() -> None:
    """Each call of 25 steps begins with a new optimizer state."""
    real = lightning_impl.model.take_steps

    def take_steps(module: Any, *arguments: Any) -> Any:
        forget(module.optimizers().optimizer)
        return real(module, *arguments)

    lightning_impl.model.take_steps = take_steps


@mutant("training", "seam.50.", UNKNOWN, quick=False)
def order_restarted_in_calls() -> None:
    """Each call of 25 steps begins with the epoch's first images."""
    real = lightning_impl.data.batch_loader

    def batch_loader(batches: Any, steps_per_batch: int = 1, device: Any = None) -> Any:
        loader = real(batches, steps_per_batch, device)
        if steps_per_batch > 1 and batches.seed is not None:
            read = loader.dataset.batches.positions
            loader.dataset.batches.positions = lambda index: read(0)[: len(read(index))]
        return loader

    lightning_impl.data.batch_loader = batch_loader


@mutant("dropout", "drop_steps.", "dropout-masks-repeated", variant="dropout")
def masks_repeated_in_calls() -> None:
    """Dropout is seeded at the start of each call of 25 steps."""
    real = Classifier.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        self.on_train_epoch_start()
        return real(self, batch, batch_idx)

    Classifier.training_step = training_step


@mutant("evaluation", "history.val_", UNKNOWN)
def partial_validation_dropped() -> None:
    """Validation's last batches, fewer than 25, are left out."""
    real = Classifier.validation_step

    def validation_step(self: Any, batch: Any, batch_idx: int) -> Any:
        is_whole = len(batch[0]) == STEPS_IN_CALL * self.recipe.batch_size
        is_left_out = self.steps_per_batch > 1 and batch_idx > 0 and not is_whole
        return None if is_left_out else real(self, batch, batch_idx)

    Classifier.validation_step = validation_step


# What is reported.


@mutant("evaluation", "history.", "metric-unweighted-mean", difference=by.METRICS)
def unweighted_metrics() -> None:
    """An epoch's loss is the mean of its batches' means."""
    real = lightning_impl.model.EpochMean.update
    lightning_impl.model.EpochMean.update = lambda self, mean, num_images: real(self, mean, 1)


@mutant("evaluation", "history.val_accuracy", "metric-of-last-batch", difference=by.METRICS)
def last_batch_accuracy() -> None:
    """The validation accuracy is the last batch's."""
    real = Classifier._val_loss

    def loss(self: Any, batch: Any) -> Any:
        self.val_accuracy.reset()
        return real(self, batch)

    Classifier._val_loss = loss


@mutant("evaluation", "history.val_", "dropout-in-metrics", variant="dropout", difference=by.MODES)
def validation_in_training_mode() -> None:
    """`eval()` is forgotten before validation."""
    Classifier.on_validation_model_eval = lambda self: None


@mutant("training", "trained_logits", "predictions-permuted")
def permuted_predictions() -> None:
    """Predictions are returned in another order."""
    predict_then(
        lambda logits: logits[np.random.default_rng(0).permutation(len(logits))],
    )


@mutant("training", "trained_logits", "evaluated-other-weights")
def first_weights_predict() -> None:
    """Predictions come from the first epoch's checkpoint."""
    kept: dict[str, Any] = {}
    real_end = lightning_impl.train.JournalCallback.on_train_epoch_end
    real_predict = lightning_impl.train.predict_logits

    def end(self: Any, trainer: Any, module: Any) -> None:
        real_end(self, trainer, module)
        if trainer.current_epoch == 0:
            kept.update({name: value.clone() for name, value in module.state_dict().items()})

    def predict_logits(model: Any, *arguments: Any) -> Any:
        last = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(kept)
        logits = real_predict(model, *arguments)
        model.load_state_dict(last)
        return logits

    lightning_impl.train.JournalCallback.on_train_epoch_end = end
    replace_everywhere("predict_logits", predict_logits)


# What must make no difference.


@mutant(is_harmless=True)
def global_seeds() -> None:
    """The global random generators are seeded otherwise."""
    torch.manual_seed(987654321)
    np.random.seed(987654321)


Classifier = lightning_impl.model.Classifier
REAL_LOSS = functional.cross_entropy
BETA_1 = float(np.float32(0.9))
STEPS_IN_CALL = lightning_impl.fast.STEPS_PER_BATCH
RECIPE: list[Any] = []
"""The recipe of the network that was loaded last."""


def build_layers_with(name: str, make: Callable[..., nn.Module]) -> None:
    """Let the model's module build `name` with `make`."""
    lightning_impl.model.nn = SimpleNamespace(**{**vars(nn), name: make})


def after_building(change: Callable[[Any], object]) -> None:
    """Let each network that is built be changed by `change`."""
    real = lightning_impl.model.build_model

    def build_model(recipe: Any) -> nn.Sequential:
        network = real(recipe)
        change(network)
        return network

    replace_everywhere("build_model", build_model)


def run_instead(name: str, forward: Callable[[Any, Tensor], Tensor]) -> None:
    """Let a layer compute `forward(layer, inputs)`; its settings stay what they are."""

    def change(network: Any) -> None:
        layer = getattr(network, name)
        layer.forward = MethodType(forward, layer)

    after_building(change)


def finish_with(change: Callable[[Tensor], Tensor]) -> None:
    """Let the module return `change(logits)`."""
    real = Classifier.forward
    Classifier.forward = lambda self, images: change(real(self, images))


def compute_loss_with(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Let `loss(logits, one-hot)` be the module's cross-entropy."""
    lightning_impl.model.functional = SimpleNamespace(**{**vars(functional), "cross_entropy": loss})


def build_adam_with(**changes: Any) -> None:
    """Change options of the optimizer."""
    real = lightning_impl.model.KerasAdam
    lightning_impl.model.KerasAdam = lambda params, **options: real(
        params, **{**options, **changes}
    )


def choose_parameters(choose: Callable[[Iterable[Any]], list[Any]]) -> None:
    """Let the optimizer hold only what `choose` leaves."""
    real = lightning_impl.model.KerasAdam
    lightning_impl.model.KerasAdam = lambda params, **options: real(choose(params), **options)


def start_adam_at(num_steps: int, mean: float) -> None:
    """Let Adam begin as if it had taken `num_steps` steps with gradients of `mean`."""
    real = Classifier.configure_optimizers

    def configure_optimizers(self: Any) -> Any:
        optimizer = real(self)
        for group in optimizer.param_groups:
            group["num_steps"] = num_steps
            for parameter in group["params"]:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(num_steps)),
                    "exp_avg": torch.full_like(parameter, mean),
                    "exp_avg_sq": torch.full_like(parameter, mean**2),
                }
        return optimizer

    Classifier.configure_optimizers = configure_optimizers


def forget(optimizer: Any) -> None:
    """Let an optimizer begin anew."""
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["num_steps"] = 0


def step_in_calls(times: Callable[[int], int]) -> None:
    """Let the optimizer take `times(number)` steps at each step, from 0, of a call of several."""

    def take_steps(module: Any, batch: Any, batch_size: int, loss_of: Any) -> Tensor:
        optimizer, losses = module.optimizers(), []
        for number, step in enumerate(lightning_impl.fast.steps_of(batch, batch_size)):
            loss = loss_of(step)
            optimizer.zero_grad()
            module.manual_backward(loss)
            for _ in range(times(number)):
                optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    lightning_impl.model.take_steps = take_steps


def take_single_steps() -> None:
    """Hand the Trainer single steps: a mutant means something else, or nothing, in manual steps."""
    lightning_impl.train.STEPS_PER_BATCH = 1


def add_trainer_option(name: str, value: Any) -> None:
    """Give every Trainer one more option."""
    take_single_steps()
    real = lightning_impl.train._trainer_options
    replace_everywhere("_trainer_options", lambda *arguments: {**real(*arguments), name: value})


def order_by(order: Callable[[int, int, int], Any]) -> None:
    """Let `order(num_images, seed, epoch)` be the order of the training images."""
    pipeline.batches.epoch_order = order


def rescale_then(change: Callable[[Any, str], Any]) -> None:
    """Change the batches' images after they are scaled."""
    real = pipeline.batches.rescale
    pipeline.batches.rescale = lambda images, dtype: change(real(images, dtype), dtype)


def initialize_with(draw: Callable[[Any], object]) -> None:
    """Let `draw` set the first weights of convolutions and dense layers."""

    def initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw(module)

    lightning_impl.model.initialize = initialize


def carry_with(carry: Callable[..., Tensor]) -> None:
    """Let `carry(real, layer, array, recipe)` bring canonical weights into torch's layout."""
    real = lightning_impl.weights._from_canonical
    lightning_impl.weights._from_canonical = lambda layer, array, recipe: carry(
        real, layer, array, recipe
    ).contiguous()


def load_weights_from(change: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> None:
    """Let a network be given `change(network, weights)`."""
    real = lightning_impl.weights.load_weights

    def load_weights(network: Any, weights: dict[str, Any], recipe: Any) -> None:
        RECIPE[:] = [recipe]
        real(network, change(network, weights), recipe)

    replace_everywhere("load_weights", load_weights)


def predict_then(change: Callable[[Any], Any]) -> None:
    """Let predictions be `change(logits)`."""
    real = lightning_impl.train.predict_logits
    replace_everywhere("predict_logits", lambda *arguments: change(real(*arguments)))


def replace_everywhere(name: str, value: Any) -> None:
    """Replace a function in each module of the implementation that holds it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("lightning_impl.") and hasattr(module, name):
            setattr(module, name, value)


if __name__ == "__main__":
    serve(lambda name: PLANTERS[name](), lightning_impl.trace.main)
