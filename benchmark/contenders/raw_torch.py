"""The tutorial's training as a loop in plain PyTorch, tuned as far as it goes.

A program that is measured: the control for what a trainer costs on top of its framework. It
starts from the shared first weights and takes the shared order, and prints JSON. On an NVIDIA GPU
the sets lie in its memory, and steps are replayed from a CUDA graph.
"""

import math
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmark.raw import Clock, RawRun, finish, flags, read_run
from pipeline.batches import epoch_order


class Network:
    """The network as a function of its parameters, channels_last throughout."""

    def __init__(self, run: RawRun, device: torch.device) -> None:
        recipe = run.recipe
        weights = {k: torch.from_numpy(value).to(device) for k, value in run.weights.items()}
        self.slope, self.pool = recipe.negative_slope, recipe.pool_size
        self.convolutions: list[tuple[Tensor, Tensor]] = []
        for block in range(1, len(recipe.conv_filters) + 1):
            kernel = weights[f"conv{block}.kernel"].permute(3, 2, 0, 1)
            self.convolutions.append(
                (
                    kernel.contiguous(memory_format=torch.channels_last).requires_grad_(),
                    weights[f"conv{block}.bias"].requires_grad_(),
                )
            )
        self.dense = [
            (
                weights[f"{name}.kernel"].T.contiguous().requires_grad_(),
                weights[f"{name}.bias"].requires_grad_(),
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

    def __init__(self, run: RawRun, device: torch.device) -> None:
        recipe = self.recipe = run.recipe
        self.device = device
        self.network = Network(run, device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=recipe.learning_rate,
            betas=(recipe.beta_1, recipe.beta_2),
            eps=recipe.epsilon,
            fused=True,
        )
        self.steps = 0
        self.sets = [
            (
                torch.from_numpy(part.images).to(device).permute(0, 3, 1, 2),
                torch.from_numpy(part.labels).to(device),
            )
            for part in (run.data.train, run.data.validation, run.data.test)
        ]

    def measures(self, part: int, chosen: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the mean loss of chosen images and the number that are classified correctly."""
        images, labels = (values[chosen] for values in self.sets[part])
        with torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.recipe.precision == "bf16",
            cache_enabled=self.device.type == "cpu",  # a graph would hold what is cached
        ):
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

    def train(self, order: Tensor, stepped: Callable[[], None]) -> tuple[float, float]:
        """Take the steps of `order`; return the mean loss and the accuracy before each."""
        loss, hits = torch.zeros(()), torch.zeros(())
        for chosen in order.split(self.recipe.batch_size):
            seen = self.step(chosen)
            stepped()
            loss, hits = loss + seen[0], hits + seen[1]
        return float(loss) / len(order), float(hits) / len(order)

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


class GraphLoop(Loop):
    """The same on a GPU: each full batch is one replay, and the host waits twice an epoch.

    A graph holds addresses and Python numbers. So a step finds its images by a counter on the
    device, and Adam's kernel is given a rate from there; a count of steps at which the kernel's own
    bias corrections are 1 makes what it computes Keras's formula.
    """

    def __init__(self, run: RawRun, device: torch.device) -> None:
        super().__init__(run, device)
        count, size = len(run.data.train), self.recipe.batch_size
        self.weights = self.network.parameters()
        self.m, self.v = ([torch.zeros_like(weight) for weight in self.weights] for _ in range(2))
        self.settled = [torch.full((), 2.0**100, device=device)] * len(self.weights)
        self.order = torch.zeros(count, dtype=torch.int64, device=device)
        self.rates = torch.zeros(-(-count // size), device=device)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.first = torch.arange(size, device=device)
        self.totals = torch.zeros(2, device=device)
        self.replays: dict[int | str, Callable[[], None]] = {}

    def train(self, order: Tensor, stepped: Callable[[], None]) -> tuple[float, float]:
        """Take the steps of `order`; return the mean loss and the accuracy before each."""
        recipe, size = self.recipe, self.recipe.batch_size
        steps = self.steps + np.arange(1, len(self.rates) + 1)
        correction = np.sqrt(1 - recipe.beta_2**steps) / (1 - recipe.beta_1**steps)
        self.steps += len(steps)
        self.order.copy_(order)
        self.rates.copy_(torch.from_numpy(recipe.learning_rate * correction))
        self.run("train", len(order) // size, self.step_of_graph, stepped)
        if len(order) % size:
            self.take(self.order[len(order) // size * size :], self.rates[-1])
        loss, hits = self.totals.tolist()
        return loss / len(order), hits / len(order)

    @torch.no_grad()
    def evaluate(self, part: int) -> tuple[float, float]:
        """Return the mean loss and the accuracy on a set."""
        count, size = len(self.sets[part][1]), self.recipe.batch_size
        self.run(part, count // size, lambda: self.look(part, self.at * size + self.first))
        if count % size:
            self.look(part, torch.arange(count // size * size, count, device=self.device))
        loss, hits = self.totals.tolist()
        return loss / count, hits / count

    def run(
        self,
        name: int | str,
        times: int,
        work: Callable[[], object],
        stepped: Callable[[], None] = lambda: None,
    ) -> None:
        """Do `work` for each place of the counter, from zeroed totals."""
        self.at.zero_()
        self.totals.zero_()
        for place in range(times):
            if name not in self.replays:
                self.replays[name] = self.replay_of(work)
            self.replays[name]()
            if place == 0:
                torch.cuda.synchronize()
            stepped()

    def replay_of(self, work: Callable[[], object]) -> Callable[[], None]:
        """Wrap `work` and the counter's move in a CUDA graph, captured after three eager calls."""
        graph, stream, calls = torch.cuda.CUDAGraph(), torch.cuda.Stream(), 0

        def work_and_move() -> None:
            work()
            self.at.add_(1)

        def call() -> None:
            nonlocal calls
            calls += 1
            if calls <= 3:
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    work_and_move()
                torch.cuda.current_stream().wait_stream(stream)
                return
            if calls == 4:
                with torch.cuda.graph(graph, stream=stream):
                    work_and_move()
            graph.replay()

        return call

    def step_of_graph(self) -> None:
        """Take the step that the counter is at."""
        chosen = self.order[self.at * self.recipe.batch_size + self.first]
        self.take(chosen, self.rates.index_select(0, self.at)[0])

    def take(self, chosen: Tensor, rate: Tensor) -> None:
        """Take a step on chosen images at a rate."""
        gradients = torch.autograd.grad(self.look(0, chosen), self.weights)
        torch._fused_adam_(
            self.weights,
            gradients,
            self.m,
            self.v,
            [],
            self.settled,
            lr=rate,
            beta1=self.recipe.beta_1,
            beta2=self.recipe.beta_2,
            weight_decay=0.0,
            eps=self.recipe.epsilon,
            amsgrad=False,
            maximize=False,
        )

    def look(self, part: int, chosen: Tensor) -> Tensor:
        """Return the mean loss of chosen images, and add loss and hits to the totals."""
        loss, hits = self.measures(part, chosen)
        self.totals.add_(torch.stack([loss.detach() * len(chosen), hits]))
        return loss


class EpochEvents:
    """CUDA events around each epoch: what the GPU's own clock says of it."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.pairs: list[list[torch.cuda.Event]] = []

    def begin(self) -> None:
        """Note an epoch's begin in the stream."""
        if self.on_gpu:
            self.pairs.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
            self.pairs[-1][0].record()

    def end(self) -> None:
        """Note its end."""
        if self.on_gpu:
            self.pairs[-1][1].record()

    def measured(self) -> dict[str, list[float]]:
        """Return `epoch_device_seconds`, empty on a CPU."""
        if not self.on_gpu:
            return {}
        torch.cuda.synchronize()
        seconds = [first.elapsed_time(last) / 1000 for first, last in self.pairs]
        return {"epoch_device_seconds": seconds}


def main() -> int:
    """Train, and print what was measured."""
    arguments = flags(__doc__).parse_args()
    clock = Clock()
    run = read_run(arguments)
    recipe = run.recipe
    on_gpu = arguments.device == "gpu"
    torch.backends.cuda.matmul.allow_tf32 = arguments.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = arguments.precision == "tf32"
    device = torch.device("cuda" if on_gpu else "cpu")
    loop = (GraphLoop if on_gpu else Loop)(run, device)
    clock.built()
    events = EpochEvents(on_gpu)
    for epoch in range(recipe.num_epochs):
        began = time.perf_counter()
        events.begin()
        order = torch.from_numpy(epoch_order(len(run.data.train), recipe.seed, epoch))
        loss, accuracy = loop.train(order, clock.stepped)
        val_loss, val_accuracy = loop.evaluate(1)
        events.end()
        clock.epoch(
            began, loss=loss, accuracy=accuracy, val_loss=val_loss, val_accuracy=val_accuracy
        )
    clock.measured |= events.measured()
    libraries = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    tested = loop.evaluate(2)
    return finish(clock, *tested, device="gpu" if on_gpu else "cpu", libraries=libraries)


if __name__ == "__main__":
    sys.exit(main())
