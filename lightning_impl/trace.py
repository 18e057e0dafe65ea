"""Answer questions about the Lightning half, from built modules and production training."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_impl.model import Classifier
from lightning_impl.settings import configure, layer_table
from lightning_impl.train import predict_logits, train
from lightning_impl.weights import export_weights, load_weights
from pipeline.answers import (
    Answer,
    FedBatches,
    answer_file,
    data_of,
    execution_of,
    scratch_folder,
    scratch_journal,
    seeds_of,
    tagged,
    weights_of,
)
from pipeline.batches import batch_dtype
from pipeline.network import first_weights
from pipeline.preprocess import rescale
from pipeline.recipe import Recipe
from portproof.exchange import Array, Question


def answer_layers(question: Question, recipe: Recipe) -> Answer:
    """Read the layer table and the parameter count off the built network."""
    module = Classifier(recipe)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    table = layer_table(module.network, recipe.image_size)
    names = {layer: name for name, layer in module.network.named_children()}
    fast_order = [names[layer] for layer in module.fast_layers or []]
    return Answer({"layers": table, "parameters": parameters, "fast_order": fast_order})


def answer_own_weights(question: Question, recipe: Recipe) -> Answer:
    """Draw torch's own first weights for each seed."""
    arrays: dict[str, Array] = {}
    for seed in seeds_of(question):
        torch.manual_seed(seed)
        module = Classifier(dataclasses.replace(recipe, seed=seed))
        arrays |= tagged(f"own.{seed}", export_weights(module.network, recipe))
    return Answer(arrays=arrays)


def answer_logits(question: Question, recipe: Recipe) -> Answer:
    """Carry the question's weights in, and return them again with the logits of its images."""
    execution = execution_of(question)
    module = Classifier(recipe, fast=not execution.plain)
    if recipe.precision == "64":
        module.double()
    load_weights(module.network, weights_of(question), recipe)
    images = rescale(question.arrays["images"], batch_dtype(recipe))
    module.eval()
    with torch.inference_mode():
        parts = torch.from_numpy(images).permute(0, 3, 1, 2).split(recipe.batch_size)
        logits = torch.cat([module(part) for part in parts]).numpy()
    exported = export_weights(module.network, recipe)
    return Answer(arrays={"logits": logits, **tagged("exported", exported)})


def answer_batches(question: Question, recipe: Recipe) -> Answer:
    """Train, predict, and return a digest of each batch that a step was given."""
    fed = FedBatches()
    data, execution = data_of(question, recipe), execution_of(question)
    with scratch_folder() as folder:
        journal = scratch_journal(recipe, data, folder)
        module = train(recipe, data, execution, journal, None, callbacks=[Watch(fed)])
        module.predict_step = _watched_predict(module, fed)  # type: ignore[method-assign]
        predict_logits(module, data.test, recipe, execution)
    return Answer({"batches": fed.rows, "history": list(journal.record.history)})


def answer_training(question: Question, recipe: Recipe) -> Answer:
    """Train, and return the history with the logits of the test images."""
    data, execution = data_of(question, recipe), execution_of(question)
    with scratch_folder() as folder:
        journal = scratch_journal(recipe, data, folder)
        module = train(recipe, data, execution, journal, first_weights(recipe))
        logits = predict_logits(module, data.test, recipe, execution)
    return Answer({"history": list(journal.record.history)}, {"logits": logits})


class Watch(L.Callback):
    """Note what each step of a module is given."""

    def __init__(self, fed: FedBatches) -> None:
        self.fed = fed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note a training batch."""
        _note(self.fed, "train", batch)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note a validation batch."""
        _note(self.fed, "validation", batch)


def _watched_predict(module: Classifier, fed: FedBatches) -> Any:
    step = module.predict_step

    def watched(batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        _note(fed, "predict", batch)
        return step(batch, batch_idx)

    return watched


def _note(fed: FedBatches, stage: str, batch: tuple[Tensor, Tensor]) -> None:
    images_nchw, one_hot = batch
    fed.note(stage, images_nchw.permute(0, 2, 3, 1).numpy(), one_hot.numpy())


ANSWERERS = {
    "layers": answer_layers,
    "own_weights": answer_own_weights,
    "logits": answer_logits,
    "batches": answer_batches,
    "training": answer_training,
}


def main(question: Path, trace: Path) -> int:
    """Answer the file `question` with the file `trace`; return the exit code."""
    return answer_file("lightning", ANSWERERS, configure, question, trace)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
