"""What the mutants of the Lightning implementation patch it with."""

import sys
from collections.abc import Callable, Iterable
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import lightning_impl.fast
import lightning_impl.model
import lightning_impl.train
import lightning_impl.weights
import pipeline.batches

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
