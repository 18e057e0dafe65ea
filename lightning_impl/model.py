"""The network and its LightningModule, in PyTorch."""

from collections import OrderedDict
from typing import TYPE_CHECKING

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_impl.fast import Batch, make_fast, steps_of, take_steps
from lightning_impl.optimizer import KerasAdam
from pipeline.batches import dropout_seed
from pipeline.network import feature_map_shape
from pipeline.recipe import Recipe
from pipeline.record import Layer

if TYPE_CHECKING:
    from lightning_impl.captured import CapturedEvaluation, CapturedTraining


def build_model(recipe: Recipe) -> nn.Sequential:
    """Build the CNN: images (N, 1, H, W) in [0, 1] to logits (N, classes)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 1
    for block, filters in enumerate(recipe.conv_filters, start=1):
        layers[f"conv{block}"] = nn.Conv2d(channels, filters, recipe.kernel_size, padding="same")
        # torch's own default slope is 0.01, Keras's 0.3: the recipe names it.
        layers[f"act{block}"] = nn.LeakyReLU(recipe.negative_slope)
        # ceil_mode is Keras's padding="same" here: 7x7 becomes 4x4, padded right and bottom.
        layers[f"pool{block}"] = nn.MaxPool2d(recipe.pool_size, ceil_mode=True)
        if rate := recipe.dropout_rates[block - 1]:
            layers[f"drop{block}"] = nn.Dropout(rate)
        channels = filters
    height, width, channels = feature_map_shape(recipe)
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(channels * height * width, recipe.hidden_units)
    layers["hidden_act"] = nn.LeakyReLU(recipe.negative_slope)
    if rate := recipe.dropout_rates[-1]:
        layers["hidden_drop"] = nn.Dropout(rate)
    # No softmax here: cross_entropy takes logits, and softmax before it would train, worse.
    layers["logits"] = nn.Linear(recipe.hidden_units, recipe.num_classes)
    model = nn.Sequential(layers)
    model.apply(initialize)
    return model


def initialize(module: nn.Module) -> None:
    """Give a layer Keras's default first weights: Glorot uniform kernel, zero bias.

    torch draws both from U(±1/sqrt(fan_in)), which is narrower in the first dense layer.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def accuracy_metric(recipe: Recipe) -> MulticlassAccuracy:
    """Return the share of images classified correctly; its arguments need no check each step."""
    return MulticlassAccuracy(recipe.num_classes, average="micro", validate_args=False)


@torch.no_grad()
def layers_of(network: nn.Sequential, image_size: int) -> list[Layer]:
    """Return the built layers; shapes are (C, H, W), found with a blank image."""
    weight = next(network.parameters())
    maps = weight.new_zeros(1, 1, image_size, image_size)
    layers = []
    for name, layer in network.named_children():
        if not isinstance(layer, nn.Dropout):  # which would draw a mask
            maps = layer(maps)
        parameters = sum(weight.numel() for weight in layer.parameters())
        layers.append(Layer(name, type(layer).__name__, tuple(maps.shape[1:]), parameters))
    return layers


class EpochMean(Metric):
    """The mean over an epoch's images of batches' means, summed in float64 on their device.

    torchmetrics' MeanMetric ignores weights where it lets NaN through (1.9.0), and else makes the
    host wait at each update to look for NaN.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, num_images: int) -> None:
        """Take the mean of a batch of `num_images`."""
        self.total += mean.detach().double() * num_images
        self.count += num_images

    def compute(self) -> Tensor:
        """Return the mean over all images."""
        return self.total / self.count


class Classifier(L.LightningModule):
    """The network with its loss, metrics and optimizer.

    Where the Trainer's batches are those of several steps, the module takes the steps itself, and
    with `captured` replays them from a CUDA graph.
    """

    captured_training: "CapturedTraining | None" = None
    captured_evaluation: "CapturedEvaluation | None" = None

    def __init__(
        self,
        recipe: Recipe,
        fast: bool = True,
        steps_per_batch: int = 1,
        captured: bool = False,
    ) -> None:
        super().__init__()
        self.steps_per_batch, self.captured = steps_per_batch, captured
        self.automatic_optimization = steps_per_batch == 1
        self.recipe = recipe
        self.network = build_model(recipe)
        # A list, not a module: the layers belong to `network`, and are saved once.
        self.fast_layers = make_fast(self.network) if fast else None
        self.train_loss, self.val_loss = EpochMean(), EpochMean()
        self.train_accuracy, self.val_accuracy = accuracy_metric(recipe), accuracy_metric(recipe)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) of images (N, 1, H, W)."""
        if self.fast_layers is None:
            return self.network(images)
        for layer in self.fast_layers:
            images = layer(images)
        return images

    def on_fit_start(self) -> None:
        """Make what takes captured steps, now that there is an optimizer."""
        if self.captured:
            from lightning_impl.captured import CapturedEvaluation, CapturedTraining

            self.captured_training = CapturedTraining(self, self.recipe.batch_size)
            self.captured_evaluation = CapturedEvaluation(self, self.recipe.batch_size)

    def on_fit_end(self) -> None:
        """Let go of the graphs and the memory that they read and write."""
        self.captured_training = self.captured_evaluation = None

    def on_train_epoch_start(self) -> None:
        """Seed dropout from (seed, epoch, rank), so that a resumed run draws the same masks."""
        torch.manual_seed(dropout_seed(self.recipe.seed, self.current_epoch, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss, or that of each step; log loss and accuracy over the epoch."""
        if self.automatic_optimization:
            loss = self._train_loss(batch)
        elif self.captured_training is not None:
            loss = self.captured_training.train(batch, self.train_loss, self.train_accuracy)
        else:
            loss = take_steps(self, batch, self.recipe.batch_size, self._train_loss)
        self._log_epoch("", batch_idx, self.train_loss, self.train_accuracy)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss, or that of each step; log as in training."""
        if self.automatic_optimization:
            loss = self._val_loss(batch)
        elif self.captured_evaluation is not None:
            loss = self.captured_evaluation.evaluate(batch, self.val_loss, self.val_accuracy)
        else:
            steps = steps_of(batch, self.recipe.batch_size)
            loss = torch.stack([self._val_loss(step) for step in steps])
        self._log_epoch("val_", batch_idx, self.val_loss, self.val_accuracy)
        return loss

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return logits (N, classes)."""
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam as Keras computes it."""
        recipe = self.recipe
        return KerasAdam(
            self.parameters(),
            learning_rate=recipe.learning_rate,
            betas=(recipe.beta_1, recipe.beta_2),
            epsilon=recipe.epsilon,
            fused=self.fast_layers is not None,
        )

    def _train_loss(self, batch: Batch) -> Tensor:
        return self._measured_loss(batch, self.train_loss, self.train_accuracy)

    def _val_loss(self, batch: Batch) -> Tensor:
        return self._measured_loss(batch, self.val_loss, self.val_accuracy)

    def _measured_loss(
        self, batch: Batch, mean_loss: EpochMean, accuracy: MulticlassAccuracy
    ) -> Tensor:
        images, one_hot = batch
        logits = self(images)
        loss = functional.cross_entropy(logits, one_hot)
        # Keras's epoch values are means over images, and the last batch has fewer.
        mean_loss.update(loss, len(images))
        accuracy.update(logits, one_hot.argmax(dim=1))
        return loss

    def _log_epoch(
        self, prefix: str, batch_idx: int, mean_loss: EpochMean, accuracy: MulticlassAccuracy
    ) -> None:
        # A metric that was logged once is computed when the epoch ends; each further call only
        # takes its time, a millisecond or two.
        if batch_idx == 0 or self.fast_layers is None:
            values = {f"{prefix}loss": mean_loss, f"{prefix}accuracy": accuracy}
            self.log_dict(values, on_step=False, on_epoch=True, prog_bar=True)
