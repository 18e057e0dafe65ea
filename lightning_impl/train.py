"""Training and prediction with Lightning: Trainer, callbacks, loggers."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ladder.files import write_bytes
from lightning_impl.data import FashionData, batch_loader
from lightning_impl.fast import CAPTURED_STEPS_PER_BATCH, STEPS_PER_BATCH
from lightning_impl.model import Classifier, layers_of
from lightning_impl.settings import PRECISIONS, accelerator, configure, rank_and_size
from lightning_impl.weights import export_weights, load_weights
from pipeline.batches import evaluation_batches
from pipeline.errors import RunError, Terminated, UsageError
from pipeline.execution import Execution
from pipeline.journal import Journal
from pipeline.preprocess import LabeledImages, PreparedData
from pipeline.recipe import Recipe
from pipeline.record import EPOCH_METRICS

__all__ = ["configure", "predict_logits", "train"]

Array = np.ndarray[Any, Any]
CHECKPOINTS = "checkpoints"


def train(
    recipe: Recipe,
    data: PreparedData,
    execution: Execution,
    journal: Journal,
    weights: dict[str, Array] | None,
    callbacks: Sequence[L.Callback] = (),
) -> Classifier:
    """Train, from the journal's last whole epoch on, and return the module.

    `weights` are the canonical first weights; None keeps torch's own draw of them. `callbacks` see
    each step, or, on the fast path, batches of no more steps than their `max_steps_per_batch`.
    """
    captured = captures(recipe, execution)
    steps = steps_per_batch(execution, callbacks, captured)
    processes = _processes()
    classifier = processes.SharedClassifier if processes else Classifier
    module: Classifier = classifier(recipe, not execution.plain, steps, captured and steps > 1)
    if recipe.precision == "64":
        module.double()
    if weights is not None:
        load_weights(module.network, weights, recipe)
    options = _trainer_options(recipe, execution)
    trainer = L.Trainer(
        **{**options, "plugins": [WholeCheckpoints(), *options["plugins"]]},
        max_epochs=recipe.num_epochs,
        deterministic=execution.deterministic,
        logger=_loggers(journal),
        enable_progress_bar=execution.show_progress,
        num_sanity_val_steps=0,  # Keras validates only after an epoch
        log_every_n_steps=1,  # epochs are logged; the default warns of those of few batches
        callbacks=[
            JournalCallback(journal, recipe),
            *_checkpoints(journal.run_dir),
            *callbacks,
            *([processes.OwnSigterm()] if processes else []),
        ],
    )
    with _interrupts_of(trainer), _restoring(journal):
        trainer.fit(
            module,
            datamodule=FashionData(data, recipe, steps, home_of_the_sets(execution)),
            ckpt_path=_restore(journal),
            weights_only=True,
        )
    return module


def captures(recipe: Recipe, execution: Execution) -> bool:
    """Return whether steps are replayed from a CUDA graph.

    In float64 they are not: the graph's learning rate is float32 in torch's kernel.
    """
    on_gpu = accelerator(execution) == "gpu" and rank_and_size()[1] == 1
    return on_gpu and not execution.plain and recipe.precision != "64"


def steps_per_batch(
    execution: Execution, callbacks: Sequence[L.Callback], captured: bool = False
) -> int:
    """Return how many steps the Trainer is handed at once."""
    if execution.plain or rank_and_size()[1] > 1:
        return 1
    limits = (getattr(callback, "max_steps_per_batch", 1) for callback in callbacks)
    return min((CAPTURED_STEPS_PER_BATCH if captured else STEPS_PER_BATCH, *limits))


def home_of_the_sets(execution: Execution) -> torch.device | None:
    """Return the GPU in whose memory the whole sets lie; None where batches come from the host."""
    if execution.plain or accelerator(execution) == "cpu" or rank_and_size()[1] > 1:
        return None
    return torch.device("cuda", torch.cuda.current_device())


def predict_logits(
    model: Classifier, images: LabeledImages, recipe: Recipe, execution: Execution
) -> Array:
    """Return the logits (N, classes) of `images`, dropout off."""
    processes = _processes()
    trainer = L.Trainer(
        **_trainer_options(recipe, execution),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[processes.OwnSigterm()] if processes else [],
    )
    with _interrupts_of(trainer):
        batches = trainer.predict(
            model,
            batch_loader(evaluation_batches(images, recipe), device=home_of_the_sets(execution)),
        )
    assert batches is not None
    parts = [batch for batch in batches if isinstance(batch, torch.Tensor)]
    logits = torch.cat(processes.gathered(parts) if processes else parts)
    return logits.to(torch.float64 if recipe.precision == "64" else torch.float32).cpu().numpy()


class JournalCallback(L.Callback):
    """Tell the journal of each step and epoch."""

    def __init__(self, journal: Journal, recipe: Recipe) -> None:
        self.journal, self.recipe = journal, recipe

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that everything is built."""
        assert isinstance(pl_module, Classifier)
        self.journal.resume_at(trainer.current_epoch)
        self.journal.begin_training(layers_of(pl_module.network, self.recipe.image_size))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self.journal.begin_epoch()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Hand on the loss of each step of the batch."""
        assert isinstance(pl_module, Classifier)
        first_step = batch_idx * pl_module.steps_per_batch
        for step, loss in enumerate(outputs["loss"].reshape(-1).tolist(), first_step):
            self.journal.end_step(trainer.current_epoch, step, loss)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the epoch's validation."""
        self.journal.begin_validation()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it: the loggers have been given numbers by now, so the device is done."""
        self.journal.end_validation()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hand on the epoch's metrics and weights; ModelCheckpoint comes after this."""
        assert isinstance(pl_module, Classifier)
        metrics = {name: float(trainer.callback_metrics[name]) for name in EPOCH_METRICS}
        weights = export_weights(pl_module.network, self.recipe)
        self.journal.end_epoch(trainer.current_epoch, metrics, weights)


class WholeCheckpoints(TorchCheckpointIO):
    """Write each checkpoint whole or not at all.

    Lightning's own moves it out of the temporary folder, which copies where that is another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save `checkpoint` as `path`, in a folder that is made where missing."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(exist_ok=True)
        write_bytes(Path(path), content.getvalue())


@contextmanager
def _interrupts_of(trainer: L.Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM be what they were before Trainer made an exit of them."""
    try:
        yield
    except SystemExit as error:
        # Outside its loops the Trainer does not listen for SIGTERM itself.
        is_told = trainer.received_sigterm or isinstance(error.__context__, Terminated)
        raise (Terminated if is_told else KeyboardInterrupt) from error


def _trainer_options(recipe: Recipe, execution: Execution) -> dict[str, Any]:
    processes, alone = _processes(), {"devices": 1, "plugins": [LightningEnvironment()]}
    return {
        "accelerator": accelerator(execution),
        **(processes.devices_options() if processes else alone),
        "precision": PRECISIONS[recipe.precision],
        # Else a SLURM job takes any hpc_ckpt_*.ckpt in the working folder for its own.
        "default_root_dir": os.devnull,
        "enable_model_summary": False,
    }


def _processes() -> ModuleType | None:
    """Return the module for trainings of several processes; None in one by itself."""
    if rank_and_size()[1] == 1:
        return None
    from lightning_impl import processes

    return processes


def _checkpoints(run_dir: Path) -> list[ModelCheckpoint]:
    """Keep the last epoch, which `--resume` goes on from, and the best one.

    Both are saved when the epoch has ended, after the journal has written its record.
    """
    folder = run_dir / CHECKPOINTS
    options: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    # The last one last: it holds what the best one knows, which a resumed run goes on with.
    return [
        ModelCheckpoint(folder, "best", monitor="val_loss", mode="min", **options),
        ModelCheckpoint(folder, "last", **options),
    ]


def _restore(journal: Journal) -> Path | None:
    """Return the checkpoint to go on from, if there is one.

    Raises:
        RunError: it is damaged, too large, or more than numbers.
    """
    path = journal.run_dir / CHECKPOINTS / "last.ckpt"
    if not path.exists():
        return None
    from lightning_impl.checkpoint import read_checkpoint

    try:
        read_checkpoint(path)
    except ValueError as error:
        raise RunError(f"cannot go on from {path}: it is not a whole checkpoint") from error
    return path


@contextmanager
def _restoring(journal: Journal) -> Iterator[None]:
    """Say which checkpoint it is from which Lightning cannot go on.

    Raises:
        RunError: training was to go on from one and never came to its first step.
    """
    checkpoint = journal.run_dir / CHECKPOINTS / "last.ckpt"
    try:
        yield
    except (RunError, UsageError, MemoryError, OSError):
        raise
    except Exception as error:  # what it lacks shows as whatever Lightning trips over
        from lightning_impl.processes import is_loss_of_others

        if journal.has_begun or not checkpoint.exists() or is_loss_of_others(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunError(f"cannot go on from {checkpoint}: {reason}") from error


def _loggers(journal: Journal) -> list[Logger]:
    version = f"from-epoch-{journal.epochs_done + 1}"
    loggers: list[Logger] = [CSVLogger(journal.run_dir, name="logs", version=version)]
    if journal.trackers:
        from lightning_impl.tracking import TrackingLogger

        loggers.append(TrackingLogger(journal.trackers))
    return loggers
