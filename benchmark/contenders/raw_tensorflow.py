"""The tutorial's training as a loop in plain TensorFlow, tuned as far as it goes.

A program that is measured: the control for what `fit` costs on top of TensorFlow. It starts
from the shared first weights and takes the shared order, and prints JSON.
"""

import sys
import time

import tensorflow as tf

from benchmark.raw import Clock, RawRun, finish, flags, read_run
from pipeline.batches import epoch_order


class Loop:
    """The network, its optimizer and the three sets; an epoch is one call of a graph."""

    def __init__(self, run: RawRun) -> None:
        self.recipe = run.recipe
        self.weights = {name: tf.Variable(value) for name, value in run.weights.items()}
        self.m, self.v = (
            {name: tf.Variable(tf.zeros_like(value)) for name, value in self.weights.items()}
            for _ in range(2)
        )
        self.steps = tf.Variable(0.0)
        # TensorFlow has no kernel that gathers bytes on a GPU: it would go to the host for them.
        images_dtype = tf.float32 if tf.config.list_logical_devices("GPU") else tf.uint8
        self.sets = [
            (tf.constant(part.images, images_dtype), tf.constant(part.labels))
            for part in (run.data.train, run.data.validation, run.data.test)
        ]

    def network(self, images: tf.Tensor) -> tf.Tensor:
        """Return logits (B, classes) of images (B, H, W, 1)."""
        recipe, weights, values = self.recipe, self.weights, images
        for block in range(1, len(recipe.conv_filters) + 1):
            values = tf.nn.conv2d(values, weights[f"conv{block}.kernel"], 1, "SAME")
            values = tf.nn.bias_add(values, weights[f"conv{block}.bias"])
            # Before the pool, TensorFlow fuses it with the convolution.
            values = tf.nn.leaky_relu(values, recipe.negative_slope)
            values = tf.nn.max_pool2d(values, recipe.pool_size, recipe.pool_size, "SAME")
        values = tf.reshape(values, (tf.shape(values)[0], -1))
        hidden = values @ weights["hidden.kernel"] + weights["hidden.bias"]
        hidden = tf.nn.leaky_relu(hidden, recipe.negative_slope)
        return hidden @ weights["logits.kernel"] + weights["logits.bias"]

    def measures(self, part: int, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return each chosen image's loss and the number that are classified correctly."""
        images, labels = (tf.gather(values, chosen) for values in self.sets[part])
        logits = self.network(tf.cast(images, tf.float32) / 255.0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return losses, tf.reduce_sum(tf.cast(tf.argmax(logits, 1) == labels, tf.float32))

    def step(self, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Take a step; return the sum of the losses and the number correct before it."""
        recipe = self.recipe
        with tf.GradientTape() as tape:
            losses, hits = self.measures(0, chosen)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.weights)
        self.steps.assign_add(1.0)
        for name, weight in self.weights.items():
            # Its ε stands outside the bias correction, as Keras's.
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=self.m[name].handle,
                v=self.v[name].handle,
                beta1_power=recipe.beta_1**self.steps,
                beta2_power=recipe.beta_2**self.steps,
                lr=recipe.learning_rate,
                beta1=recipe.beta_1,
                beta2=recipe.beta_2,
                epsilon=recipe.epsilon,
                grad=gradients[name],
            )
        return tf.reduce_sum(losses), hits

    @tf.function(reduce_retracing=True)
    def train(self, order: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Take the steps of `order`; return the sums of loss and of correct predictions."""
        loss, hits, size = tf.constant(0.0), tf.constant(0.0), self.recipe.batch_size
        for start in tf.range(0, tf.size(order), size):
            seen = self.step(order[start : start + size])
            loss, hits = loss + seen[0], hits + seen[1]
        return loss, hits

    @tf.function
    def evaluate(self, part: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the mean loss and the accuracy on a set."""
        loss, hits, size = tf.constant(0.0), tf.constant(0.0), self.recipe.batch_size
        count = len(self.sets[part][1])
        for start in tf.range(0, count, size):
            losses, correct = self.measures(part, tf.range(start, tf.minimum(start + size, count)))
            loss, hits = loss + tf.reduce_sum(losses), hits + correct
        return loss / count, hits / count


def main() -> int:
    """Train, and print what was measured."""
    arguments = flags(__doc__).parse_args()
    if arguments.precision == "bf16":
        sys.exit("this loop is written for float32")
    tf.config.experimental.enable_tensor_float_32_execution(arguments.precision == "tf32")
    if arguments.device == "gpu" and not tf.config.list_physical_devices("GPU"):
        sys.exit("TensorFlow sees no GPU")
    clock = Clock()
    run = read_run(arguments)
    recipe, size = run.recipe, run.recipe.batch_size
    loop = Loop(run)
    clock.built()
    for epoch in range(recipe.num_epochs):
        began = time.perf_counter()
        order = tf.constant(epoch_order(len(run.data.train), recipe.seed, epoch))
        first = size if epoch == 0 else 0
        seen = [loop.train(part) for part in (order[:first], order[first:]) if len(part)]
        clock.stepped()
        loss, hits = (float(sum(values)) / len(order) for values in zip(*seen, strict=True))
        val_loss, val_accuracy = map(float, loop.evaluate(1))
        clock.epoch(began, loss=loss, accuracy=hits, val_loss=val_loss, val_accuracy=val_accuracy)
    tested = map(float, loop.evaluate(2))
    device = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
    build = tf.sysconfig.get_build_info()
    libraries = {name: build.get(f"{name}_version") for name in ("cuda", "cudnn")}
    return finish(clock, *tested, device=device, libraries=libraries)


if __name__ == "__main__":
    sys.exit(main())
