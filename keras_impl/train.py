"""Training and prediction with Keras: compile, fit, callbacks."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_impl.data import batch_source
from keras_impl.fast import on_gpu, steps_per_execution
from keras_impl.model import build_model, layers_of
from keras_impl.settings import configure
from keras_impl.weights import (
    export_training_state,
    export_weights,
    load_weights,
)
from ladder.arrays import digest, write_arrays
from ladder.files import PART, put_in_place
from pipeline.batches import Batches, dropout_seed, evaluation_batches, training_batches
from pipeline.errors import RunError
from pipeline.execution import Execution
from pipeline.journal import Journal
from pipeline.preprocess import LabeledImages, PreparedData
from pipeline.processes import this_process
from pipeline.recipe import Recipe

__all__ = ["configure", "predict_logits", "train"]

Array = np.ndarray[Any, Any]
STATE = "training-state.safetensors"
SEAL = "epochs, sha256"
"""One entry: safetensors writes several in an order that changes from process to process."""


def compile_model(model: keras.Model, recipe: Recipe) -> None:
    """Attach the loss, the metric and the optimizer.

    On TensorFlow, "auto" would turn XLA on wherever there is a GPU: another arithmetic than on a
    CPU, where it is slower.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(
            learning_rate=recipe.learning_rate,
            beta_1=recipe.beta_1,
            beta_2=recipe.beta_2,
            epsilon=recipe.epsilon,
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )


def train(
    recipe: Recipe,
    data: PreparedData,
    execution: Execution,
    journal: Journal,
    weights: dict[str, Array] | None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Train, from the journal's last whole epoch on, and return the model.

    `weights` are the canonical first weights; None keeps Keras's own. `callbacks` see each step,
    or, where steps come several at once, no more than their `max_steps_per_execution`.
    """
    if execution.devices == 1:
        model, first_epoch = _built(recipe, weights, journal)
    else:
        from keras_impl.devices import model_scope, share_steps

        with model_scope(execution.devices):
            model, first_epoch = _built(recipe, weights, journal)
        share_steps(model)
    training = training_batches(data.train, recipe)
    validation = evaluation_batches(data.validation, recipe)
    model.steps_per_execution = min(steps_per_execution(execution, callbacks), len(training))
    with nullcontext() if execution.plain else _faster(model):
        model.fit(
            batch_source(training, execution.plain, execution.devices),
            validation_data=batch_source(validation, execution.plain, execution.devices),
            initial_epoch=first_epoch,
            epochs=recipe.num_epochs,
            shuffle=False,  # the order is in the batches; the default shuffles whole batches
            verbose=1 if execution.show_progress and journal.writes else 0,
            callbacks=[
                EpochStart(recipe, training),
                *_best_checkpoint(journal),
                JournalCallback(journal, len(training), waits=execution.plain or not on_gpu()),
                *_logs(journal),
                *_heartbeat(),
                *callbacks,
            ],
        )
    # `predict` would unroll as many networks; the functions made with it go too.
    model.steps_per_execution = 1
    model.train_function = model.test_function = None
    return model


def _built(
    recipe: Recipe, weights: dict[str, Array] | None, journal: Journal
) -> tuple[keras.Sequential, int]:
    """Return the compiled model with its weights, and how many epochs these have seen."""
    model = build_model(recipe)
    compile_model(model, recipe)
    if weights is not None:
        load_weights(model, weights, recipe)
    return model, _restore(model, journal)


def _faster(model: keras.Sequential) -> AbstractContextManager[None]:
    """Let `fit` take the steps of `model` by the fast path of its backend."""
    if keras.backend.backend() == "jax" and model.steps_per_execution > 1:
        from keras_impl.jax_backend import scan_steps

        scan_steps(model)
    if keras.backend.backend() == "torch":
        from keras_impl.torch_backend import pools_first

        return pools_first(model)
    return nullcontext()


def _heartbeat() -> list[keras.callbacks.Callback]:
    """Return the callback that notes batches, where several processes train together."""
    if this_process().size == 1:
        return []
    from keras_impl.processes import Heartbeat

    return [Heartbeat()]


def predict_logits(
    model: keras.Model, images: LabeledImages, recipe: Recipe, execution: Execution
) -> Array:
    """Return the logits (N, classes) of `images`, dropout off."""
    batches = batch_source(evaluation_batches(images, recipe), execution.plain, execution.devices)
    logits = model.predict(batches, verbose=0, callbacks=_heartbeat())
    # Mixed precision predicts in bfloat16, which NumPy can't store.
    return np.asarray(logits, np.float64 if recipe.precision == "64" else np.float32)


class EpochStart(keras.callbacks.Callback):
    """Take each epoch's sample order and dropout from (seed, epoch)."""

    def __init__(self, recipe: Recipe, training: Batches) -> None:
        super().__init__()
        self.recipe, self.training = recipe, training

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Order the batches and seed each dropout layer's generator."""
        self.training.set_epoch(epoch)
        layers = [layer for layer in self.model.layers if isinstance(layer, keras.layers.Dropout)]
        for index, layer in enumerate(layers):
            # The second word counts the steps, so only the first can tell the layers apart.
            seed = dropout_seed(self.recipe.seed, epoch, index=index)
            layer.seed_generator.state.assign([seed, 0])


class JournalCallback(keras.callbacks.Callback):
    """Tell the journal of each step and epoch, then save what `--resume` goes on from.

    Unless it `waits` for each loss, JAX and torch go on meanwhile: Keras then makes numbers of the
    losses in threads, which come in any order, and raises what they raise some steps later.
    """

    def __init__(self, journal: Journal, steps_per_epoch: int, waits: bool = True) -> None:
        super().__init__()
        self.journal, self.steps_per_epoch = journal, steps_per_epoch
        self.async_safe = not waits
        self.lock = threading.Lock()
        self.epoch = self.steps_told = 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Note that everything is built."""
        self.journal.begin_training(layers_of(self.model))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the epoch's clock."""
        self.epoch, self.steps_told = epoch, 0
        self.journal.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Hand on the loss after a step, or after the last of several in one execution.

        Keras's is the epoch's running mean, NaN from the first NaN on.
        """
        assert logs is not None
        # The last execution of an epoch is counted as if it were whole.
        step = min(batch, self.steps_per_epoch - 1)
        with self.lock:
            if step >= self.steps_told:  # else a later one, whose mean holds this, came first
                self.steps_told = step + 1
                self.journal.end_step(self.epoch, step, float(logs["loss"]))

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Start the clock of the epoch's validation, once the training steps are done."""
        if self.async_safe:
            keras.ops.convert_to_numpy(self.model.optimizer.iterations)
        self.journal.begin_validation()

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Stop it: Keras has made numbers of the metrics by now, so the device is done."""
        self.journal.end_validation()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Hand on the epoch's metrics and weights, then save the state.

        The state comes last of all that must not be lost: what a killed process had written before
        it, `--resume` writes again.
        """
        assert logs is not None
        self.journal.end_epoch(epoch, logs, export_weights(self.model))
        if self.journal.writes:
            path = _checkpoint_dir(self.journal.run_dir) / STATE
            save_training_state(self.model, path, epoch + 1)


@contextmanager
def undistributed() -> Iterator[None]:
    """Let Keras make variables in this process alone; to write a model it makes an optimizer.

    On several processes JAX compares a new variable with the others', which don't make it.
    """
    from keras import distribution

    layouts = distribution.distribution()
    distribution.set_distribution(None)
    try:
        yield
    finally:
        distribution.set_distribution(layouts)


class WholeCheckpoint(keras.callbacks.ModelCheckpoint):
    """Save the best model, whole or not at all: beside `path` first, then renamed."""

    async_safe = True  # it does nothing after a batch

    def __init__(self, path: Path, **options: Any) -> None:
        self.path, self.written = path, path.with_name(f".{path.stem}{PART}{path.suffix}")
        literal = str(self.written).replace("{", "{{").replace("}", "}}")  # it is formatted
        super().__init__(literal, **options)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save the model if it is the best so far."""
        self.path.parent.stat()  # Keras would make a folder anew that has gone away
        try:
            with undistributed():
                super().on_epoch_end(epoch, logs)
            if self.written.exists():
                put_in_place(self.written, self.path)
        except BaseException:
            self.written.unlink(missing_ok=True)
            raise


def _restore(model: keras.Model, journal: Journal) -> int:
    """Load the saved training state, if there is one, and return how many epochs it has seen.

    The record is written before the state, so it holds a row for each of these epochs.
    """
    path = _checkpoint_dir(journal.run_dir) / STATE
    epochs = 0
    if path.exists():
        from keras_impl.checkpoint import restore_training_state

        try:
            epochs = restore_training_state(model, path)
        except ValueError as error:
            raise RunError(f"cannot go on from {path}: {error}") from error
    journal.resume_at(epochs)
    return epochs


def save_training_state(model: keras.Model, path: Path, num_epochs: int) -> None:
    """Save what `restore_training_state` loads, with a checksum, which safetensors has none of."""
    state, epochs = export_training_state(model), str(num_epochs)
    write_arrays(path, state, {SEAL: f"{epochs}, {digest(state, epochs)}"})


def _best_checkpoint(journal: Journal) -> list[keras.callbacks.Callback]:
    if not journal.writes:
        return []
    return [
        WholeCheckpoint(
            _checkpoint_dir(journal.run_dir) / "best.keras",
            monitor="val_loss",
            mode="min",
            save_best_only=True,
            initial_value_threshold=journal.best_val_loss,
        )
    ]


def _logs(journal: Journal) -> list[keras.callbacks.Callback]:
    if not journal.writes:
        return []
    folder = journal.run_dir / "logs"
    folder.mkdir(exist_ok=True)
    callbacks: list[keras.callbacks.Callback] = [
        keras.callbacks.CSVLogger(folder / f"from-epoch-{journal.epochs_done + 1}.csv")
    ]
    if journal.trackers:
        from keras_impl.tracking import TrackingCallback

        callbacks.append(TrackingCallback(journal.trackers))
    return callbacks


def _checkpoint_dir(run_dir: Path) -> Path:
    folder = run_dir / "checkpoints"
    folder.mkdir(exist_ok=True)
    return folder
