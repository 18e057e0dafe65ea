"""What a proof hangs into production training: noting batches, masks from NumPy, states."""

import math
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_impl.fast import STEPS_PER_BATCH
from lightning_impl.model import Classifier
from lightning_impl.weights import export_training_state, load_training_state
from pipeline.answers import FedBatches
from pipeline.masks import keep_mask
from pipeline.recipe import Recipe
from portproof.following import Follower


class Watch(L.Callback):
    """Note what each step of a module is given."""

    def __init__(self, fed: FedBatches) -> None:
        self.fed = fed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note a training batch."""
        self.note("train", batch)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note a validation batch."""
        self.note("validation", batch)

    def note(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        """Note a batch of `stage`."""
        images_nchw, one_hot = batch
        self.fed.note(stage, images_nchw.permute(0, 2, 3, 1).numpy(), one_hot.numpy())


class InjectMasks(L.Callback):
    """Replace the dropout layers' own draw by `keep_mask`, each with its own rate."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.epoch = self.step = 0

    def inject(self, network: nn.Module) -> None:
        """Give each dropout layer of `network` its masks."""
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]
        for index, layer in enumerate(layers):
            layer.forward = partial(self._drop, layer, index)  # type: ignore[method-assign]

    def draw(self, epoch: int, step: int) -> None:
        """Take the masks of a step."""
        self.epoch, self.step = epoch, step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give each dropout layer its masks."""
        self.inject(pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the step's masks."""
        self.draw(trainer.current_epoch, batch_idx)

    def _drop(self, layer: nn.Dropout, index: int, inputs: Tensor) -> Tensor:
        if not layer.training:
            return inputs
        if inputs.ndim == 4:  # masks are drawn in H, W, C order
            shape = tuple(inputs.permute(0, 2, 3, 1).shape)
            keep = torch.from_numpy(self._keep(layer, index, shape)).permute(0, 3, 1, 2)
        else:
            keep = torch.from_numpy(self._keep(layer, index, tuple(inputs.shape)))
        return torch.where(keep, inputs / (1 - layer.p), torch.zeros_like(inputs))

    def _keep(self, layer: nn.Dropout, index: int, shape: tuple[int, ...]) -> Any:
        # As many as a full batch takes, so that a partial one gets the first of them.
        full = (self.recipe.batch_size, *shape[1:])
        return keep_mask(self.recipe.seed, self.epoch, self.step, index, full, layer.p)[: shape[0]]


class Follow(L.Callback):
    """Show a run's training state to a follower, and go on from what it answers."""

    def __init__(self, follower: Follower, recipe: Recipe, steps_per_epoch: int) -> None:
        self.follower, self.recipe, self.steps_per_epoch = follower, recipe, steps_per_epoch
        # Every step at which it looks is the last of a batch.
        self.max_steps_per_batch = math.gcd(follower.every, steps_per_epoch, STEPS_PER_BATCH)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the state where one is due."""
        assert isinstance(pl_module, Classifier)
        steps_in_epoch = (batch_idx + 1) * pl_module.steps_per_batch
        step = trainer.current_epoch * self.steps_per_epoch + steps_in_epoch
        if not self.follower.is_due(step):
            return
        network, optimizer = pl_module.network, trainer.optimizers[0]
        state = export_training_state(network, optimizer, self.recipe)
        go_on_from = self.follower.look(step, state)
        if go_on_from is not None:
            load_training_state(network, optimizer, go_on_from, self.recipe)
