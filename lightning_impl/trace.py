"""Answer questions about this implementation, from built modules and production training."""

import dataclasses
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

import lightning_impl.train
from ladder.adapters.lightning import LightningSubject
from ladder.adapters.lightning_fit import AfterEachStep, StopAtStart, quiet
from ladder.engines import end_with_parent
from ladder.exchange import Array, Arrays, Question, read_question
from ladder.following import EnoughSeenError
from ladder.subject import answer_subject, arrays_under, held_weights, tagged
from lightning_impl.deploy import export_model, run_exported
from lightning_impl.model import Classifier
from lightning_impl.processes import together
from lightning_impl.settings import accelerator, configure
from lightning_impl.train import predict_logits, train
from lightning_impl.transfer import read_state, write_state
from lightning_impl.watch import AtSeams, Follow, InjectMasks, NoteMasks, Watch
from lightning_impl.weights import export_weights, load_weights
from pipeline.answers import (
    Answer,
    FedBatches,
    answer_file,
    blank_data,
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
from pipeline.execution import Execution
from pipeline.local_ranks import run_ranks
from pipeline.network import parameter_shapes
from pipeline.preprocess import PreparedData, rescale
from pipeline.processes import this_process
from pipeline.recipe import Recipe


class ImplementationSubject(LightningSubject):
    """The module; weights go in and out through `lightning_impl.weights`."""

    def __init__(self, module: Classifier, execution: Execution) -> None:
        size = module.recipe.image_size
        super().__init__(module, (size, size, 1), one_hot=True)
        self.recipe, self.execution = module.recipe, execution

    @property
    def classifier(self) -> Classifier:
        """The module, as the implementation's own class."""
        assert isinstance(self.module, Classifier)
        return self.module

    def weights(self) -> dict[str, Array]:
        """Return the canonical weights."""
        return export_weights(self.classifier.network, self.recipe)

    def load_weights(self, weights: Arrays) -> None:
        """Set the canonical weights."""
        load_weights(self.classifier.network, dict(weights), self.recipe)

    def started(self) -> tuple[L.Trainer, L.LightningModule]:
        """Return the Trainer that production training builds, about to take the first step."""
        recipe, stop = self.recipe, StopAtStart()
        data = blank_data(recipe)
        with scratch_folder() as folder, quiet(), suppress(StopAtStart.Reached):
            journal = scratch_journal(recipe, data, folder)
            train(recipe, data, self.execution, journal, None, callbacks=[stop])
        assert stop.found is not None
        return stop.found


def built_subject(recipe: Recipe, execution: Execution) -> ImplementationSubject:
    """Build the module as training does."""
    module = Classifier(recipe, fast=not execution.plain)
    if recipe.precision == "64":
        module.double()
    if execution.device == "gpu":
        module.cuda()
    return ImplementationSubject(module, execution)


def answer_network(question: Question, recipe: Recipe) -> Answer:
    """Answer what one built module can be asked; with masks, as of epoch 0, step 0."""
    subject = built_subject(recipe, execution_of(question))
    if question.settings.get("masks", False):
        injected(subject.classifier, recipe).draw(0, 0)
    facts, arrays = answer_subject(without_steps(question), subject)
    if "layers" in facts and subject.classifier.fast_layers is not None:
        facts["fast_order"] = [layer.name for layer in subject.run_order]
    return Answer(facts, {**arrays, **held_weights(question, subject)})


def without_steps(question: Question) -> Question:
    """Return the question without `steps`, which is answered by training."""
    asks = tuple(ask for ask in question.asks if ask != "steps")
    return dataclasses.replace(question, asks=asks)


def injected(module: nn.Module, recipe: Recipe) -> InjectMasks:
    """Give the module's dropout layers masks from NumPy."""
    masks = InjectMasks(recipe)
    masks.inject(module)
    return masks


def answer_dropout(question: Question, recipe: Recipe) -> Answer:
    """Return each dropout layer's output for ones: with masks, in evaluation, on its own."""
    arrays: dict[str, Array] = {}
    subject = built_subject(recipe, execution_of(question))
    layers = [layer for layer in subject.layers if isinstance(layer.module, nn.Dropout)]
    for layer in layers:
        arrays[f"drop_own.{layer.name}"] = subject.called(layer, 64, training=True)
        evaluated = subject.called(layer, recipe.batch_size, training=False)
        arrays[f"drop_eval.{layer.name}"] = evaluated
    if question.settings.get("masks", False):
        masks = injected(subject.classifier, recipe)
        for step in (0, 1):
            masks.draw(0, step)
            for layer in layers:
                dropped = subject.called(layer, recipe.batch_size, training=True)
                arrays[f"drop.{layer.name}.{step}"] = dropped
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
    return {name: sums.numpy(force=True) for name, sums in note.sums.items()}


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
    module = built_subject(recipe, execution_of(question)).classifier
    load_weights(module.network, weights_of(question), recipe)
    images = rescale(question.arrays["images"], batch_dtype(recipe))
    module.eval()
    with torch.inference_mode():
        images_nchw = torch.from_numpy(images).permute(0, 3, 1, 2).to(module.device)
        parts = [module(part) for part in images_nchw.split(recipe.batch_size)]
        logits = torch.cat(parts).numpy(force=True)
    exported = export_weights(module.network, recipe)
    return Answer(arrays={"logits": logits, **tagged("exported", exported)})


def answer_predict(question: Question, recipe: Recipe) -> Answer:
    """Return the logits of the question's images, computed as a run computes its test logits."""
    execution = execution_of(question)
    module = built_subject(recipe, execution).classifier
    load_weights(module.network, weights_of(question), recipe)
    images = unlabeled_images_of(question)
    return Answer(arrays={"logits": predict_logits(module, images, recipe, execution)})


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
    trainer, module = built_subject(recipe, execution_of(question)).started()
    assert isinstance(module, Classifier)
    write_state(
        trainer,
        module,
        Path(settings["run_dir"]),
        state,
        settings["epochs"],
        settings["best_val_loss"],
    )
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
        module = train(recipe, data, execution, journal, None, callbacks=[watch := Watch(fed)])
        module.predict_step = _watched_predict(module, watch)  # type: ignore[method-assign]
        predict_logits(module, data.test, recipe, execution)
    return Answer({"batches": fed.rows, "set_order": set_order(data, recipe)})


def answer_training(question: Question, recipe: Recipe) -> Answer:
    """Train for `steps` and for `training`: states, history, last weights and logits.

    Apart, as the fast path is handed several steps at once unless each is looked at: the second is
    production's own, looked at where such calls end.
    """
    execution = execution_of(question)
    num_steps = question.settings.get("steps", 0) if "steps" in question.asks else 0
    after = AfterEachStep(
        lambda module: ImplementationSubject(module, execution),
        num_steps,
        stops=True,
    )
    has_masks = question.settings.get("masks", False)

    if question.settings.get("captured", False):
        # As on a GPU: without one every step is eager, and all but the capture is the same.
        lightning_impl.train.captures = lambda recipe, execution: True
        lightning_impl.train.home_of_the_sets = lambda execution: torch.device("cpu")

    def run(recipe: Recipe, data: PreparedData, *callbacks: L.Callback) -> Any:
        start = start_of(question, recipe)
        with scratch_folder() as folder:
            journal = scratch_journal(recipe, data, folder)
            module = train(recipe, data, execution, journal, start, callbacks)
        return module, list(journal.record.history)

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
        module, history = run(longer, data, *masks, seams)
        arrays = tagged("trained", export_weights(module.network, longer))
        for step, weights in seams.weights.items():
            arrays |= tagged(f"seam.{step}", weights)
        arrays["trained_logits"] = predict_logits(module, data.test, longer, execution)
        arrays["validation_logits"] = predict_logits(module, data.validation, longer, execution)
        arrays["validation_classes"] = data.validation.labels
        modes = {stage: sorted(seen) for each in masks for stage, seen in each.modes.items()}
        return Answer({"history": history, "dropout_modes": modes}, arrays)

    return states_and(question, finish, after.states)


def answer_follow(question: Question, recipe: Recipe) -> Answer:
    """Train in a run folder of its own, looked at by a follower; go on where it was left.

    Of several ranks, rank 0 is looked at and writes.
    """
    data, execution = data_of(question, recipe), execution_of(question)
    journal, follower = followed_run(question, recipe, data)
    steps = len(training_batches(data.train, recipe))
    ranks = this_process()
    journal.writes = ranks.rank == 0
    callbacks: list[L.Callback] = [Follow(follower, recipe, steps)] if journal.writes else []
    if any(recipe.dropout_rates):
        callbacks.insert(0, InjectMasks(recipe))
    statement = {"same": {"question": question.identity}}
    joined = together(statement, accelerator(execution)) if ranks.size > 1 else nullcontext()
    with suppress(EnoughSeenError), joined:
        train(recipe, data, execution, journal, start_of(question, recipe), callbacks)
    return Answer({"steps": follower.rows, "history": list(journal.record.history)})


def _watched_predict(module: Classifier, watch: Watch) -> Any:
    step = module.predict_step

    def watched(batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        watch.note("predict", batch)
        return step(batch, batch_idx)

    return watched


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
    """Answer the file `question` with the file `trace`; return the exit code.

    Where it asks for several devices, as so many ranks, of which rank 0 writes the trace.
    """
    devices, ranks = read_question(question).settings.get("devices", 1), this_process()
    if devices > 1 and ranks.size == 1:
        return run_ranks(devices)
    with scratch_folder() as folder:
        own = trace if ranks.rank == 0 else Path(folder) / trace.name
        return answer_file("lightning", ANSWERERS, configure, question, own)


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*map(Path, sys.argv[1:])))
