"""Ports of the models in `paired_keras`, with parts in another order."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


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


class Convolved(nn.Module):
    def __init__(self, slope: float = 0.2) -> None:
        super().__init__()
        self.both, self.slope = nn.Conv1d(8, 10, 2, dilation=2), slope
        self.fc, self.norm = nn.Linear(5, 18, bias=False), nn.BatchNorm1d(18, 1e-3, 0.01)
        self.up = nn.ConvTranspose2d(2, 2, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        signal, gate = self.both(F.pad(x.mT, (2, 0))).chunk(2, 1)
        y = F.leaky_relu(self.norm(self.fc((signal.tanh() * gate.sigmoid()).mean(-1))), self.slope)
        out: torch.Tensor = self.up(y.view(-1, 2, 3, 3))[..., :-1, :-1]
        return out.square().mean((2, 3))


class Sharing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wkv, self.wo = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.wq(x).unflatten(-1, (4, 2)).transpose(1, 2)
        k, v = self.wkv(x).unflatten(-1, (2, 2, 2)).permute(2, 0, 3, 1, 4)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v)
        out: torch.Tensor = self.wo(y.transpose(1, 2).flatten(2))
        return out


class Quantised(nn.Module):
    def __init__(self, is_stopped: bool = False) -> None:
        super().__init__()
        self.first, self.book, self.out = nn.Linear(6, 4), nn.Embedding(5, 4), nn.Linear(4, 3)
        self.is_stopped = is_stopped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).detach() if self.is_stopped else self.first(x)
        apart = self.book.weight.square().sum(1) - 2 * x @ self.book.weight.T
        out: torch.Tensor = self.out(x + (self.book(apart.argmin(-1)) - x).detach())
        return out


class Saturated(nn.Module):
    def __init__(self, power: int = 2) -> None:
        super().__init__()
        self.first, self.out, self.power = nn.Linear(6, 8), nn.Linear(8, 3), power

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.out((30 * self.first(x)) ** self.power), -1)


def quantised() -> nn.Module:
    return Quantised()


def quantised_stopped() -> nn.Module:
    return Quantised(is_stopped=True)


def saturated() -> nn.Module:
    return Saturated()


def saturated_more() -> nn.Module:
    return Saturated(4)


class Stepping(nn.Module):
    """The recurrent layer step by step, and its trunk once for each head."""

    def __init__(self, keeps: bool = True) -> None:
        super().__init__()
        self.e, self.cell, self.keeps = nn.Embedding(9, 3), nn.LSTMCell(3, 4), keeps
        self.trunk, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 1)

    def last(self, ids: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(len(ids), 4)
        for step, x in enumerate(self.e(ids).unbind(1)):
            state = self.cell(x, (h, c))
            real = ids[:, step, None] != 0 if self.keeps else torch.ones(1, dtype=torch.bool)
            h, c = torch.where(real, state[0], h), torch.where(real, state[1], c)
        return h

    def forward(self, ids: torch.Tensor) -> Any:
        h = self.last(ids)
        return self.a(self.trunk(h).relu()), self.b(self.trunk(h).relu())


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.t, self.h, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = self.t(x).sigmoid()
        out: torch.Tensor = self.out(self.h(x).relu() * t + x * (1 - t))
        return out


class Modulated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.ModuleList(nn.Linear(4, 12) for _ in range(2))
        self.d, self.out = nn.ModuleList(nn.Linear(6, 6) for _ in range(2)), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        for f, d in zip(self.f, self.d, strict=True):
            scale, shift = f(c).chunk(2, -1)
            x = (d(x) * (1 + scale) + shift).relu()
        out: torch.Tensor = self.out(x)
        return out


class Pooled(nn.Module):
    def __init__(self, pads: bool = True) -> None:
        super().__init__()
        self.first, self.out, self.pads = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1), pads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.first(x), 0.25)
        pooled = (
            F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 2) if self.pads else F.max_pool2d(y, 3, 2, 1)
        )
        out: torch.Tensor = self.out(pooled)
        return out


def pooled() -> nn.Module:
    return Pooled()


def pooled_inside() -> nn.Module:
    return Pooled(pads=False)


class Frozen(nn.Module):
    def __init__(self, keeps: bool = True) -> None:
        super().__init__()
        self.first, self.out, self.keeps = nn.Linear(6, 5), nn.Linear(5, 2), keeps
        self.norm = nn.BatchNorm1d(5, 1e-3, 0.01).requires_grad_(False)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.norm.train(mode and not self.keeps)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.norm(self.first(x)))
        return out


def frozen() -> nn.Module:
    return Frozen()


def frozen_alone() -> nn.Module:
    return Frozen(keeps=False)


class Shuffled(nn.Module):
    def __init__(self, by_channel: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 12, 1), nn.BatchNorm2d(12, 1e-3, 0.01)
        self.norm.weight.requires_grad_(False)
        self.by_channel = by_channel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.first(x))
        if self.by_channel:
            return F.pixel_shuffle(y, 2)
        return y.view(-1, 2, 2, 3, 4, 5).permute(0, 3, 4, 1, 5, 2).reshape(-1, 3, 8, 10)


def shuffled() -> nn.Module:
    return Shuffled()


def shuffled_by_channel() -> nn.Module:
    return Shuffled(by_channel=True)


def stepping() -> nn.Module:
    return Stepping()


def stepping_on() -> nn.Module:
    return Stepping(keeps=False)


def highway() -> nn.Module:
    return Highway()


def modulated() -> nn.Module:
    return Modulated()


class Detecting(nn.Module):
    def __init__(self, slope: float = 0.15) -> None:
        super().__init__()
        self.first, self.heads, self.slope = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 5, 1), slope

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = F.leaky_relu(self.first(x), self.slope)
        y = self.heads(F.interpolate(y, scale_factor=2, mode="bilinear"))
        return y[:, 1:], torch.sigmoid(y[:, :1])


class Asking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.query, self.head = nn.Embedding(7, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, ids: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scores = self.query(self.table(ids)) @ y.transpose(1, 2)
        return self.head(scores.softmax(-1) @ y * (ids != 0)[:, :, None])


def asking() -> nn.Module:
    return Asking()


def detecting() -> nn.Module:
    return Detecting()


def detecting_steeper() -> nn.Module:
    return Detecting(0.3)


def gated() -> nn.Module:
    return Gated()


def convolved() -> nn.Module:
    return Convolved()


def convolved_steeper() -> nn.Module:
    return Convolved(0.3)


def sharing() -> nn.Module:
    return Sharing()


def attending() -> nn.Module:
    return Attending()


def attending_vqk() -> nn.Module:
    return Attending("vqk")


def attending_unscaled() -> nn.Module:
    return Attending(scale=1.0)


def towers() -> nn.Module:
    return Towers()
