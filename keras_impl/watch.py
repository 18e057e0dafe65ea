"""What a proof hangs into production training: noting batches, masks from NumPy, states."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_impl.fast import STEPS_PER_EXECUTION
from keras_impl.weights import export_training_state, export_weights, load_training_state
from ladder.following import Follower
from pipeline.fed import batch_row
from pipeline.masks import keep_mask, mask_factors
from pipeline.recipe import Recipe


class Watch(keras.callbacks.Callback):
    """Add to `fed` what each step of a model is given, by running the steps eagerly."""

    def __init__(self, fed: list[dict[str, Any]]) -> None:
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
            noted = "validation" if stage == "test" else stage
            self.fed.append(batch_row(noted, images, one_hot))
            return step(*arguments)

        return watched


class InjectMasks(keras.callbacks.Callback):
    """Replace the dropout layers' own draw by `keep_mask`, each with its own rate.

    The masks of one execution's steps are variables, which a compiled step reads like any others;
    a counter beside them says whose turn it is, so that steps can come several at once.
    """

    max_steps_per_execution = STEPS_PER_EXECUTION

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.masks: list[tuple[keras.layers.Dropout, keras.Variable, keras.Variable]] = []
        self.epoch = 0
        self.modes: dict[str, set[bool]] = {}
        """By stage, `train`, `validation` and `predict`: whether its layers were told to drop."""
        self.stage = ""

    def set_model(self, model: keras.Model) -> None:
        """Give each dropout layer its masks before `fit` compiles the step."""
        super().set_model(model)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                counted = inject_masks(
                    layer, self.recipe.batch_size, model.steps_per_execution, self._note
                )
                self.masks.append((layer, *counted))
        for stage, name in (("train", "train"), ("test", "validation"), ("predict", "predict")):
            step = f"{stage}_step"
            setattr(model, step, self._staged(name, getattr(model, step)))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Draw the masks of the steps that begin with `batch`."""
        if self.masks:
            synchronise(self.model)
        self.draw(self.epoch, batch)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Note that what follows is prediction, by `predict` or not."""
        self.stage = "predict"

    def draw(self, epoch: int, step: int) -> None:
        """Set each layer's masks to those of a step and the ones after it."""
        for index, (layer, masks, position) in enumerate(self.masks):
            num_steps, *shape = masks.shape
            keep = [
                keep_mask(self.recipe.seed, epoch, step + later, index, tuple(shape), layer.rate)
                for later in range(num_steps)
            ]
            masks.assign(np.stack(keep).astype("uint8"))
            position.assign(0)

    def _staged(self, stage: str, step: Any) -> Any:
        def staged(*arguments: Any) -> Any:
            self.stage = stage
            return step(*arguments)

        return staged

    def _note(self, training: bool) -> None:
        if self.stage:
            self.modes.setdefault(self.stage, set()).add(training)


def inject_masks(
    layer: keras.layers.Dropout, batch_size: int, num_steps: int, note: Callable[[bool], None]
) -> tuple[keras.Variable, keras.Variable]:
    """Let `layer` drop, in training, where the first returned variable is 0.

    It holds (num_steps, batch, …), of which each call takes the one that the second variable, a
    counter, names; calls after the last take that again. `note` is told each call's mode.
    """
    masks = _added(layer, "keep", (num_steps, batch_size, *layer.output.shape[1:]), "uint8")
    position = _added(layer, "position", (), "int32")

    def call(inputs: Any, training: bool = False) -> Any:
        note(bool(training))
        if not training:
            return inputs
        keep = keras.ops.take(masks, keras.ops.minimum(position, num_steps - 1), axis=0)
        position.assign(position + 1)
        keep = keras.ops.cast(keep[: keras.ops.shape(inputs)[0]], "bool")
        return keras.ops.where(keep, inputs / (1 - layer.rate), keras.ops.zeros_like(inputs))

    layer.call = call
    return masks, position


def _added(layer: keras.Layer, name: str, shape: tuple[int, ...], dtype: str) -> keras.Variable:
    """Return a new variable of a built layer, which would take none."""
    layer._tracker.unlock()
    variable = layer.add_weight(
        name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False
    )
    layer._tracker.lock()
    return variable


class NoteMasks(keras.callbacks.Callback):
    """Note two sums over each mask that the dropout layers draw by themselves, step by step.

    A layer is given ones beside its input and the input multiplied by what comes of them, so that
    zeros in the input say nothing of the mask.
    """

    max_steps_per_execution = STEPS_PER_EXECUTION

    def __init__(self, recipe: Recipe, num_steps: int) -> None:
        super().__init__()
        self.recipe, self.num_steps = recipe, num_steps
        self.sums: dict[str, keras.Variable] = {}

    def set_model(self, model: keras.Model) -> None:
        """Wrap the layers before `fit` compiles the step."""
        super().set_model(model)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                self.sums[layer.name] = self._noted(layer)

    def noted(self) -> dict[str, Any]:
        """Return the sums (steps, 2) by layer."""
        return {
            name: np.array(keras.ops.convert_to_numpy(sums)) for name, sums in self.sums.items()
        }

    def _noted(self, layer: keras.layers.Dropout) -> keras.Variable:
        sums = _added(layer, "sums", (self.num_steps, 2), "int32")
        position = _added(layer, "position", (), "int32")
        shape = (self.recipe.batch_size, *layer.output.shape[1:])
        factors = mask_factors(shape)
        draw = layer.call

        def call(inputs: Any, training: bool = False) -> Any:
            if not training:
                return draw(inputs, training=False)
            kept = draw(keras.ops.ones_like(inputs), training=True)
            is_kept = keras.ops.cast(kept != 0, "int32")
            own = keras.ops.convert_to_tensor(factors)[: keras.ops.shape(inputs)[0]]
            found = keras.ops.sum(is_kept[..., None] * own, axis=tuple(range(len(shape))))
            # JAX's functions take no variables of Keras's.
            at, so_far = (keras.ops.convert_to_tensor(each) for each in (position, sums))
            is_now = keras.ops.arange(self.num_steps, dtype="int32") == at
            sums.assign(keras.ops.where(is_now[:, None], found, so_far))
            position.assign(at + 1)
            return inputs * kept

        layer.call = call
        return sums


class AtSeams(keras.callbacks.Callback):
    """Keep the weights every `every` steps, where calls of several end, and at epochs' ends."""

    max_steps_per_execution = STEPS_PER_EXECUTION

    def __init__(self, every: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.every, self.steps_per_epoch = every, steps_per_epoch
        self.epoch = 0
        self.weights: dict[int, dict[str, Any]] = {}

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Keep the weights; the last execution of an epoch is counted as if it were whole."""
        step = min(batch + 1, self.steps_per_epoch)
        if step % self.every and step != self.steps_per_epoch:
            return
        synchronise(self.model)
        self.weights[self.epoch * self.steps_per_epoch + step] = export_weights(self.model)


class Follow(keras.callbacks.Callback):
    """Show a run's training state to a follower, and go on from what it answers."""

    def __init__(self, follower: Follower, recipe: Recipe, steps_per_epoch: int) -> None:
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
