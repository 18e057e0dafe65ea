"""Answer questions about this implementation, from built modules and production training."""

import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

import lightning_impl.train
from ladder.adapters.lightning import LightningSubject
from ladder.adapters.lightning_fit import AfterEachStep, StopAtStart
from ladder.arrays import Array, Arrays
from ladder.exchange import Question, read_question
from lightning_impl.deploy import export_model, run_exported
from lightning_impl.model import Classifier
from lightning_impl.processes import together
from lightning_impl.settings import accelerator, configure
from lightning_impl.train import predict_logits, train
from lightning_impl.transfer import read_state, write_state
from lightning_impl.watch import AtSeams, Follow, InjectMasks, NoteMasks, Watch
from lightning_impl.weights import export_weights, load_weights
from pipeline.answers import answer_file, blank_data, scratch_folder, scratch_journal
from pipeline.execution import Execution
from pipeline.local_ranks import run_ranks
from pipeline.processes import this_process
from pipeline.recipe import Recipe

# With the functions below, what `pipeline.answers.Side` asks for.
__all__ = [
    "AfterEachStep", "AtSeams", "Follow", "InjectMasks", "NoteMasks", "Watch",
    "configure", "export_model", "predict_logits", "read_state", "run_exported", "train",
]  # fmt: skip


class ImplementationSubject(LightningSubject):
    """The module; weights go in and out through `lightning_impl.weights`."""

    def __init__(self, model: Classifier, recipe: Recipe, execution: Execution) -> None:
        super().__init__(model, (recipe.image_size, recipe.image_size, 1))
        self.model, self.recipe, self.execution = model, recipe, execution

    def weights(self) -> dict[str, Array]:
        """Return the canonical weights."""
        return export_weights(self.model.network, self.recipe)

    def load_weights(self, weights: Arrays) -> None:
        """Set the canonical weights."""
        load_weights(self.model.network, dict(weights), self.recipe)

    def dropout_layers(self) -> list[str]:
        """Return the names of the dropout layers, in order."""
        return [layer.name for layer in self.layers if isinstance(layer.module, nn.Dropout)]

    def dropped(self, name: str, count: int, training: bool) -> Array:
        """Return a dropout layer's output for `count` inputs of ones."""
        return self.called(next(each for each in self.layers if each.name == name), count, training)

    def fast_order(self) -> list[str] | None:
        """Return the layers as the fast path runs them; None where there is none."""
        if self.model.fast_layers is None:
            return None
        return [layer.name for layer in self.run_order]


def built_subject(recipe: Recipe, execution: Execution) -> ImplementationSubject:
    """Build the module as training does."""
    module = Classifier(recipe, fast=not execution.plain)
    if recipe.precision == "64":
        module.double()
    if execution.device == "gpu":
        module.cuda()
    return ImplementationSubject(module, recipe, execution)


def drawn_weights(recipe: Recipe) -> dict[str, Array]:
    """Return the first weights that the module draws by itself, from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return export_weights(Classifier(recipe).network, recipe)


def adopt(
    recipe: Recipe,
    execution: Execution,
    run_dir: Path,
    state: dict[str, Array],
    epochs: int,
    best_val_loss: float,
) -> None:
    """Write a training state into a run's checkpoint."""

    def write(trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Classifier)
        write_state(trainer, module, run_dir, state, epochs, best_val_loss)

    data = blank_data(recipe)
    with scratch_folder() as folder, suppress(StopAtStart.Reached):
        journal = scratch_journal(recipe, data, folder)
        train(recipe, data, execution, journal, None, callbacks=[StopAtStart(write)])


def joined(question: Question, execution: Execution) -> AbstractContextManager[Any]:
    """Join the other processes that train, where there are some."""
    if this_process().size == 1:
        return nullcontext()
    return together({"same": {"question": question.identity}}, accelerator(execution))


def capture_everywhere() -> None:
    """Train as on a GPU: without one every step is eager, and all but the capture is the same."""
    lightning_impl.train.captures = lambda recipe, execution: True
    lightning_impl.train.home_of_the_sets = lambda execution: torch.device("cpu")


def engine() -> str:
    """Return the engine's name."""
    return "lightning"


def main(question: Path, trace: Path) -> int:
    """Answer the file `question` with the file `trace`; return the exit code.

    Where it asks for several devices, as so many ranks, of which rank 0 writes the trace.
    """
    settings, ranks = read_question(question).settings, this_process()
    if settings.get("devices", 1) > 1 and ranks.size == 1:
        return run_ranks(settings["devices"])
    if settings.get("captured", False):
        capture_everywhere()
    with scratch_folder() as folder:
        own = trace if ranks.rank == 0 else Path(folder) / trace.name
        return answer_file(sys.modules[__name__], question, own)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
