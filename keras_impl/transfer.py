"""A run's training state in canonical form: out of a Keras run's checkpoint, and into one."""

from pathlib import Path

from keras_impl.checkpoint import restore_training_state
from keras_impl.model import build_model
from keras_impl.train import STATE, compile_model, save_training_state
from keras_impl.weights import Weights, export_training_state, load_training_state
from pipeline.recipe import Recipe


def read_state(run_dir: Path, recipe: Recipe) -> tuple[Weights, int]:
    """Return the training state that `--resume` would go on from, and the epochs it has seen.

    Raises:
        ValueError: there is none, or it does not fit the recipe's network.
    """
    model = build_model(recipe)
    compile_model(model, recipe)
    epochs = restore_training_state(model, run_dir / "checkpoints" / STATE)
    return export_training_state(model), epochs


def write_state(
    run_dir: Path, recipe: Recipe, state: Weights, epochs: int, best_val_loss: float
) -> None:
    """Write the training state after `epochs`, for `--resume` to go on from.

    Keras finds the best loss, `best_val_loss`, in the run's record.

    Raises:
        ValueError: the state does not fit the recipe's network.
    """
    model = build_model(recipe)
    compile_model(model, recipe)
    load_training_state(model, state)
    folder = run_dir / "checkpoints"
    folder.mkdir()
    save_training_state(model, folder / STATE, epochs)
