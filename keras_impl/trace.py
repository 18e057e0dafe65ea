"""Answer questions about the Keras implementation, from built models and production training."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_impl.deploy import export_model, run_exported
from keras_impl.model import build_model
from keras_impl.settings import configure
from keras_impl.train import compile_model, predict_logits, train
from keras_impl.transfer import read_state, write_state
from keras_impl.watch import AtSeams, Follow, InjectMasks, NoteMasks, Watch
from keras_impl.weights import export_weights, load_weights
from ladder.adapters.keras import AfterEachStep, KerasSubject
from ladder.adapters.keras_described import call
from ladder.arrays import Array, Arrays
from ladder.exchange import Question
from pipeline.answers import answer_file
from pipeline.batches import batch_dtype
from pipeline.execution import Execution
from pipeline.recipe import Recipe

# With the functions below, what `pipeline.answers.Side` asks for.
__all__ = [
    "AfterEachStep", "AtSeams", "Follow", "InjectMasks", "NoteMasks", "Watch",
    "configure", "export_model", "predict_logits", "read_state", "run_exported", "train",
]  # fmt: skip


class ImplementationSubject(KerasSubject):
    """The compiled model; weights go in and out through `keras_impl.weights`."""

    def __init__(self, model: keras.Model, recipe: Recipe, execution: Execution) -> None:
        super().__init__(model)
        self.recipe = recipe

    def weights(self) -> dict[str, Array]:
        """Return the canonical weights."""
        return export_weights(self.model)

    def load_weights(self, weights: Arrays) -> None:
        """Set the canonical weights."""
        load_weights(self.model, dict(weights), self.recipe)

    def dropout_layers(self) -> list[str]:
        """Return the names of the dropout layers, in order."""
        return [layer.name for layer in self.layers if isinstance(layer, keras.layers.Dropout)]

    def dropped(self, name: str, count: int, training: bool) -> Array:
        """Return a dropout layer's output for `count` inputs of ones."""
        layer = self.model.get_layer(name)
        ones = np.ones((count, *layer.input.shape[1:]), batch_dtype(self.recipe))
        found = call(layer, keras.ops.convert_to_tensor(ones), training)
        return np.array(keras.ops.convert_to_numpy(found))

    def fast_order(self) -> list[str] | None:
        """Return None: the fast path runs the layers in their own order."""
        return None


def built_subject(recipe: Recipe, execution: Execution) -> ImplementationSubject:
    """Build and compile the model as training does."""
    model = build_model(recipe)
    compile_model(model, recipe)
    return ImplementationSubject(model, recipe, execution)


def drawn_weights(recipe: Recipe) -> dict[str, Array]:
    """Return the first weights that the model draws by itself, from the recipe's seed."""
    keras.utils.set_random_seed(recipe.seed)
    return export_weights(build_model(recipe))


def adopt(
    recipe: Recipe,
    execution: Execution,
    run_dir: Path,
    state: dict[str, Array],
    epochs: int,
    best_val_loss: float,
) -> None:
    """Write a training state into a run's checkpoint."""
    write_state(run_dir, recipe, state, epochs, best_val_loss)


def joined(question: Question, execution: Execution) -> AbstractContextManager[Any]:
    """Join nobody: several devices are one process's."""
    return nullcontext()


def engine() -> str:
    """Return the engine's name."""
    return f"keras-{keras.backend.backend()}"


def main(question: Path, trace: Path) -> int:
    """Answer the file `question` with the file `trace`; return the exit code."""
    return answer_file(sys.modules[__name__], question, trace)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
