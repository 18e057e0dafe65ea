"""Porting mistakes in Lightning up to the logits: settings, data, weights, layers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import lightning_impl.data
import lightning_impl.model
import lightning_impl.weights
import pipeline.batches
import pipeline.preprocess
from parity_tests import differences as by
from parity_tests.catalogue import UNKNOWN, mutant
from parity_tests.mutants.lightning_patches import (
    BETA_1,
    REAL_LOSS,
    RECIPE,
    Classifier,
    add_trainer_option,
    after_building,
    build_adam_with,
    build_layers_with,
    carry_with,
    choose_parameters,
    compute_loss_with,
    finish_with,
    initialize_with,
    load_weights_from,
    order_by,
    rescale_then,
    run_instead,
    take_single_steps,
)

# Settings that are not what they were in Keras.


@mutant("layers", "forced.pool1", "Leaky ReLU with slope 0.1, rounded", difference=by.SLOPE)
def torch_slope() -> None:
    """LeakyReLU is left with torch's default slope, 0.01."""
    build_layers_with("LeakyReLU", lambda slope: nn.LeakyReLU())


@mutant("layers", "forced.pool1", "Leaky ReLU with its slope rounded", difference=by.FLOAT32_SLOPE)
def double_slope() -> None:
    """LeakyReLU's slope is 0.1 as a double."""
    build_layers_with("LeakyReLU", lambda slope: nn.LeakyReLU(0.1))


@mutant("layers", "forced.pool3", "A pool that pads behind alone, and", difference=by.SAME_POOL)
def pool_padding() -> None:
    """The last pool has padding=1 to get Keras's 4×4."""
    after_building(lambda network: setattr(network, "pool3", nn.MaxPool2d(2, padding=1)))


@mutant("architecture", "layers.pool1.kind", "The maximum in place of an average")
def average_pool() -> None:
    """Average pooling where Keras has max pooling."""
    build_layers_with("MaxPool2d", nn.AvgPool2d)


@mutant("architecture", "layers.conv2.parameters", "parameters bias | –")
def no_bias() -> None:
    """The second convolution has no bias."""
    after_building(lambda network: setattr(network.conv2, "bias", None))


@mutant(
    "architecture", "layers.conv1.output_shape.0", "padding [1, 1] | [0, 0]", difference=by.PADDING
)
def conv_without_padding() -> None:
    """The first convolution has torch's default padding, none."""
    after_building(lambda network: setattr(network.conv1, "padding", (0, 0)))


@mutant("gradients", "gradient.", UNKNOWN, variant="dropout")
def swapped_rates() -> None:
    """The rates of the third and the last dropout are exchanged."""

    class Exchanged(nn.Dropout):
        def __init__(self, rate: float) -> None:
            super().__init__({0.4: 0.3, 0.3: 0.4}.get(round(rate, 6), rate))

    build_layers_with("Dropout", Exchanged)


@mutant("optimizer", "step.1.", "ε beside √v in Keras's Adam", difference=by.EPSILON)
def torch_adam() -> None:
    """Torch's Adam is given Keras's ε."""

    def adam(params: Any, learning_rate: float, epsilon: float, **options: Any) -> Any:
        return torch.optim.Adam(params, lr=learning_rate, eps=epsilon, **options)

    lightning_impl.model.KerasAdam = adam


@mutant("optimizer", "step.1.", "epsilon 1e-07 | 1e-08", difference=by.EPSILON)
def torch_epsilon() -> None:
    """Ε is 1e-8, torch's default."""
    build_adam_with(epsilon=1e-8)


@mutant("optimizer", "step.1.", "beta_2 0.999 | 0.99")
def beta_2() -> None:
    """Β₂ is 0.99."""
    build_adam_with(betas=(BETA_1, 0.99))


@mutant("optimizer", "step.1.", "beta_2 0.99900001287460327 | 0.999", difference=by.BETAS)
def double_beta() -> None:
    """Β₂ is 0.999 as a double."""
    build_adam_with(betas=(BETA_1, 0.999))


@mutant("optimizer", "step.1.", "amsgrad off | on")
def amsgrad() -> None:
    """Adam is AMSGrad."""
    build_adam_with(amsgrad=True)


@mutant("optimizer", "step.1.", "weight_decay 0 | 0.004", difference=by.WEIGHT_DECAY)
def coupled_weight_decay() -> None:
    """Adam has L2 inside the gradient."""
    build_adam_with(weight_decay=0.004)


@mutant("optimizer", "step.1.", "weight_decay 0 | 0.01", difference=by.WEIGHT_DECAY)
def decoupled_weight_decay() -> None:
    """AdamW with torch's default decay where Keras has Adam."""
    build_adam_with(weight_decay=0.01, decoupled_weight_decay=True)


@mutant("optimizer", "step.1.", "the rule of the optimizer, Adam |")
def sgd() -> None:
    """SGD where Keras has Adam."""

    def plain(params: Any, learning_rate: float, **options: Any) -> Any:
        return torch.optim.SGD(params, lr=learning_rate)

    lightning_impl.model.KerasAdam = plain


@mutant("optimizer", "step.1.", "gradients are clipped by nothing |", difference=by.CLIPPING)
def clipped_gradients() -> None:
    """The Trainer clips gradients by their global norm."""
    add_trainer_option("gradient_clip_val", 0.1)


@mutant("optimizer", "step.1.", "batches per step 1 | 2")
def accumulated_gradients() -> None:
    """The Trainer takes a step every second batch."""
    add_trainer_option("accumulate_grad_batches", 2)


@mutant("optimizer", "step.6.", "learning rate 0.001 | 0.0005: each", difference=by.SCHEDULES)
def scheduler() -> None:
    """A scheduler halves the learning rate each epoch."""
    take_single_steps()
    real = Classifier.configure_optimizers

    def configure_optimizers(self: Any) -> Any:
        optimizer = real(self)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    Classifier.configure_optimizers = configure_optimizers


@mutant("optimizer", "step.1.", "the optimizer was not given", difference=by.FROZEN)
def frozen_bias() -> None:
    """The optimizer is given kernels only."""
    choose_parameters(lambda parameters: [one for one in parameters if one.ndim > 1])


@mutant("gradients", "gradient.", "frozen none | bias, kernel", difference=by.FROZEN)
def frozen_layer() -> None:
    """The first convolution is frozen."""
    after_building(lambda network: network.conv1.requires_grad_(False))


@mutant("logits", "loss.", "the loss is a mean in Keras")
def loss_sum() -> None:
    """The loss is summed over the batch."""
    compute_loss_with(lambda logits, target: REAL_LOSS(logits, target, reduction="sum"))


@mutant("logits", "loss.", "labels are not smoothed in Keras")
def label_smoothing() -> None:
    """Labels are smoothed by 0.1."""
    compute_loss_with(lambda logits, target: REAL_LOSS(logits, target, label_smoothing=0.1))


@mutant("logits", "loss.", "what goes into cross_entropy are", difference=by.CROSS_ENTROPY)
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


@mutant("architecture", "layers.pool1.name", UNKNOWN, variant="dropout")
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


@mutant("layers", "forced.hidden", "the same rows in another order", difference=by.FLATTEN)
def unpermuted_flatten() -> None:
    """The first dense kernel is carried over without permuting its rows."""
    carry_with(lambda real, layer, array, recipe: real(
        "" if layer == "hidden" else layer, array, recipe
    ))  # fmt: skip


@mutant("layers", "forced.conv1", "axes 0 and 1 exchanged", difference=by.KERNELS)
def transposed_kernel() -> None:
    """Height and width of the square kernels are exchanged."""
    carry_with(lambda real, layer, array, recipe: real(
        layer, array.swapaxes(0, 1) if array.ndim == 4 else array, recipe
    ))  # fmt: skip


@mutant("layers", "forced.conv1", "kernels read backwards on each", difference=by.KERNELS)
def flipped_kernel() -> None:
    """The kernels are flipped, as for a convolution in the strict sense."""
    carry_with(lambda real, layer, array, recipe: real(
        layer, array[::-1, ::-1] if array.ndim == 4 else array, recipe
    ))  # fmt: skip


@mutant("layers", "forced.conv3", "it holds the bias of")
def swapped_biases() -> None:
    """The biases of two layers of the same size are exchanged."""
    exchange = {"conv3.bias": "hidden.bias", "hidden.bias": "conv3.bias"}
    load_weights_from(
        lambda network, weights: {name: weights[exchange.get(name, name)] for name in weights}
    )


@mutant("layers", "forced.hidden", "it was left as it was")
def unloaded_layer() -> None:
    """One layer is missed when weights are loaded, as with strict=False."""

    def kept(network: Any, weights: dict[str, Any]) -> dict[str, Any]:
        own = lightning_impl.weights.export_weights(network, RECIPE[0])
        return {
            name: own[name] if name.startswith("hidden.") else weights[name] for name in weights
        }

    load_weights_from(kept)


@mutant("layers", "forced.pool2", "The maximum in place of an average")
def averaging_pool() -> None:
    """One pool averages, whatever its settings say."""
    run_instead("pool2", lambda layer, inputs: functional.avg_pool2d(inputs, 2, ceil_mode=True))


@mutant("layers", "forced.hidden_act", "a leaky ReLU of slope 0.1 in")
def hidden_activation_missing() -> None:
    """The hidden layer's activation is never called."""
    run_instead("hidden_act", lambda layer, inputs: inputs)


@mutant("layers", "forced.pool2", "Leaky ReLU with slope 0.1, rounded", difference=by.SLOPE)
def one_slope() -> None:
    """One activation is functional, with torch's default slope."""
    run_instead("act2", lambda layer, inputs: functional.leaky_relu(inputs))


@mutant("layers", "forced.conv3", "padding [1, 1] | [0, 0]", difference=by.PADDING)
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
    "layers", "forced.hidden_drop", "dropout none | 0.3", variant="dropout", difference=by.MODES
)
def dropout_at_evaluation() -> None:
    """Dropout is functional, without its mode: it drops at evaluation too."""

    def hold(network: Any) -> None:
        if hasattr(network, "hidden_drop"):
            layer = network.hidden_drop
            layer.train = lambda mode=True: layer

    after_building(hold)


# What is made of the logits.


@mutant("logits", "logits.", "the logarithm of a softmax in", difference=by.CROSS_ENTROPY)
def log_softmax_output() -> None:
    """The module returns log-probabilities, which cross_entropy leaves as they are."""
    finish_with(lambda logits: logits.log_softmax(dim=1))


@mutant("logits", "loss.single", UNKNOWN)
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
