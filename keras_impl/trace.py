"""Answer questions about the Keras half, from built models and production training."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_impl.model import build_model
from keras_impl.settings import configure, layer_table
from keras_impl.train import predict_logits, train
from keras_impl.weights import export_weights, load_weights
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
    """Read the layer table and the parameter count off the built model."""
    model = build_model(recipe)
    return Answer({"layers": layer_table(model), "parameters": model.count_params()})


def answer_own_weights(question: Question, recipe: Recipe) -> Answer:
    """Draw Keras's own first weights for each seed."""
    arrays: dict[str, Array] = {}
    for seed in seeds_of(question):
        keras.utils.set_random_seed(seed)
        model = build_model(dataclasses.replace(recipe, seed=seed))
        arrays |= tagged(f"own.{seed}", export_weights(model))
    return Answer(arrays=arrays)


def answer_logits(question: Question, recipe: Recipe) -> Answer:
    """Carry the question's weights in, and return them again with the logits of its images."""
    model = build_model(recipe)
    load_weights(model, weights_of(question), recipe)
    images = rescale(question.arrays["images"], batch_dtype(recipe))
    logits = np.asarray(model.predict(images, batch_size=recipe.batch_size, verbose=0))
    return Answer(arrays={"logits": logits, **tagged("exported", export_weights(model))})


def answer_batches(question: Question, recipe: Recipe) -> Answer:
    """Train, predict, and return a digest of each batch that a step was given."""
    fed = FedBatches()
    data, execution = data_of(question, recipe), execution_of(question)
    with scratch_folder() as folder:
        journal = scratch_journal(recipe, data, folder)
        model = train(recipe, data, execution, journal, None, callbacks=[Watch(fed)])
        predict_logits(model, data.test, recipe, execution)
    return Answer({"batches": fed.rows, "history": list(journal.record.history)})


def answer_training(question: Question, recipe: Recipe) -> Answer:
    """Train, and return the history with the logits of the test images."""
    data, execution = data_of(question, recipe), execution_of(question)
    with scratch_folder() as folder:
        journal = scratch_journal(recipe, data, folder)
        model = train(recipe, data, execution, journal, first_weights(recipe))
        logits = predict_logits(model, data.test, recipe, execution)
    return Answer({"history": list(journal.record.history)}, {"logits": logits})


class Watch(keras.callbacks.Callback):
    """Note what each step of a model is given, by running the steps eagerly."""

    def __init__(self, fed: FedBatches) -> None:
        super().__init__()
        self.fed = fed

    def set_model(self, model: keras.Model) -> None:
        """Wrap the model's steps before `fit` makes its functions from them."""
        super().set_model(model)
        model.run_eagerly = True
        for stage in ("train", "test", "predict"):
            name = f"{stage}_step"
            setattr(model, name, self._watched(stage, getattr(model, name)))

    def _watched(self, stage: str, step: Any) -> Any:
        def watched(*arguments: Any) -> Any:
            images, one_hot = (keras.ops.convert_to_numpy(part) for part in arguments[-1])
            self.fed.note("validation" if stage == "test" else stage, images, one_hot)
            return step(*arguments)

        return watched


ANSWERERS = {
    "layers": answer_layers,
    "own_weights": answer_own_weights,
    "logits": answer_logits,
    "batches": answer_batches,
    "training": answer_training,
}


def main(question: Path, trace: Path) -> int:
    """Answer the file `question` with the file `trace`; return the exit code."""
    return answer_file(f"keras-{keras.backend.backend()}", ANSWERERS, configure, question, trace)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
