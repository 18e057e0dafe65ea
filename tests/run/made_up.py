"""An implementation that is made up: NumPy only, no framework."""

import os
from types import SimpleNamespace

import numpy as np

from pipeline.errors import UsageError
from pipeline.network import shared_first_weights
from pipeline.recipe import preset
from pipeline.run_folder import LOCK
from tests.fabricated import LAYERS

NUM_EPOCHS = 3
VAL_LOSSES = (0.5, 0.3, 0.4)
FILES = {"record.json", "recipe.yaml", "history.csv", "layers.json", "log.txt", "predictions.npz",
         "report.txt", "plots", "weights-last.safetensors", "weights-best.safetensors",
         LOCK}  # fmt: skip


def fake_implementation(at=lambda epoch, step: 0.1, logits=None, configure=None):
    """An implementation whose weights are all the epoch's number; `at` gives a step's loss.

    It predicts every label right but the first, whatever its weights.
    """

    def train(recipe, data, execution, journal, weights):
        os.write(2, b"framework noise\n")  # as C++ code does
        impl.began.append((recipe, execution, weights))
        journal.begin_training(LAYERS)
        for epoch in range(len(journal.record.history), recipe.num_epochs):
            impl.epochs.append(epoch)
            journal.begin_epoch()
            for step in range(3):
                journal.end_step(epoch, step, at(epoch, step))
            journal.begin_validation()
            journal.end_validation()
            metrics = {"loss": 1 / (epoch + 1), "accuracy": 0.5, "val_accuracy": 0.6}
            now = {name: np.full_like(array, epoch + 1) for name, array in first.items()}
            journal.end_epoch(epoch, {**metrics, "val_loss": VAL_LOSSES[epoch % 3]}, now)
        return "the model"

    def predict_logits(model, images, recipe, execution):
        assert model == "the model"
        right = np.eye(10)[images.labels] * 5
        right[0] = np.roll(right[0], 1)
        return right if logits is None else logits(right)

    first = shared_first_weights(preset("base"))
    impl = SimpleNamespace(
        configure=configure or (lambda recipe, execution: {"device": "a toy"}),
        train=train, predict_logits=predict_logits, began=[], epochs=[],
    )  # fmt: skip
    return impl


def interrupted_at(epoch):
    def at(now, step):
        if now == epoch:
            raise KeyboardInterrupt
        return 0.1

    return fake_implementation(at)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusing():
    """An implementation that finds the call wrong."""

    def refuse(recipe, execution):
        raise UsageError("no such device")

    return fake_implementation(configure=refuse)
