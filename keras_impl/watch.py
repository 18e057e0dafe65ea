"""What a proof hangs into production training: noting batches, masks from NumPy, states."""

import math
from typing import Any

import keras

from keras_impl.fast import STEPS_PER_EXECUTION
from keras_impl.weights import export_training_state, load_training_state
from pipeline.answers import FedBatches
from pipeline.masks import keep_mask
from pipeline.recipe import Recipe
from portproof.following import Follower


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


class InjectMasks(keras.callbacks.Callback):
    """Replace the dropout layers' own draw by `keep_mask`, each with its own rate.

    The masks of a step are variables, which a compiled step reads like any others.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.masks: list[tuple[keras.layers.Dropout, keras.Variable]] = []
        self.epoch = 0

    def set_model(self, model: keras.Model) -> None:
        """Give each dropout layer its mask before `fit` compiles the step."""
        super().set_model(model)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                self.masks.append((layer, inject_mask(layer, self.recipe.batch_size)))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Draw the step's masks."""
        if self.masks:
            synchronise(self.model)
        self.draw(self.epoch, batch)

    def draw(self, epoch: int, step: int) -> None:
        """Set each layer's mask to that of a step."""
        for index, (layer, mask) in enumerate(self.masks):
            keep = keep_mask(self.recipe.seed, epoch, step, index, tuple(mask.shape), layer.rate)
            mask.assign(keep.astype("uint8"))


def inject_mask(layer: keras.layers.Dropout, batch_size: int) -> keras.Variable:
    """Let `layer` drop, in training, where the returned variable (batch, …) is 0."""
    layer._tracker.unlock()  # a built layer takes no further variables
    mask = layer.add_weight(
        name="keep",
        shape=(batch_size, *layer.output.shape[1:]),
        dtype="uint8",
        initializer="ones",
        trainable=False,
    )
    layer._tracker.lock()

    def call(inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        keep = keras.ops.cast(mask[: keras.ops.shape(inputs)[0]], "bool")
        return keras.ops.where(keep, inputs / (1 - layer.rate), keras.ops.zeros_like(inputs))

    layer.call = call
    return mask


class Follow(keras.callbacks.Callback):
    """Show a run's training state to a follower, and go on from what it answers."""

    def __init__(self, follower: Follower, steps_per_epoch: int) -> None:
        super().__init__()
        self.follower, self.steps_per_epoch = follower, steps_per_epoch
        # Every step at which it looks is the last of an execution.
        self.max_steps_per_execution = math.gcd(
            follower.every, steps_per_epoch, STEPS_PER_EXECUTION
        )
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the state where one is due."""
        step = self.epoch * self.steps_per_epoch + batch + 1
        if not self.follower.is_due(step):
            return
        synchronise(self.model)
        go_on_from = self.follower.look(step, export_training_state(self.model))
        if go_on_from is not None:
            load_training_state(self.model, go_on_from)


def synchronise(model: keras.Model) -> None:
    """Bring the model's variables up to date: during an epoch, JAX's trainer keeps them aside."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
