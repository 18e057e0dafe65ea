"""Porting mistakes in the second pair's LightningModule, each planted as it is built.

A program for `portproof check`: each function that takes a `build` returns its model changed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from parity_tests.pairs import strided_lightning as pair

Built = tuple[L.LightningModule, dict[str, Any]]  # with Trainer options, as the pair's `build`
Build = Callable[[], Built]
KerasAdamW = pair.KerasAdamW  # `with_optimizer` exchanges the pair's own name


def symmetric_padding(build: Build = pair.build) -> Built:
    """Strided convolutions with `padding=1`, which pads left and top too: the same shapes."""

    def stock(conv: Any) -> nn.Conv2d:
        return nn.Conv2d(
            conv.in_channels, conv.out_channels, 3, stride=conv.stride, padding=1, bias=False
        )

    return replace_layers(build(), ("conv1", "conv2"), stock)


def torch_batchnorm(build: Build = pair.build) -> Built:
    """Torch's BatchNorm2d with the right numbers: its running variance is over n - 1."""
    return replace_layers(
        build(),
        ("norm1", "norm2"),
        lambda norm: nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum),
    )


def torch_epsilon(build: Build = pair.build) -> Built:
    """BatchNorm with torch's default ε, 1e-5."""
    return edit_norms(build(), eps=1e-5)


def keras_momentum(build: Build = pair.build) -> Built:
    """BatchNorm with Keras's momentum, the share that is kept, where torch's is added."""
    return edit_norms(build(), momentum=0.99)


def torch_momentum(build: Build = pair.build) -> Built:
    """BatchNorm with torch's default momentum, 0.1."""
    return edit_norms(build(), momentum=0.1)


def always_training(build: Build = pair.build) -> Built:
    """Normalise by the batch at evaluation too, as without `model.eval()`."""
    model, options = build()
    network: Any = model.network
    override(network, train=lambda self, mode=True: nn.Sequential.train(self, True))
    return model, options


def counted_padding(build: Build = pair.build) -> Built:
    """Average pooling that divides by 9 also where the window hangs over: torch's default."""
    return replace_layers(build(), ("pool",), lambda _: nn.AvgPool2d(3, padding=1))


def max_pool(build: Build = pair.build) -> Built:
    """Max pooling in place of average pooling."""
    return replace_layers(build(), ("pool",), lambda _: nn.MaxPool2d(3, padding=1))


def softmax_output(build: Build = pair.build) -> Built:
    """End in a softmax, which `cross_entropy` takes for logits."""
    return override_method(
        build(), "forward", lambda real, self, images: real(self, images).softmax(1)
    )


def summed_loss(build: Build = pair.build) -> Built:
    """Sum the loss over the batch."""

    def training_step(real: Any, self: Any, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return real(self, batch, batch_idx) * len(batch[0])

    return override_method(build(), "training_step", training_step)


def torch_adamw(build: Build = pair.build) -> Built:
    """Torch's AdamW with Keras's ε: it stands inside the bias correction."""
    return with_optimizer(
        build(), lambda groups, **options: torch.optim.AdamW(groups, **rename_epsilon(options))
    )


def torch_adamw_epsilon(build: Build = pair.build) -> Built:
    """Keras's AdamW with torch's default ε, 1e-8."""
    return with_optimizer(
        build(), lambda groups, **options: KerasAdamW(groups, **options | {"epsilon": 1e-8})
    )


def coupled_decay(build: Build = pair.build) -> Built:
    """Decay inside Adam's gradient, as `torch.optim.Adam(weight_decay=…)` has it; Keras's ε."""

    class CoupledAdam(KerasAdamW):
        def __init__(self, groups: Any, **options: Any) -> None:
            super().__init__(groups, **options)
            for group in self.param_groups:
                group["decoupled_weight_decay"] = False

    return with_optimizer(build(), CoupledAdam)


def torch_decay(build: Build = pair.build) -> Built:
    """Leave torch's default weight decay of 0.01."""
    return with_optimizer(
        build(),
        lambda groups, **options: KerasAdamW(groups, **options | {"weight_decay": 0.01}),
    )


def schedule_per_epoch(build: Build = pair.build) -> Built:
    """Leave Lightning to step the schedule once an epoch."""

    def configure_optimizers(real: Any, self: Any) -> Any:
        configured = real(self)
        return configured | {"lr_scheduler": configured["lr_scheduler"]["scheduler"]}

    return override_method(build(), "configure_optimizers", configure_optimizers)


def climbing_schedule(build: Build = pair.build) -> Built:
    """Torch's CosineAnnealingLR, which climbs again past its last step."""

    def configure_optimizers(real: Any, self: Any) -> Any:
        configured = real(self)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            configured["optimizer"], pair.DECAY_STEPS, pair.PEAK_RATE * pair.FLOOR
        )
        return configured | {"lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return override_method(build(), "configure_optimizers", configure_optimizers)


def stock_clipping(build: Build = pair.build) -> Built:
    """Leave clipping to Lightning: `clip_grad_norm_` divides by the norm plus 1e-6."""

    def configure_gradient_clipping(_: Any, self: Any, *arguments: Any, **options: Any) -> None:
        L.LightningModule.configure_gradient_clipping(self, *arguments, **options)

    return override_method(build(), "configure_gradient_clipping", configure_gradient_clipping)


def clipped_apart(build: Build = pair.build) -> Built:
    """Clip each parameter by its own norm."""

    def configure_gradient_clipping(_: Any, self: Any, *arguments: Any, **options: Any) -> None:
        for parameter in self.parameters():
            norm = torch.linalg.vector_norm(parameter.grad)
            parameter.grad.mul_(torch.clamp(pair.MAX_NORM / norm, max=1.0))

    return override_method(build(), "configure_gradient_clipping", configure_gradient_clipping)


def clipped_values(build: Build = pair.build) -> Built:
    """Clip each value, not the norm."""
    model, options = stock_clipping(build)
    return model, options | {"gradient_clip_algorithm": "value", "gradient_clip_val": 0.1}


def unclipped(build: Build = pair.build) -> Built:
    """Leave the clipping out."""
    model, options = build()
    return model, {name: options[name] for name in options if name != "gradient_clip_val"}


def uneven_pool(build: Build = pair.build) -> Built:
    """Pool by 2, padded right and bottom alone: no mutant, both implementations have it.

    `ceil_mode` lets the windows hang over that edge and divides by the pixels in them.
    """
    return replace_layers(build(), ("pool",), lambda _: nn.AvgPool2d(3, stride=2, ceil_mode=True))


counted_windows = uneven_pool  # which Keras on torch computes only where it is written by hand


class KerasMomentum(torch.optim.SGD):
    """SGD whose velocity holds the learning rate of its time, as Keras has it.

    Keras:  v = μ·v - lr·g; w = w + v.   torch:  v = μ·v + g; w = w - lr·v.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                slots = self.state[parameter]
                velocity = slots.setdefault("momentum_buffer", torch.zeros_like(parameter))
                velocity.mul_(group["momentum"]).sub_(parameter.grad, alpha=group["lr"])
                parameter.add_(velocity)
        return loss


def momentum_sgd(build: Build = pair.build) -> Built:
    """Train with SGD and momentum as Keras has them: no mutant, both implementations have it."""
    return with_momentum(build(), KerasMomentum)


def torch_momentum_sgd(build: Build = pair.build) -> Built:
    """Torch's SGD, which multiplies the whole velocity by the learning rate of the step."""
    return with_momentum(build(), torch.optim.SGD)


def replace_layers(built: Built, names: Iterable[str], make: Callable[[Any], nn.Module]) -> Built:
    """Exchange layers of the network for what `make` makes of them, first weights kept."""
    network: Any = built[0].network
    for name in names:
        real = getattr(network, name)
        layer = make(real)
        layer.load_state_dict(real.state_dict(), strict=False)
        setattr(network, name, layer)
    return built


def edit_norms(built: Built, **settings: float) -> Built:
    """Set attributes of every BatchNorm layer."""
    for layer in built[0].modules():
        if isinstance(layer, nn.BatchNorm2d):
            for name, value in settings.items():
                setattr(layer, name, value)
    return built


def with_optimizer(built: Built, make: Callable[..., torch.optim.Optimizer]) -> Built:
    """Let the module build its optimizer with `make` in place of KerasAdamW."""

    def configure_optimizers(real: Any, self: Any) -> Any:
        pair.KerasAdamW = make  # type: ignore[misc,assignment]
        try:
            return real(self)
        finally:
            pair.KerasAdamW = KerasAdamW  # type: ignore[misc]

    return override_method(built, "configure_optimizers", configure_optimizers)


def with_momentum(built: Built, kind: Any) -> Built:
    """Train with SGD of a kind, with the pair's schedule and no decay."""

    def configure_optimizers(_: Any, self: Any) -> Any:
        optimizer = kind(self.parameters(), lr=pair.PEAK_RATE, momentum=pair.BETA_1)
        schedule = {"scheduler": pair.CosineDecay(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    return override_method(built, "configure_optimizers", configure_optimizers)


def override_method(built: Built, name: str, method: Callable[..., Any]) -> Built:
    """Give the module a method that is called with what it replaces, and as it is."""
    real = getattr(type(built[0]), name)
    override(
        built[0],
        **{name: lambda self, *arguments, **options: method(real, self, *arguments, **options)},
    )
    return built


def override(module: nn.Module, **methods: Callable[..., Any]) -> None:
    """Give a module a class with other methods, so that copies of the module have them too."""
    module.__class__ = type(type(module).__name__, (type(module),), methods)


def rename_epsilon(options: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's options with `eps`, as torch calls it."""
    return {"eps" if name == "epsilon" else name: value for name, value in options.items()}
