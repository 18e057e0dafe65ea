"""The tutorial's training as a loop in plain JAX, tuned as far as it goes.

A program that is measured: the control for what `fit` costs on top of JAX. It starts from the
shared first weights and takes the shared order, and prints JSON.

On an accelerator an epoch is one compiled scan over its steps. On a CPU each step is a call: inside
a loop XLA computes convolutions by another, slower way (35 s against 6 for 4,000 images).
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax import lax

from benchmark.raw import Clock, RawRun, finish, flags, read_run
from pipeline.batches import epoch_order
from pipeline.recipe import Recipe

Weights = dict[str, jax.Array]
State = tuple[Weights, Weights, Weights, jax.Array]
Step = Callable[[Any, Any], tuple[Any, Any]]


def activate(values: jax.Array, slope: float) -> jax.Array:
    """Return LeakyReLU's values, its gradient at zero as torch and TensorFlow have it."""
    return jnp.where(values > 0, values, slope * values)


def network(weights: Weights, images: jax.Array, recipe: Recipe) -> jax.Array:
    """Return logits (B, classes) of images (B, H, W, 1)."""
    values, window = images, (1, recipe.pool_size, recipe.pool_size, 1)
    for block in range(1, len(recipe.conv_filters) + 1):
        values = lax.conv_general_dilated(
            values,
            weights[f"conv{block}.kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        values = values + weights[f"conv{block}.bias"]
        values = lax.reduce_window(values, -jnp.inf, lax.max, window, window, "SAME")
        values = activate(values, recipe.negative_slope)
    hidden = values.reshape(len(values), -1) @ weights["hidden.kernel"] + weights["hidden.bias"]
    hidden = activate(hidden, recipe.negative_slope)
    return hidden @ weights["logits.kernel"] + weights["logits.bias"]


def steps_of(run: RawRun) -> tuple[Step, Step]:
    """Return a training step of (state, positions) and an evaluation of (weights, batch)."""
    recipe = run.recipe
    train_images, train_labels = (
        jnp.asarray(run.data.train.images),
        jnp.asarray(run.data.train.labels),
    )

    def measures(weights: Weights, batch: Any) -> tuple[jax.Array, jax.Array]:
        images, labels = batch
        logits = network(weights, images.astype(jnp.float32) / 255, recipe)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -chosen.sum(), (logits.argmax(axis=1) == labels).sum()

    def mean_loss(weights: Weights, batch: Any) -> tuple[jax.Array, Any]:
        total, hits = measures(weights, batch)
        return total / len(batch[1]), (total, hits)

    def train_step(state: State, chosen: jax.Array) -> tuple[State, Any]:
        weights, m, v, count = state
        batch = train_images[chosen], train_labels[chosen]
        gradients, seen = jax.grad(mean_loss, has_aux=True)(weights, batch)
        count = count + 1
        b1, b2 = recipe.beta_1, recipe.beta_2
        m = jax.tree.map(lambda a, g: b1 * a + (1 - b1) * g, m, gradients)
        v = jax.tree.map(lambda a, g: b2 * a + (1 - b2) * g * g, v, gradients)
        rate = recipe.learning_rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        weights = jax.tree.map(
            lambda w, a, b: w - rate * a / (jnp.sqrt(b) + recipe.epsilon), weights, m, v
        )
        return (weights, m, v, count), seen

    return train_step, lambda weights, batch: (weights, measures(weights, batch))


class Runner:
    """Carries a step out over batches of equal size and a last one, and adds up what it sees."""

    def __init__(self, step: Step, clock: Clock) -> None:
        self.clock = clock
        self.scans = jax.default_backend() != "cpu"
        self.one = jax.jit(step)
        self.many = jax.jit(lambda state, batches: lax.scan(step, state, batches))

    def __call__(self, state: Any, items: Any, size: int) -> tuple[Any, float, float]:
        """Return the state after `items`, and the sums of loss and of correct predictions.

        An epoch's first batch is always a call of its own, so that there is a first step to time.
        """
        count = len(jax.tree.leaves(items)[0])
        seen, start = [], 0
        while start < count:
            if self.scans and start and count - start >= size:
                end = start + (count - start) // size * size
                shaped = jax.tree.map(
                    lambda a, at=start, to=end: a[at:to].reshape(-1, size, *a.shape[1:]), items
                )
                state, sums = self.many(state, shaped)
                seen.append(jax.tree.map(lambda values: values.sum(axis=0), sums))
            else:
                end = start + size
                batch = jax.tree.map(lambda a, at=start, to=end: a[at:to], items)
                state, sums = self.one(state, batch)
                seen.append(sums)
            if "first_step_seconds" not in self.clock.measured:
                jax.block_until_ready(sums)
                self.clock.stepped()
            start = end
        total, hits = (float(sum(values)) for values in zip(*seen, strict=True))
        return state, total / count, hits / count


def main() -> int:
    """Train, and print what was measured."""
    arguments = flags(__doc__).parse_args()
    if arguments.precision == "bf16":
        sys.exit("this loop is written for float32")
    product = "tensorfloat32" if arguments.precision == "tf32" else "highest"
    jax.config.update("jax_default_matmul_precision", product)
    clock = Clock()
    run = read_run(arguments)
    recipe, size = run.recipe, run.recipe.batch_size
    train, evaluate = (Runner(step, clock) for step in steps_of(run))
    weights = {name: jnp.asarray(value) for name, value in run.weights.items()}
    zeros = [jax.tree.map(jnp.zeros_like, weights) for _ in range(2)]
    state: State = (weights, zeros[0], zeros[1], jnp.zeros(()))
    validation, test = (
        (jnp.asarray(part.images), jnp.asarray(part.labels))
        for part in (run.data.validation, run.data.test)
    )
    clock.built()
    for epoch in range(recipe.num_epochs):
        began = time.perf_counter()
        order = jnp.asarray(epoch_order(len(run.data.train), recipe.seed, epoch))
        state, loss, accuracy = train(state, order, size)
        _, val_loss, val_accuracy = evaluate(state[0], validation, size)
        clock.epoch(
            began, loss=loss, accuracy=accuracy, val_loss=val_loss, val_accuracy=val_accuracy
        )
    _, test_loss, test_accuracy = evaluate(state[0], test, size)
    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    libraries = {
        "jaxlib": jaxlib.__version__,
        "platform": jax.devices()[0].client.platform_version,
    }
    return finish(clock, test_loss, test_accuracy, device=device, libraries=libraries)


if __name__ == "__main__":
    sys.exit(main())
