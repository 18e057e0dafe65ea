"""The tutorial's training as a loop in plain PyTorch, tuned as far as it goes.

A leaf program that is measured: the control for what a trainer costs on top of its framework. It
starts from the shared first weights and takes the shared order, and prints JSON.
"""

import math
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.raw import Clock, RawRun, finish, flags, read_run
from pipeline.batches import epoch_order


class Network:
    """The network as a function of its parameters, channels_last throughout."""

    def __init__(self, run: RawRun) -> None:
        recipe, weights = run.recipe, run.weights
        self.slope, self.pool = recipe.negative_slope, recipe.pool_size
        self.convolutions: list[tuple[Tensor, Tensor]] = []
        for block in range(1, len(recipe.conv_filters) + 1):
            kernel = torch.from_numpy(weights[f"conv{block}.kernel"]).permute(3, 2, 0, 1)
            self.convolutions.append(
                (
                    kernel.contiguous(memory_format=torch.channels_last).requires_grad_(),
                    torch.from_numpy(weights[f"conv{block}.bias"]).requires_grad_(),
                )
            )
        self.dense = [
            (
                torch.from_numpy(weights[f"{name}.kernel"]).T.contiguous().requires_grad_(),
                torch.from_numpy(weights[f"{name}.bias"]).requires_grad_(),
            )
            for name in ("hidden", "logits")
        ]

    def parameters(self) -> list[Tensor]:
        """Return every parameter."""
        return [tensor for pair in (*self.convolutions, *self.dense) for tensor in pair]

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, 1, H, W)."""
        for kernel, bias in self.convolutions:
            images = functional.conv2d(images, kernel, bias, padding="same")
            images = functional.max_pool2d(images, self.pool, ceil_mode=True)
            images = functional.leaky_relu(images, self.slope)
        # Flattened in H, W, C order, in which a channels_last map lies in memory.
        hidden = functional.linear(images.permute(0, 2, 3, 1).flatten(1), *self.dense[0])
        return functional.linear(functional.leaky_relu(hidden, self.slope), *self.dense[1])


class Loop:
    """The network, its optimizer and the three sets."""

    def __init__(self, run: RawRun) -> None:
        recipe = self.recipe = run.recipe
        self.network = Network(run)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=recipe.learning_rate,
            betas=(recipe.beta_1, recipe.beta_2),
            eps=recipe.epsilon,
            fused=True,
        )
        self.steps = 0
        self.sets = [
            (torch.from_numpy(part.images).permute(0, 3, 1, 2), torch.from_numpy(part.labels))
            for part in (run.data.train, run.data.validation, run.data.test)
        ]

    def measures(self, part: int, chosen: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the mean loss of chosen images and the number that are classified correctly."""
        images, labels = (values[chosen] for values in self.sets[part])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits = self.network(images.float().div_(255))
        logits = logits.float()
        hits = (logits.detach().argmax(1) == labels).sum()
        return functional.cross_entropy(logits, labels), hits

    def step(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step; return the sum of the losses and the number correct before it."""
        loss, hits = self.measures(0, chosen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.steps += 1
        # With this in torch's place, inside the bias correction, ε is Keras's outside it.
        correction = math.sqrt(1 - self.recipe.beta_2**self.steps)
        self.optimizer.param_groups[0]["eps"] = self.recipe.epsilon / correction
        self.optimizer.step()
        return loss.detach() * len(chosen), hits

    def evaluate(self, part: int) -> tuple[float, float]:
        """Return the mean loss and the accuracy on a set."""
        loss, hits, size = torch.zeros(()), torch.zeros(()), self.recipe.batch_size
        count = len(self.sets[part][1])
        with torch.inference_mode():
            for start in range(0, count, size):
                chosen = slice(start, min(start + size, count))
                mean, correct = self.measures(part, chosen)
                loss += mean * (chosen.stop - start)
                hits += correct
        return float(loss) / count, float(hits) / count


def main() -> int:
    """Train, and print what was measured."""
    arguments = flags(__doc__).parse_args()
    clock = Clock()
    run = read_run(arguments)
    recipe = run.recipe
    loop = Loop(run)
    clock.built()
    for epoch in range(recipe.num_epochs):
        began = time.perf_counter()
        order = torch.from_numpy(epoch_order(len(run.data.train), recipe.seed, epoch))
        loss, hits = torch.zeros(()), torch.zeros(())
        for chosen in order.split(recipe.batch_size):
            seen = loop.step(chosen)
            clock.stepped()
            loss, hits = loss + seen[0], hits + seen[1]
        val_loss, val_accuracy = loop.evaluate(1)
        clock.epoch(
            began,
            loss=float(loss) / len(order),
            accuracy=float(hits) / len(order),
            val_loss=val_loss,
            val_accuracy=val_accuracy,
        )
    return finish(clock, *loop.evaluate(2))


if __name__ == "__main__":
    sys.exit(main())
