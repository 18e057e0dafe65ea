"""Porting mistakes in how Lightning trains and in what it reports, and changes that are none."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import lightning_impl.data
import lightning_impl.model
import lightning_impl.optimizer
import lightning_impl.train
from parity_tests import differences as by
from parity_tests.catalogue import UNKNOWN, mutant
from parity_tests.mutants.lightning_patches import (
    STEPS_IN_CALL,
    Classifier,
    forget,
    predict_then,
    replace_everywhere,
    run_instead,
    start_adam_at,
    step_in_calls,
    take_single_steps,
)

# Gradients that are not the forward pass's.


@mutant("gradients", "gradient.", UNKNOWN)
def detached_block() -> None:
    """`detach()` cuts the first block off."""
    run_instead("pool1", lambda layer, inputs: type(layer).forward(layer, inputs).detach())


@mutant(difference=by.TIES, is_harmless=True)
def shared_ties() -> None:
    """A pool by amax shares the gradient among equals, which all saw one patch."""

    def pool(layer: Any, inputs: Tensor) -> Tensor:
        return inputs.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-2, -1))

    run_instead("pool1", pool)


@mutant("gradients", "gradient.", UNKNOWN, difference=by.AT_ZERO, is_explained=True)
def gradient_at_zero() -> None:
    """An activation is written by hand with `>=`: its gradient at zero is 1."""

    def activate(layer: Any, inputs: Tensor) -> Tensor:
        return torch.where(inputs >= 0, inputs, layer.negative_slope * inputs)

    run_instead("act1", activate)


@mutant("gradients", "gradient.", UNKNOWN)
def float32_gradient() -> None:
    """The gradient passes through float32 on its way back."""

    def convolve(layer: Any, inputs: Tensor) -> Tensor:
        outputs = type(layer).forward(layer, inputs)
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: gradient.float().to(gradient.dtype))
        return outputs

    run_instead("conv3", convolve)


# Steps that are not Adam's as Keras takes them.


@mutant("optimizer", "step.1.", "the rule of the optimizer, Adam |", difference=by.EPSILON)
def inside_epsilon() -> None:
    """Ε is inside the bias correction, whatever the optimizer is called."""
    lightning_impl.optimizer.KerasAdam.step = torch.optim.Adam.step


@mutant("optimizer", "step.1.", "each weight moves 3.16")
def no_bias_correction() -> None:
    """Adam does not correct its means for their start at zero."""
    start_adam_at(num_steps=10**9, mean=0.0)


@mutant("optimizer", "step.1.", "the rule of the optimizer, Adam |")
def stale_slots() -> None:
    """Weights are loaded, slots and step count are an earlier training's."""
    start_adam_at(num_steps=100, mean=1e-3)


@mutant("optimizer", "step.2.", UNKNOWN)
def gradients_kept() -> None:
    """Gradients are never set to zero."""
    take_single_steps()
    Classifier.optimizer_zero_grad = lambda self, *arguments: None


@mutant("optimizer", "step.2.", "each weight moves 0")
def skipped_step() -> None:
    """Every second step is skipped, as by a loss scaler."""
    real = lightning_impl.optimizer.KerasAdam.step
    calls = iter(range(10**9))

    def step(self: Any, closure: Any = None) -> Any:
        return closure() if next(calls) % 2 else real(self, closure)

    lightning_impl.optimizer.KerasAdam.step = step


@mutant("optimizer", "step.1.", "learning rate 0.001 | 1e-05: each", difference=by.SCHEDULES)
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


@mutant("optimizer", "step.1.", UNKNOWN, difference=by.CLIPPING)
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


@mutant("optimizer", "step.6.", "learning rate 0.001 | 0.0005: each", difference=by.SCHEDULES)
def epoch_schedule() -> None:
    """The learning rate is halved by hand after each epoch."""

    def halve(self: Any) -> None:
        for group in self.optimizers().param_groups:
            group["lr"] /= 2

    Classifier.on_train_epoch_end = halve


@mutant("optimizer", "step.6.", UNKNOWN)
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


@mutant("dropout", "drop_steps.drop1", "dropout-masks-repeated", variant="dropout")
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


@mutant(
    "training", "trained_logits", "dropout-in-predictions", variant="dropout", difference=by.MODES
)
def prediction_in_training_mode() -> None:
    """`eval()` is forgotten before predictions."""
    Classifier.on_predict_model_eval = lambda self: None


@mutant("training", "trained_logits", "predictions-permuted")
def permuted_predictions() -> None:
    """Predictions are returned in another order."""
    predict_then(
        lambda logits: logits[np.random.default_rng(0).permutation(len(logits))],
    )


@mutant("training", "trained_logits", UNKNOWN)
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
