"""Models of torchvision, of random weights, as they are and repaired.

A program for `portproof check`: `published_torch.py:resnet50` is torchvision's own,
`published_torch.py:resnet50_repaired` the same changed in exactly what a check listed.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

OPTIONS: dict[str, dict[str, Any]] = {"inception_v3": {"aux_logits": False, "init_weights": False}}


def build(name: str) -> nn.Module:
    """Return torchvision's model of ten classes."""
    options = OPTIONS.get(name, {})
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options)


def single(value: float) -> float:
    """Return the float32 nearest to `value`, by which Keras rescales."""
    return float(torch.tensor(value, dtype=torch.float32))


class SamePadded(nn.Conv2d):
    """A convolution that pads as Keras's `same`: where the zeros are odd, one more behind."""

    def forward(self, x: Tensor) -> Tensor:
        """Pad, then convolve."""
        pads: list[int] = []
        for axis in (1, 0):
            size, stride, n = self.kernel_size[axis], self.stride[axis], x.shape[2 + axis]
            total = max((-(-n // stride) - 1) * stride + size - n, 0)
            pads += [total // 2, total - total // 2]
        x = functional.pad(x, pads)
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class Rescaled(nn.Module):
    """A network whose inputs are rescaled first, as those of Keras rescale them inside."""

    def __init__(self, network: nn.Module, rescale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.rescale = network, rescale

    def forward(self, x: Tensor) -> Tensor:
        """Rescale, then run the network."""
        return self.network(self.rescale(x))


def norms(module: nn.Module, keep: float, epsilon: float | None = None) -> nn.Module:
    """Give every BatchNorm Keras's momentum, the share that is kept, and ε."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1 - keep
            m.eps = m.eps if epsilon is None else epsilon
    return module


def same(module: nn.Module) -> nn.Module:
    """Pad the convolutions with strides as Keras does."""
    for m in module.modules():
        if type(m) is nn.Conv2d and max(m.stride) > 1:
            m.__class__ = SamePadded
    return module


def _resnet(name: str) -> nn.Module:
    """Repair ε, momentum, biases of the convolutions, and the stride, in the first 1×1 (v1)."""
    module = norms(build(name), 0.99, 1.001e-5)
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            m.bias = nn.Parameter(torch.zeros(m.out_channels))
        if isinstance(m, torchvision.models.resnet.Bottleneck):
            m.conv1.stride, m.conv2.stride = m.conv2.stride, m.conv1.stride
    return module


def _densenet(name: str) -> nn.Module:
    """Repair ε and momentum."""
    return norms(build(name), 0.99, 1.001e-5)


def _mobilenet_v2(name: str) -> nn.Module:
    """Repair padding, ε and momentum."""
    return same(norms(build(name), 0.999, 1e-3))


def _mobilenet_v3(name: str) -> nn.Module:
    """Repair padding and momentum; rescale inputs from 0 … 255 to −1 … 1."""
    return Rescaled(same(norms(build(name), 0.999)), lambda x: x * single(1 / 127.5) - 1)


def _efficientnet(name: str) -> nn.Module:
    """Repair padding, ε and momentum; rescale inputs from 0 … 255 to 0 … 1."""
    return Rescaled(same(norms(build(name), 0.99, 1e-3)), lambda x: x * single(1 / 255))


def _efficientnet_v2(name: str) -> nn.Module:
    """Repair padding; rescale inputs from 0 … 255 to −1 … 1."""
    return Rescaled(same(build(name)), lambda x: x * single(1 / 128) - 1)


def _inception(name: str) -> nn.Module:
    """Leave padding out of averages, and scales out of norms; repair momentum."""
    module = norms(build(name), 0.99)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.register_parameter("weight", None)
    pool = partial(functional.avg_pool2d, count_include_pad=False)
    own: Any = torchvision.models.inception
    own.F = SimpleNamespace(**{**vars(functional), "avg_pool2d": pool})
    return module


def _convnext(name: str) -> nn.Module:
    """Normalise inputs by ImageNet's means and deviations."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shape = (3, 1, 1)
    means = torch.tensor(mean, dtype=torch.float64).reshape(shape) * 255
    deviations = torch.tensor(deviation, dtype=torch.float64).reshape(shape) * 255
    return Rescaled(build(name), lambda x: (x - means) / deviations)


REPAIRS: dict[str, Callable[[str], nn.Module]] = {
    "resnet": _resnet,
    "densenet": _densenet,
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3": _mobilenet_v3,
    "efficientnet_b": _efficientnet,
    "efficientnet_v2": _efficientnet_v2,
    "inception": _inception,
    "convnext": _convnext,
}
"""By the start of a model's name."""


def __getattr__(name: str) -> Callable[[], nn.Module]:
    own = name.removesuffix("_repaired")
    if own not in torchvision.models.list_models():
        raise AttributeError(name)
    if own == name:
        return partial(build, own)
    repair = next((r for start, r in REPAIRS.items() if own.startswith(start)), None)
    if repair is None:
        raise AttributeError(name)
    return partial(repair, own)
