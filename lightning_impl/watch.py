"""What a proof hangs into production training: noting batches, masks from NumPy, states."""

import math
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from ladder.following import Follower
from lightning_impl.fast import CAPTURED_STEPS_PER_BATCH, STEPS_PER_BATCH
from lightning_impl.model import Classifier
from lightning_impl.weights import export_training_state, export_weights, load_training_state
from pipeline.fed import batch_row
from pipeline.masks import keep_mask, mask_factors
from pipeline.recipe import Recipe


class Watch(L.Callback):
    """Add to `fed` what each step of a module is given."""

    def __init__(self, fed: list[dict[str, Any]]) -> None:
        self.fed = fed

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wrap the step that predicts, which another Trainer takes."""
        predict_step = pl_module.predict_step

        def watched(batch: Any, batch_idx: int) -> Any:
            self._note("predict", batch)
            return predict_step(batch, batch_idx)

        pl_module.predict_step = watched  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note a training batch."""
        self._note("train", batch)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note a validation batch."""
        self._note("validation", batch)

    def _note(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images_nchw, one_hot = batch
        images_nhwc = images_nchw.permute(0, 2, 3, 1).numpy(force=True)
        self.fed.append(batch_row(stage, images_nhwc, one_hot.numpy(force=True)))


class InjectMasks(L.Callback):
    """Replace the dropout layers' own draw by `keep_mask`, each with its own rate.

    The masks of one batch's steps lie on the layers' device; a counter beside them says whose turn
    it is, so that steps can come several at once.
    """

    max_steps_per_batch = CAPTURED_STEPS_PER_BATCH

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.epoch = self.step = 0
        self.num_steps = 1
        self.first = 0
        """The place in the whole batch of the first image, of several processes' shares."""
        self.masks: dict[int, tuple[Tensor, Tensor, float]] = {}
        """By layer: which values it keeps (steps, batch, …), the counter (1,), and the rate."""
        self.modes: dict[str, set[bool]] = {}
        """By stage, `train`, `validation` and `predict`: whether its layers were told to drop."""
        self.stage = ""

    def set_model(self, model: nn.Module) -> None:
        """Give each dropout layer of `model` its masks."""
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
        for index, layer in enumerate(layers):
            layer.forward = partial(self._drop, layer, index)  # type: ignore[method-assign]

    def draw(self, epoch: int, step: int) -> None:
        """Take the masks of a step and the ones after it."""
        self.epoch, self.step = epoch, step
        for index in self.masks:
            self._fill(index)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give each dropout layer its masks."""
        assert isinstance(pl_module, Classifier)
        self.num_steps, self.stage = pl_module.steps_per_batch, "train"
        self.set_model(pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the masks of the batch's steps."""
        assert trainer.train_dataloader is not None
        self.first = trainer.train_dataloader.dataset.batches.share(batch_idx).start
        self.draw(trainer.current_epoch, batch_idx * self.num_steps)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that what follows is validation."""
        self.stage = "validation"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that what follows is training."""
        self.stage = "train"

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that what follows is prediction."""
        self.stage = "predict"

    def _drop(self, layer: nn.Dropout, index: int, inputs: Tensor) -> Tensor:
        if self.stage:
            self.modes.setdefault(self.stage, set()).add(layer.training)
        if not layer.training:
            return inputs
        if index not in self.masks:
            # As many as a full batch takes, so that a partial one gets the first of them.
            shape = (self.num_steps, self.recipe.batch_size, *inputs.shape[1:])
            masks = torch.empty(shape, dtype=torch.bool, device=inputs.device)
            position = torch.zeros(1, dtype=torch.int64, device=inputs.device)
            self.masks[index] = masks, position, layer.p
            self._fill(index)
        masks, position, rate = self.masks[index]
        keep = masks.index_select(0, position.clamp(max=self.num_steps - 1))[0]
        keep = keep[self.first : self.first + len(inputs)]
        position.add_(1)
        return torch.where(keep, inputs / (1 - rate), torch.zeros_like(inputs))

    def _fill(self, index: int) -> None:
        masks, position, rate = self.masks[index]
        shape = tuple(masks.shape[1:])
        if len(shape) == 4:  # masks are drawn in H, W, C order
            shape = (shape[0], *shape[2:], shape[1])
        for later in range(self.num_steps):
            keep = keep_mask(self.recipe.seed, self.epoch, self.step + later, index, shape, rate)
            drawn = torch.from_numpy(keep)
            masks[later] = drawn.permute(0, 3, 1, 2) if drawn.ndim == 4 else drawn
        position.zero_()


class NoteMasks(L.Callback):
    """Note two sums over each mask that the dropout layers draw by themselves, step by step.

    A layer is given ones beside its input and the input multiplied by what comes of them, so that
    zeros in the input say nothing of the mask.
    """

    max_steps_per_batch = CAPTURED_STEPS_PER_BATCH

    def __init__(self, recipe: Recipe, num_steps: int) -> None:
        self.recipe, self.num_steps = recipe, num_steps
        self.sums: dict[str, Tensor] = {}
        self._beside: dict[str, tuple[Tensor, Tensor]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wrap the layers."""
        assert isinstance(pl_module, Classifier)
        for name, layer in pl_module.network.named_children():
            if isinstance(layer, nn.Dropout):
                noted = partial(self._noted, layer, name, layer.forward)
                layer.forward = noted  # type: ignore[method-assign]

    def noted(self) -> dict[str, Any]:
        """Return the sums (steps, 2) by layer."""
        return {name: sums.numpy(force=True) for name, sums in self.sums.items()}

    def _noted(self, layer: nn.Dropout, name: str, draw: Any, inputs: Tensor) -> Tensor:
        if not layer.training:
            return draw(inputs)
        if name not in self.sums:
            factors = torch.from_numpy(mask_factors((self.recipe.batch_size, *inputs.shape[1:])))
            new = partial(torch.zeros, dtype=torch.int64, device=inputs.device)
            self.sums[name] = new((self.num_steps, 2))
            self._beside[name] = factors.to(inputs.device), new(1)
        own, position = self._beside[name]
        kept = draw(torch.ones_like(inputs))
        found = ((kept != 0)[..., None] * own[: len(inputs)]).flatten(0, -2).sum(0)
        self.sums[name].index_copy_(0, position.clamp(max=self.num_steps - 1), found[None])
        position.add_(1)
        return inputs * kept


class AtSeams(L.Callback):
    """Keep the weights every `every` steps, where calls of several end, and at epochs' ends."""

    max_steps_per_batch = CAPTURED_STEPS_PER_BATCH

    def __init__(self, every: int, steps_per_epoch: int) -> None:
        self.every, self.steps_per_epoch = every, steps_per_epoch
        self.weights: dict[int, dict[str, Any]] = {}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the weights."""
        assert isinstance(pl_module, Classifier)
        step = min((batch_idx + 1) * pl_module.steps_per_batch, self.steps_per_epoch)
        if step % self.every and step != self.steps_per_epoch:
            return
        weights = export_weights(pl_module.network, pl_module.recipe)
        kept = {name: array.copy() for name, array in weights.items()}
        self.weights[trainer.current_epoch * self.steps_per_epoch + step] = kept


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
