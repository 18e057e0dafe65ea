"""A run's training state in canonical form: out of a Lightning checkpoint, and into one."""

import math
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_impl.checkpoint import read_checkpoint
from lightning_impl.model import Classifier
from lightning_impl.optimizer import KerasAdam
from lightning_impl.train import CHECKPOINTS
from lightning_impl.weights import Weights, export_training_state, load_training_state
from pipeline.recipe import Recipe


def read_state(run_dir: Path, recipe: Recipe) -> tuple[Weights, int]:
    """Return the training state that `--resume` would go on from, and the epochs it has seen.

    Raises:
        ValueError: there is none, or it does not fit the recipe's network.
    """
    path = run_dir / CHECKPOINTS / "last.ckpt"
    checkpoint = read_checkpoint(path)
    module = Classifier(recipe)
    if recipe.precision == "64":
        module.double()
    optimizer = module.configure_optimizers()
    try:
        module.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        epochs = int(checkpoint["epoch"]) + 1
        return export_training_state(module.network, optimizer, recipe), epochs
    except Exception as error:  # what does not fit shows as whatever torch trips over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read {path}: {reason}") from error


def write_state(
    trainer: L.Trainer,
    module: Classifier,
    run_dir: Path,
    state: Weights,
    epochs: int,
    best_val_loss: float,
) -> None:
    """Write `last.ckpt` as ModelCheckpoint would after `epochs`, for `--resume` to go on from.

    `trainer` is about to take the first step of training `module`.

    Raises:
        ValueError: the state does not fit the module's network.
    """
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, KerasAdam)
    num_steps = int(state["adam.step"])
    optimizer.advance(num_steps)
    load_training_state(module.network, optimizer, state, module.recipe)
    _note_progress(trainer, epochs, num_steps, module.steps_per_batch)
    folder = Path(os.path.realpath(run_dir / CHECKPOINTS))
    for callback in trainer.checkpoint_callbacks:
        assert isinstance(callback, ModelCheckpoint)
        _note_best(callback, folder, best_val_loss)
    folder.mkdir()
    trainer.save_checkpoint(folder / "last.ckpt")


def _note_progress(trainer: L.Trainer, epochs: int, num_steps: int, steps_per_batch: int) -> None:
    """Set the loops' counters to what they are when an epoch's checkpoint is saved."""
    loop = trainer.fit_loop
    num_batches = math.ceil(num_steps / epochs / steps_per_batch)
    _set_counts(loop.epoch_progress, epochs, epochs)
    # The epoch itself ends after its checkpoint.
    loop.epoch_progress.total.completed = loop.epoch_progress.current.completed = epochs - 1
    _set_counts(loop.epoch_loop.batch_progress, epochs * num_batches, num_batches)
    loop.epoch_loop.batch_progress.is_last_batch = True
    loop.epoch_loop.on_load_checkpoint({"_batches_that_stepped": epochs * num_batches})
    if trainer.lightning_module.automatic_optimization:
        steps: Any = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    else:
        steps = loop.epoch_loop.manual_optimization.optim_step_progress
    _set_counts(steps, num_steps, num_steps // epochs)


def _set_counts(progress: Any, total: int, current: int) -> None:
    """Set all counters of one of Lightning's progresses, over all and in the epoch."""
    for counts, number in ((progress.total, total), (progress.current, current)):
        for name in vars(counts):
            setattr(counts, name, number)


def _note_best(callback: ModelCheckpoint, folder: Path, best_val_loss: float) -> None:
    """Let a callback know the best epoch so far, or a worse one would become `best.ckpt`."""
    callback.dirpath = str(folder)
    if callback.monitor is None:
        return
    score, path = torch.tensor(best_val_loss, dtype=torch.float64), str(folder / "best.ckpt")
    callback.best_model_score = callback.current_score = callback.kth_value = score
    callback.best_model_path = callback.kth_best_model_path = path
    callback.best_k_models = {path: score}
