"""Answer questions about the Keras implementation, from built models and production training."""

import dataclasses
import sys
from contextlib import suppress
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
from ladder.engines import end_with_parent
from ladder.exchange import Array, Arrays, Question
from ladder.following import EnoughSeenError
from ladder.subject import answer_subject, arrays_under, held_weights, tagged
from pipeline.answers import (
    Answer,
    FedBatches,
    answer_file,
    data_of,
    execution_of,
    followed_run,
    narrowed,
    scratch_folder,
    scratch_journal,
    seeds_of,
    set_order,
    start_of,
    states_and,
    thinned,
    training_recipe,
    unlabeled_images_of,
    weights_of,
)
from pipeline.batches import batch_dtype, training_batches
from pipeline.network import parameter_shapes
from pipeline.preprocess import PreparedData, rescale
from pipeline.recipe import Recipe


class ImplementationSubject(KerasSubject):
    """The compiled model; weights go in and out through `keras_impl.weights`."""

    def __init__(self, model: keras.Model, recipe: Recipe) -> None:
        super().__init__(model)
        self.recipe = recipe

    def weights(self) -> dict[str, Array]:
        """Return the canonical weights."""
        return export_weights(self.model)

    def load_weights(self, weights: Arrays) -> None:
        """Set the canonical weights."""
        load_weights(self.model, dict(weights), self.recipe)


def built_subject(recipe: Recipe) -> ImplementationSubject:
    """Build and compile the model as training does."""
    model = build_model(recipe)
    compile_model(model, recipe)
    return ImplementationSubject(model, recipe)


def answer_network(question: Question, recipe: Recipe) -> Answer:
    """Answer what one built model can be asked; with masks, as of epoch 0, step 0."""
    subject = built_subject(recipe)
    if question.settings.get("masks", False):
        injected(subject.model, recipe).draw(0, 0)
    facts, arrays = answer_subject(without_steps(question), subject)
    return Answer(facts, {**arrays, **held_weights(question, subject)})


def without_steps(question: Question) -> Question:
    """Return the question without `steps`, which is answered by training."""
    asks = tuple(ask for ask in question.asks if ask != "steps")
    return dataclasses.replace(question, asks=asks)


def injected(model: keras.Model, recipe: Recipe) -> InjectMasks:
    """Give the model's dropout layers masks from NumPy."""
    masks = InjectMasks(recipe)
    masks.set_model(model)
    return masks


def answer_dropout(question: Question, recipe: Recipe) -> Answer:
    """Return each dropout layer's output for ones: with masks, in evaluation, on its own."""
    arrays: dict[str, Array] = {}
    model = build_model(recipe)
    for layer in dropout_layers(model):
        ones = np.ones((64, *layer.input.shape[1:]), batch_dtype(recipe))
        arrays[f"drop_own.{layer.name}"] = called(layer, ones, training=True)
        ones = np.ones((recipe.batch_size, *layer.input.shape[1:]), batch_dtype(recipe))
        arrays[f"drop_eval.{layer.name}"] = called(layer, ones, training=False)
    if question.settings.get("masks", False):
        masks = injected(model, recipe)
        for step in (0, 1):
            masks.draw(0, step)
            for layer in dropout_layers(model):
                ones = np.ones((recipe.batch_size, *layer.input.shape[1:]), batch_dtype(recipe))
                arrays[f"drop.{layer.name}.{step}"] = called(layer, ones, training=True)
    if "training" in question.settings:
        arrays |= tagged("drop_steps", own_masks(question, recipe))
    return Answer(arrays=arrays)


def own_masks(question: Question, recipe: Recipe) -> dict[str, Array]:
    """Return two sums over each mask (steps, 2) that production training draws, by layer."""
    recipe = narrowed(training_recipe(question, recipe))
    data, execution = data_of(question, recipe), execution_of(question)
    num_steps = recipe.num_epochs * len(training_batches(data.train, recipe))
    note = NoteMasks(recipe, num_steps)
    with scratch_folder() as folder:
        train(recipe, data, execution, scratch_journal(recipe, data, folder), None, [note])
    return {name: np.array(keras.ops.convert_to_numpy(sums)) for name, sums in note.sums.items()}


def dropout_layers(model: keras.Model) -> list[keras.layers.Dropout]:
    """Return the model's dropout layers, in order."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]


def called(layer: keras.Layer, values: Array, training: bool) -> Array:
    """Return a layer's output for `values`."""
    found = call(layer, keras.ops.convert_to_tensor(values), training)
    return np.array(keras.ops.convert_to_numpy(found))


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


def answer_predict(question: Question, recipe: Recipe) -> Answer:
    """Return the logits of the question's images, computed as a run computes its test logits."""
    model = build_model(recipe)
    compile_model(model, recipe)
    load_weights(model, weights_of(question), recipe)
    images, execution = unlabeled_images_of(question), execution_of(question)
    return Answer(arrays={"logits": predict_logits(model, images, recipe, execution)})


def answer_state(question: Question, recipe: Recipe) -> Answer:
    """Return a run's training state, the epochs it has seen, and the logits of the images."""
    state, epochs = read_state(Path(question.settings["run_dir"]), recipe)
    weights = {name: state[name] for name in parameter_shapes(recipe)}
    arrays = {**question.arrays, **tagged("weights", weights)}
    answer = answer_predict(dataclasses.replace(question, arrays=arrays), recipe)
    return Answer({"epochs": epochs}, {**answer.arrays, **tagged("state", state)})


def answer_adopt(question: Question, recipe: Recipe) -> Answer:
    """Write a training state into a run's checkpoint, and answer from that file."""
    settings, state = question.settings, arrays_under(question, "state")
    run_dir = Path(settings["run_dir"])
    write_state(run_dir, recipe, state, settings["epochs"], settings["best_val_loss"])
    return answer_state(question, recipe)


def answer_export(question: Question, recipe: Recipe) -> Answer:
    """Write the model with the question's weights as a file of the form that is asked for."""
    settings = question.settings
    export_model(settings["form"], Path(settings["path"]), recipe, weights_of(question))
    return Answer()


def answer_exported(question: Question, recipe: Recipe) -> Answer:
    """Return the logits that an exported file gives for the question's batches."""
    settings = question.settings
    batches = list(question.arrays.values())
    logits = run_exported(settings["form"], Path(settings["path"]), batches)
    return Answer(arrays={"logits": np.concatenate(logits)})


def answer_batches(question: Question, recipe: Recipe) -> Answer:
    """Train, predict, and return a digest of each batch that a step was given."""
    fed, recipe = FedBatches(), thinned(question, recipe)
    data, execution = data_of(question, recipe), execution_of(question)
    with scratch_folder() as folder:
        journal = scratch_journal(recipe, data, folder)
        model = train(recipe, data, execution, journal, None, callbacks=[Watch(fed)])
        predict_logits(model, data.test, recipe, execution)
    return Answer({"batches": fed.rows, "set_order": set_order(data, recipe)})


def answer_training(question: Question, recipe: Recipe) -> Answer:
    """Train for `steps` and for `training`: states, history, last weights and logits.

    Apart, as TensorFlow's fast path takes several steps at once unless each is looked at: the
    second is production's own, looked at where such calls end.
    """
    execution = execution_of(question)
    num_steps = question.settings.get("steps", 0) if "steps" in question.asks else 0
    after = AfterEachStep(lambda model: ImplementationSubject(model, recipe), num_steps, stops=True)
    has_masks = question.settings.get("masks", False)

    def run(recipe: Recipe, data: PreparedData, *callbacks: keras.callbacks.Callback) -> Any:
        start = start_of(question, recipe)
        with scratch_folder() as folder:
            journal = scratch_journal(recipe, data, folder)
            model = train(recipe, data, execution, journal, start, callbacks)
        return model, list(journal.record.history)

    def finish() -> Answer:
        if num_steps:
            masks = [InjectMasks(recipe)] if has_masks else []
            with suppress(AfterEachStep.Reached):
                run(recipe, data_of(question, recipe), *masks, after)
        if "training" not in question.asks:
            return Answer()
        longer = training_recipe(question, recipe)
        data = data_of(question, longer)
        num_batches = len(training_batches(data.train, longer))
        seams = AtSeams(question.settings.get("call", num_batches), num_batches)
        masks = [InjectMasks(longer)] if has_masks else []
        model, history = run(longer, data, *masks, seams)
        arrays = tagged("trained", export_weights(model))
        for step, weights in seams.weights.items():
            arrays |= tagged(f"seam.{step}", weights)
        arrays["trained_logits"] = predict_logits(model, data.test, longer, execution)
        arrays["validation_logits"] = predict_logits(model, data.validation, longer, execution)
        arrays["validation_classes"] = data.validation.labels
        modes = {stage: sorted(seen) for each in masks for stage, seen in each.modes.items()}
        return Answer({"history": history, "dropout_modes": modes}, arrays)

    return states_and(question, finish, after.states)


def answer_follow(question: Question, recipe: Recipe) -> Answer:
    """Train in a run folder of its own, looked at by a follower; go on where it was left.

    Dropout's masks are NumPy's, unless the setting `own_dropout` leaves the draw to the layers.
    """
    data, execution = data_of(question, recipe), execution_of(question)
    journal, follower = followed_run(question, recipe, data)
    steps = len(training_batches(data.train, recipe))
    callbacks: list[keras.callbacks.Callback] = [Follow(follower, steps)]
    if any(recipe.dropout_rates) and not question.settings.get("own_dropout", False):
        callbacks.insert(0, InjectMasks(recipe))
    with suppress(EnoughSeenError):
        train(recipe, data, execution, journal, start_of(question, recipe), callbacks)
    return Answer({"steps": follower.rows, "history": list(journal.record.history)})


ANSWERERS = {
    "contract": answer_network,
    "layers": answer_network,
    "points": answer_network,
    "forced": answer_network,
    "cases": answer_network,
    "gradients": answer_network,
    "dropout": answer_dropout,
    "own_weights": answer_own_weights,
    "logits": answer_logits,
    "predict": answer_predict,
    "state": answer_state,
    "adopt": answer_adopt,
    "export": answer_export,
    "exported": answer_exported,
    "batches": answer_batches,
    "steps": answer_training,
    "training": answer_training,
    "follow": answer_follow,
}


def main(question: Path, trace: Path) -> int:
    """Answer the file `question` with the file `trace`; return the exit code."""
    return answer_file(f"keras-{keras.backend.backend()}", ANSWERERS, configure, question, trace)


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*map(Path, sys.argv[1:])))
