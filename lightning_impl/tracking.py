"""Epochs for TensorBoard and MLflow, as Lightning hands them over: a Logger."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_impl.model import Classifier, layers_of
from pipeline.record import EPOCH_METRICS, Layer
from pipeline.tracking import Trackers


class TrackingLogger(Logger):
    """Give the trackers the network and each epoch's metrics.

    Lightning's own TensorBoardLogger and MLFlowLogger count steps by the Trainer's batches, which
    on the fast path are 25 steps each, so that their curves do not lie over Keras's; they call a
    run finished before it is tested, and an error of theirs ends the training.
    """

    def __init__(self, trackers: Trackers) -> None:
        super().__init__()
        self.trackers = trackers
        self._metrics: dict[str, float] = {}

    @property
    def name(self) -> str:
        """Return the logger's name."""
        return "tracking"

    @property
    def version(self) -> str:
        """Return nothing: there is one of each run."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the recipe comes from the record."""

    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:
        """Hand the built network over."""
        assert isinstance(model, Classifier)
        size = model.recipe.image_size
        image = Layer("image", "Input", (1, size, size), 0)
        self.trackers.log_graph([image, *layers_of(model.network, size)])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand the epoch's metrics over once all are there: validation's come before training's."""
        self._metrics |= metrics
        if all(name in self._metrics for name in EPOCH_METRICS):
            self.trackers.log_epoch(int(metrics["epoch"]) + 1, self._metrics)
            self._metrics = {}
