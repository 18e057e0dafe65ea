"""Ports of the models in `paired_keras`, with parts in another order."""

import torch
from torch import nn


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(8, 10), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.both(x).chunk(2, -1)
        out: torch.Tensor = self.out(value * torch.sigmoid(gate))
        return out


class Attending(nn.Module):
    def __init__(self, order: str = "qkv", scale: float = 8**-0.5) -> None:
        super().__init__()
        self.order, self.scale = order, scale
        self.together, self.out = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(self.order, self.together(x).chunk(3, -1), strict=True))
        scores = torch.softmax(parts["q"] @ parts["k"].mT * self.scale, -1)
        out: torch.Tensor = self.out(scores @ parts["v"])
        return out


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(torch.cat([self.b(y).relu(), self.a(x).relu()], -1))
        return out


def gated() -> nn.Module:
    return Gated()


def attending() -> nn.Module:
    return Attending()


def attending_vqk() -> nn.Module:
    return Attending("vqk")


def attending_unscaled() -> nn.Module:
    return Attending(scale=1.0)


def towers() -> nn.Module:
    return Towers()
