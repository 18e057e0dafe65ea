"""The second pair in Lightning: strided convolutions, BatchNorm, average pooling, AdamW.

A program, written as a user writes it who wants what `strided_keras.py` computes.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

NUM_CLASSES = 10


def single(value: float) -> float:
    """Return the float32 nearest to `value`, which is what Keras computes with."""
    return float(np.float32(value))


PEAK_RATE = single(2e-3)
DECAY_STEPS = 8
FLOOR = single(0.1)
BETA_1, BETA_2 = single(0.9), single(0.999)
EPSILON = 1e-7
WEIGHT_DECAY = single(0.05)
MAX_NORM = single(1.0)


def build() -> tuple[L.LightningModule, dict[str, Any]]:
    """Return the module, images (N, 3, 16, 16) in [0, 1] to logits (N, 10), and Trainer options."""
    return Strided(), {"gradient_clip_val": MAX_NORM}


def build_network() -> nn.Sequential:
    """Return the network: 16×16 to 8×8 to 4×4 by strides, to 2×2 by pooling; 4,938 trained."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=SameConv2d(3, 16, 3, stride=2, bias=False),
        # `momentum` is what is added, Keras's is what is kept; torch's own ε is 1e-5.
        norm1=BiasedBatchNorm2d(16, momentum=1 - 0.99, eps=1e-3),
        act1=nn.ReLU(),
        conv2=SameConv2d(16, 24, 3, stride=2, bias=False),
        norm2=BiasedBatchNorm2d(24, momentum=1 - 0.99, eps=1e-3),
        act2=nn.ReLU(),
        # Keras's padding="same" of 4×4 by 3: one pixel on each side. Keras divides a window by the
        # pixels in it, torch by 9 unless told.
        pool=nn.AvgPool2d(3, padding=1, count_include_pad=False),
        flatten=nn.Flatten(),  # in C, H, W order, where Keras has H, W, C
        logits=nn.Linear(24 * 2 * 2, NUM_CLASSES),
    )
    network = nn.Sequential(layers)
    network.apply(initialize)
    return network


def initialize(module: nn.Module) -> None:
    """Give a layer Keras's first weights: torch draws both from U(±1/sqrt(fan_in))."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SameConv2d(nn.Conv2d):
    """Convolution padded as Keras's `padding="same"`: where one pixel is odd, right and bottom.

    torch's own `padding="same"` refuses strides, and `padding=1` pads left and top.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, out, ceil(H / stride), ceil(W / stride)) of (N, in, H, W)."""
        height, width = (
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(
                input.shape[2:], self.stride, self.kernel_size, strict=True
            )
        )
        left, top = width // 2, height // 2
        return super().forward(functional.pad(input, (left, width - left, top, height - top)))


class BiasedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose running variance is of the batch itself, over n, as Keras keeps it.

    torch normalises with that variance and keeps another, over n - 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W); in training, by the batch, and move the running values."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            variance, mean = torch.var_mean(input, dim=(0, 2, 3), correction=0)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return functional.batch_norm(
            input, None, None, self.weight, self.bias, training=True, eps=self.eps
        )


class KerasAdamW(torch.optim.AdamW):
    """AdamW with ε outside the bias correction, as Keras has it.

    torch divides √v by √(1-β₂ᵗ) and adds ε then, so it is given ε/√(1-β₂ᵗ).
    """

    def __init__(self, params: Any, epsilon: float, **options: Any) -> None:
        super().__init__(params, eps=epsilon, **options)
        for group in self.param_groups:
            group.update(epsilon=epsilon, num_steps=0)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            group["num_steps"] += 1
            beta_2_power = group["betas"][1] ** group["num_steps"]
            group["eps"] = group["epsilon"] / math.sqrt(1 - beta_2_power)
        return super().step(closure)


class CosineDecay(torch.optim.lr_scheduler.LambdaLR):
    """Keras's CosineDecay: it stays at the floor, where CosineAnnealingLR climbs again."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer, cosine_factor)


def cosine_factor(step: int) -> float:
    """Return the learning rate at a step as a share of the first."""
    done = min(step, DECAY_STEPS) / DECAY_STEPS
    return (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)) + FLOOR


class Strided(L.LightningModule):
    """The network with its loss, optimizer, schedule and clipping."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()
        self.accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of images (N, 3, 16, 16) and classes (N,)."""
        images, classes = batch
        logits = self(images)
        loss = functional.cross_entropy(logits, classes)
        self.accuracy.update(logits, classes)
        # Keras's epoch values are means over images; Lightning's are if it knows the batch size.
        values: dict[str, Any] = {"loss": loss, "accuracy": self.accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule; kernels alone decay."""
        kernels = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters() if parameter.ndim == 1]
        optimizer = KerasAdamW(
            # torch decays every parameter of a group, Keras each but those it is told to spare.
            [{"params": kernels}, {"params": others, "weight_decay": 0.0}],
            lr=PEAK_RATE,
            betas=(BETA_1, BETA_2),
            epsilon=EPSILON,
            weight_decay=WEIGHT_DECAY,
        )
        # Lightning steps a schedule once an epoch unless told; Keras's count steps.
        schedule = {"scheduler": CosineDecay(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the global norm.

        `clip_grad_norm_` divides by the norm plus 1e-6; Keras's `global_clipnorm` by the norm.
        """
        if gradient_clip_val is None:
            return
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        norm = torch.stack([torch.linalg.vector_norm(each) for each in gradients]).norm()
        for gradient in gradients:
            gradient.mul_(torch.clamp(gradient_clip_val / norm, max=1.0))
