"""Plant a porting mistake in the Lightning half, then answer; see `ladder.serve`.

A leaf program: it patches its own processes and nothing imports it. Production code has no hooks
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

FAULTS: dict[str, Callable[[], None]] = {}
"""What plants each fault, by its name."""


def fault(plant: Callable[[], None]) -> Callable[[], None]:
    """Register a fault under its function's name, with dashes."""
    FAULTS[plant.__name__.replace("_", "-")] = plant
    return plant


# Settings that are not what they were in Keras.


@fault
def torch_slope() -> None:
    """LeakyReLU with torch's default slope."""
    build_layers_with("LeakyReLU", lambda slope: nn.LeakyReLU())


@fault
def double_slope() -> None:
    """LeakyReLU with 0.1 as a double, which TensorFlow stores as float32."""
    build_layers_with("LeakyReLU", lambda slope: nn.LeakyReLU(0.1))


@fault
def pool_padding() -> None:
    """Pad the last pool by one pixel on each side: the right shape for 7x7, the wrong values."""
    after_building(lambda network: setattr(network, "pool3", nn.MaxPool2d(2, padding=1)))


@fault
def average_pool() -> None:
    """Average where Keras takes the largest."""
    build_layers_with("MaxPool2d", nn.AvgPool2d)


@fault
def no_bias() -> None:
    """Leave the bias of the second convolution out."""
    after_building(lambda network: setattr(network.conv2, "bias", None))


@fault
def conv_without_padding() -> None:
    """Leave torch's default padding, none, in the first convolution, which the pools even out."""
    after_building(lambda network: setattr(network.conv1, "padding", (0, 0)))


@fault
def swapped_rates() -> None:
    """Exchange the rates of the third and the last dropout."""
    rates = {0.4: 0.3, 0.3: 0.4}
    build_layers_with("Dropout", lambda rate: nn.Dropout(rates.get(round(rate, 6), rate)))


@fault
def torch_adam() -> None:
    """Give torch's Adam Keras's ε and leave its formula: ε inside the bias correction."""

    def adam(params: Any, learning_rate: float, epsilon: float, **options: Any) -> Any:
        return torch.optim.Adam(params, lr=learning_rate, eps=epsilon, **options)

    lightning_impl.model.KerasAdam = adam


@fault
def torch_epsilon() -> None:
    """Adam with torch's default ε, 1e-8."""
    build_adam_with(epsilon=1e-8)


@fault
def beta_2() -> None:
    """Adam with β₂ of 0.99."""
    build_adam_with(betas=(BETA_1, 0.99))


@fault
def double_beta() -> None:
    """Adam with 0.999 as a double, which Keras on TensorFlow casts to float32."""
    build_adam_with(betas=(BETA_1, 0.999))


@fault
def amsgrad() -> None:
    """Adam in its AMSGrad variant."""
    build_adam_with(amsgrad=True)


@fault
def coupled_weight_decay() -> None:
    """Take Keras's weight decay for Adam's in torch, which is L2 inside the gradient."""
    build_adam_with(weight_decay=0.004)


@fault
def decoupled_weight_decay() -> None:
    """AdamW with torch's default weight decay where Keras has Adam."""
    build_adam_with(weight_decay=0.01, decoupled_weight_decay=True)


@fault
def sgd() -> None:
    """SGD where Keras has Adam."""

    def plain(params: Any, learning_rate: float, **options: Any) -> Any:
        return torch.optim.SGD(params, lr=learning_rate)

    lightning_impl.model.KerasAdam = plain


@fault
def clipped_gradients() -> None:
    """Clip gradients by their global norm, as a Trainer's template does."""
    add_trainer_option("gradient_clip_val", 0.1)


@fault
def accumulated_gradients() -> None:
    """Take a step every second batch only."""
    add_trainer_option("accumulate_grad_batches", 2)


@fault
def scheduler() -> None:
    """Add a scheduler, which Lightning steps once an epoch."""
    take_single_steps()
    real = Classifier.configure_optimizers

    def configure_optimizers(self: Any) -> Any:
        optimizer = real(self)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    Classifier.configure_optimizers = configure_optimizers


@fault
def frozen_bias() -> None:
    """Give the optimizer kernels only."""
    choose_parameters(lambda parameters: [one for one in parameters if one.ndim > 1])


@fault
def frozen_layer() -> None:
    """Freeze the first convolution, as after transfer learning."""
    after_building(lambda network: network.conv1.requires_grad_(False))


@fault
def loss_sum() -> None:
    """Sum the loss over the batch."""
    compute_loss_with(lambda logits, target: REAL_LOSS(logits, target, reduction="sum"))


@fault
def label_smoothing() -> None:
    """Smooth labels by 0.1."""
    compute_loss_with(lambda logits, target: REAL_LOSS(logits, target, label_smoothing=0.1))


@fault
def softmax_before_loss() -> None:
    """Put a softmax before cross_entropy, which has one of its own."""
    compute_loss_with(lambda logits, target: REAL_LOSS(logits.softmax(dim=1), target))


# The data.


@fault
def drop_last() -> None:
    """Drop the partial last batch."""
    take_single_steps()
    pipeline.batches.Batches.__len__ = lambda self: max(len(self.data) // self.batch_size, 1)


@fault
def padded_last_batch() -> None:
    """Fill the last training batch up with the epoch's first images, as a distributed sampler."""
    take_single_steps()
    real = pipeline.batches.Batches.__getitem__

    def batch(self: Any, index: int) -> Any:
        is_last = index == len(self) - 1
        if self.seed is None or not is_last:
            return real(self, index)
        order, missing = self.order, -len(self.data) % self.batch_size
        self.order = np.concatenate([order, order[:missing]])
        filled = real(self, index)
        self.order = order
        return filled

    pipeline.batches.Batches.__getitem__ = batch


@fault
def same_order() -> None:
    """Feed every epoch in the order of the first."""
    lightning_impl.data.EpochSampler.set_epoch = lambda self, epoch: None


@fault
def unshuffled() -> None:
    """Leave `shuffle=True` out: every epoch in the set's own order."""
    order_by(lambda num_images, seed, epoch: np.arange(num_images))


@fault
def epochs_from_one() -> None:
    """Count epochs from 1 when drawing their order."""
    real = pipeline.batches.epoch_order
    order_by(lambda num_images, seed, epoch: real(num_images, seed, epoch + 1))


@fault
def train_on_validation() -> None:
    """Train on the validation images."""
    take_single_steps()

    def train_dataloader(self: Any) -> Any:
        batches = lightning_impl.data.training_batches(self.data.validation, self.recipe)
        return lightning_impl.data.batch_loader(batches)

    lightning_impl.data.FashionData.train_dataloader = train_dataloader


@fault
def validate_on_training() -> None:
    """Validate on the training images."""
    take_single_steps()

    def val_dataloader(self: Any) -> Any:
        batches = lightning_impl.data.evaluation_batches(self.data.train, self.recipe)
        return lightning_impl.data.batch_loader(batches)

    lightning_impl.data.FashionData.val_dataloader = val_dataloader


@fault
def other_split() -> None:
    """Split with another `random_state`."""
    real = pipeline.preprocess.train_validation_split
    pipeline.preprocess.train_validation_split = lambda count, fraction, seed: real(
        count, fraction, 42
    )


@fault
def unscaled() -> None:
    """Feed pixels from 0 to 255."""
    pipeline.batches.rescale = lambda images, dtype: images.astype(dtype)


@fault
def standardised() -> None:
    """Subtract the mean and divide by the deviation, as torchvision's examples do."""
    rescale_then(lambda scaled, dtype: ((scaled - 0.2860) / 0.3530).astype(dtype))


@fault
def rescaled_in_float32() -> None:
    """Divide by 255 in float32, as ToTensor does, and cast then."""
    real = pipeline.batches.rescale
    pipeline.batches.rescale = lambda images, dtype: real(images, "float32").astype(dtype)


@fault
def transposed_images() -> None:
    """Read height for width, as EMNIST's files are."""
    rescale_then(lambda scaled, dtype: np.ascontiguousarray(scaled.swapaxes(1, 2)))


@fault
def shifted_labels() -> None:
    """Count the classes from one: every label is the next class's."""
    real = pipeline.batches.one_hot
    pipeline.batches.one_hot = lambda labels, num_classes, dtype: real(
        (labels + 1) % num_classes, num_classes, dtype
    )


# The network's build.


@fault
def dropout_before_pool() -> None:
    """Drop before pooling instead of after it."""

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


@fault
def torch_init() -> None:
    """Keep torch's own initialisers."""
    lightning_impl.model.initialize = lambda module: None


@fault
def torch_bias_init() -> None:
    """Draw kernels as Keras does and leave torch's own biases."""
    initialize_with(lambda layer: nn.init.xavier_uniform_(layer.weight))


@fault
def kaiming_init() -> None:
    """Draw kernels from He's normal distribution."""
    initialize_with(
        lambda layer: (nn.init.kaiming_normal_(layer.weight), nn.init.zeros_(layer.bias))
    )


@fault
def gained_init() -> None:
    """Draw kernels with torch's gain for a leaky ReLU, √2 times as wide as in Keras."""
    gain = nn.init.calculate_gain("leaky_relu", 0.1)
    initialize_with(
        lambda layer: (nn.init.xavier_uniform_(layer.weight, gain), nn.init.zeros_(layer.bias))
    )


# Layers that compute something else than their settings say, and weights carried over wrongly.


@fault
def unpermuted_flatten() -> None:
    """Carry the first dense kernel over as if both sides flattened in the same order."""
    carry_with(lambda real, layer, array, recipe: real(
        "" if layer == "hidden" else layer, array, recipe
    ))  # fmt: skip


@fault
def transposed_kernel() -> None:
    """Exchange height and width of the convolution kernels, which are square."""
    carry_with(lambda real, layer, array, recipe: real(
        layer, array.swapaxes(0, 1) if array.ndim == 4 else array, recipe
    ))  # fmt: skip


@fault
def flipped_kernel() -> None:
    """Flip the convolution kernels: a convolution in the strict sense, where both correlate."""
    carry_with(lambda real, layer, array, recipe: real(
        layer, array[::-1, ::-1] if array.ndim == 4 else array, recipe
    ))  # fmt: skip


@fault
def swapped_biases() -> None:
    """Carry over the biases of two layers of the same size the wrong way round."""
    exchange = {"conv3.bias": "hidden.bias", "hidden.bias": "conv3.bias"}
    load_weights_from(
        lambda network, weights: {name: weights[exchange.get(name, name)] for name in weights}
    )


@fault
def unloaded_layer() -> None:
    """Miss a layer when loading, as `strict=False` does where a name differs."""

    def kept(network: Any, weights: dict[str, Any]) -> dict[str, Any]:
        own = lightning_impl.weights.export_weights(network, RECIPE[0])
        return {
            name: own[name] if name.startswith("hidden.") else weights[name] for name in weights
        }

    load_weights_from(kept)


@fault
def averaging_pool() -> None:
    """Average in the second pool."""
    run_instead("pool2", lambda layer, inputs: functional.avg_pool2d(inputs, 2, ceil_mode=True))


@fault
def hidden_activation_missing() -> None:
    """Leave the activation behind the hidden layer out."""
    run_instead("hidden_act", lambda layer, inputs: inputs)


@fault
def one_slope() -> None:
    """Use torch's default slope in one place, through the functional form."""
    run_instead("act2", lambda layer, inputs: functional.leaky_relu(inputs))


@fault
def reflected_border() -> None:
    """Pad the last convolution by reflection, not by zeros."""

    def convolve(layer: Any, inputs: Tensor) -> Tensor:
        padded = functional.pad(inputs, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, layer.weight, layer.bias)

    run_instead("conv3", convolve)


@fault
def float32_layer() -> None:
    """Compute one layer in float32."""

    def convolve(layer: Any, inputs: Tensor) -> Tensor:
        narrow = [part.float() for part in (inputs, layer.weight, layer.bias)]
        return functional.conv2d(*narrow, padding="same").to(inputs.dtype)

    run_instead("conv3", convolve)


@fault
def dropout_at_evaluation() -> None:
    """Leave the last dropout in training mode, whatever `eval()` says."""

    def hold(network: Any) -> None:
        if hasattr(network, "hidden_drop"):
            layer = network.hidden_drop
            layer.train = lambda mode=True: layer

    after_building(hold)


# What is made of the logits.


@fault
def log_softmax_output() -> None:
    """End in a log-softmax, which cross_entropy leaves as it is."""
    finish_with(lambda logits: logits.log_softmax(dim=1))


@fault
def squeezed_logits() -> None:
    """Squeeze the logits, which takes away the batch axis of a single image."""
    finish_with(lambda logits: logits.squeeze())


@fault
def clipped_probabilities() -> None:
    """Take the logarithm of probabilities clipped to 1e-7, as Keras does without from_logits."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        probabilities = logits.softmax(dim=1).clamp(1e-7, 1 - 1e-7)
        return -(target * probabilities.log()).sum(dim=1).mean()

    compute_loss_with(loss)


# Gradients that are not the forward pass's.


@fault
def detached_block() -> None:
    """Detach the first block's output."""
    run_instead("pool1", lambda layer, inputs: type(layer).forward(layer, inputs).detach())


@fault
def shared_ties() -> None:
    """Pool by amax, which shares the gradient among equal values."""

    def pool(layer: Any, inputs: Tensor) -> Tensor:
        return inputs.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-2, -1))

    run_instead("pool1", pool)


@fault
def gradient_at_zero() -> None:
    """Write the first activation by hand, with `>=`: its gradient at zero is 1."""

    def activate(layer: Any, inputs: Tensor) -> Tensor:
        return torch.where(inputs >= 0, inputs, layer.negative_slope * inputs)

    run_instead("act1", activate)


@fault
def float32_gradient() -> None:
    """Carry the gradient through float32 behind the last convolution."""

    def convolve(layer: Any, inputs: Tensor) -> Tensor:
        outputs = type(layer).forward(layer, inputs)
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: gradient.float().to(gradient.dtype))
        return outputs

    run_instead("conv3", convolve)


# Steps that are not Adam's as Keras takes them.


@fault
def inside_epsilon() -> None:
    """Leave out the step that moves ε outside the bias correction."""
    lightning_impl.optimizer.KerasAdam.step = torch.optim.Adam.step


@fault
def no_bias_correction() -> None:
    """Adam without bias correction, as if it had taken very many steps."""
    start_adam_at(num_steps=10**9, mean=0.0)


@fault
def stale_slots() -> None:
    """Load weights and keep the slots and the step count of an earlier training."""
    start_adam_at(num_steps=100, mean=1e-3)


@fault
def gradients_kept() -> None:
    """Forget to set the gradients to zero."""
    take_single_steps()
    Classifier.optimizer_zero_grad = lambda self, *arguments: None


@fault
def skipped_step() -> None:
    """Skip every second step, as a loss scaler does that finds infinities."""
    real = lightning_impl.optimizer.KerasAdam.step
    calls = iter(range(10**9))

    def step(self: Any, closure: Any = None) -> Any:
        return closure() if next(calls) % 2 else real(self, closure)

    lightning_impl.optimizer.KerasAdam.step = step


@fault
def warm_up() -> None:
    """Raise the learning rate over the first 100 steps."""
    take_single_steps()

    def optimizer_step(
        self: Any, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * min(1.0, (self.global_step + 1) / 100)
        optimizer.step(closure=closure)

    Classifier.optimizer_step = optimizer_step


@fault
def clipping_by_hand() -> None:
    """Clip gradients by their global norm in the module's own hook."""

    def clip(self: Any, *arguments: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 0.1)

    Classifier.on_before_optimizer_step = clip


# Dropout.


@fault
def unscaled_dropout() -> None:
    """Drop without scaling up what is kept."""

    def drop(layer: Any, inputs: Tensor) -> Tensor:
        scale = 1 - layer.p if layer.training else 1
        return functional.dropout(inputs, layer.p, layer.training) * scale

    run_instead("drop1", drop)


@fault
def dropped_channels() -> None:
    """Drop whole channels."""

    def drop(layer: Any, inputs: Tensor) -> Tensor:
        return functional.dropout2d(inputs, layer.p, layer.training)

    run_instead("drop2", drop)


# Training, epoch by epoch.


@fault
def epoch_schedule() -> None:
    """Halve the learning rate by hand after each epoch."""

    def halve(self: Any) -> None:
        for group in self.optimizers().param_groups:
            group["lr"] /= 2

    Classifier.on_train_epoch_end = halve


@fault
def slots_lost() -> None:
    """Begin each epoch with a new optimizer state."""
    real = Classifier.on_train_epoch_start

    def begin(self: Any) -> None:
        real(self)
        forget(self.optimizers().optimizer)

    Classifier.on_train_epoch_start = begin


# The seams of the fast path, which hands the Trainer 25 steps at once.


@fault
def last_step_left_out() -> None:
    """Take no step at the last of each 25 that come in one call."""
    step_in_calls(lambda number: 0 if number == STEPS_IN_CALL - 1 else 1)


@fault
def last_step_taken_twice() -> None:
    """Take the last of each 25 steps that come in one call twice."""
    step_in_calls(lambda number: 2 if number == STEPS_IN_CALL - 1 else 1)


@fault
def partial_call_dropped() -> None:
    """Take none of the steps of a call that has fewer than 25, as an epoch's last has."""
    real = lightning_impl.model.take_steps

    def take_steps(module: Any, batch: Any, batch_size: int, loss_of: Any) -> Any:
        is_whole = len(batch[0]) == STEPS_IN_CALL * batch_size
        return real(module, batch, batch_size, loss_of) if is_whole else torch.zeros(1)

    lightning_impl.model.take_steps = take_steps


@fault
def slots_reset_in_calls() -> None:
    """Begin each call of several steps with a new optimizer state."""
    real = lightning_impl.model.take_steps

    def take_steps(module: Any, *arguments: Any) -> Any:
        forget(module.optimizers().optimizer)
        return real(module, *arguments)

    lightning_impl.model.take_steps = take_steps


@fault
def order_restarted_in_calls() -> None:
    """Begin each call of several steps with the epoch's first images again."""
    real = lightning_impl.data.batch_loader

    def batch_loader(batches: Any, steps_per_batch: int = 1, device: Any = None) -> Any:
        loader = real(batches, steps_per_batch, device)
        if steps_per_batch > 1 and batches.seed is not None:
            read = loader.dataset.batches.positions
            loader.dataset.batches.positions = lambda index: read(0)[: len(read(index))]
        return loader

    lightning_impl.data.batch_loader = batch_loader


@fault
def masks_repeated_in_calls() -> None:
    """Seed dropout at the start of each call of several steps, not of each epoch."""
    real = Classifier.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        self.on_train_epoch_start()
        return real(self, batch, batch_idx)

    Classifier.training_step = training_step


@fault
def partial_validation_dropped() -> None:
    """Leave out of validation a call that has fewer than 25 batches, as the last has."""
    real = Classifier.validation_step

    def validation_step(self: Any, batch: Any, batch_idx: int) -> Any:
        is_whole = len(batch[0]) == STEPS_IN_CALL * self.recipe.batch_size
        is_left_out = self.steps_per_batch > 1 and batch_idx > 0 and not is_whole
        return None if is_left_out else real(self, batch, batch_idx)

    Classifier.validation_step = validation_step


# What is reported.


@fault
def unweighted_metrics() -> None:
    """Let each batch count as much as any other in an epoch's loss."""
    real = lightning_impl.model.EpochMean.update
    lightning_impl.model.EpochMean.update = lambda self, mean, num_images: real(self, mean, 1)


@fault
def last_batch_accuracy() -> None:
    """Reset the accuracy at each validation batch, so that the last one's is reported."""
    real = Classifier._val_loss

    def loss(self: Any, batch: Any) -> Any:
        self.val_accuracy.reset()
        return real(self, batch)

    Classifier._val_loss = loss


@fault
def validation_in_training_mode() -> None:
    """Forget `eval()` before validation."""
    Classifier.on_validation_model_eval = lambda self: None


@fault
def permuted_predictions() -> None:
    """Return the predictions in another order than the images', as workers do that race."""
    predict_then(
        lambda logits: logits[np.random.default_rng(0).permutation(len(logits))],
    )


@fault
def first_weights_predict() -> None:
    """Predict with the checkpoint of the first epoch, which a monitor of the wrong sign kept."""
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


@fault
def global_seeds() -> None:
    """Seed the global generators otherwise, which nothing draws on."""
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
    """Hand the Trainer single steps: a fault means something else, or nothing, in manual steps."""
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
    """Replace a function in each module of the half that holds it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("lightning_impl.") and hasattr(module, name):
            setattr(module, name, value)


if __name__ == "__main__":
    serve(lambda name: FAULTS[name](), lightning_impl.trace.main)
