"""Ports of the models in `opened_keras`, of layers that torch has; and wrong ones."""

import torch
from torch import nn


class Graph(nn.Module):
    def __init__(self, is_turned: bool = False) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
        self.is_turned = is_turned

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        edges = edges.mT if self.is_turned else edges
        x = edges @ (nodes @ self.inner.weight.mT) + self.inner.bias
        out: torch.Tensor = self.out(x.relu())
        return out


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log, self.out = nn.Parameter(torch.zeros(())), nn.Linear(6, 2)
        self.table = nn.Parameter(torch.zeros(7, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.table[torch.tensor([6, 0, 3])]
        out: torch.Tensor = self.out(self.log.exp() * x + rows)
        return out


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut, self.out = nn.Conv2d(3, 5, (4, 2), stride=(4, 2)), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.cut(x).flatten(2).mT.tanh())
        return out


class Summarised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps, self.out = nn.GRU(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.steps(x.permute(1, 0, 2))[1].squeeze(0))
        return out


class Filmed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(2, 2)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        h = c = frames.new_zeros(len(frames), 2, 4, 4)
        states = []
        for x in frames.unbind(1):
            i, f, g, o = (self.x(x) + self.h(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        y = self.norm(torch.stack(states, 1).flatten(0, 1))
        return self.head(y.unflatten(0, frames.shape[:2]).mean((1, 3, 4)))


def graph() -> nn.Module:
    return Graph()


def graph_turned() -> nn.Module:
    return Graph(is_turned=True)


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, (3, 2), bias=False), nn.Flatten(), nn.Linear(168, 3))


def scaled() -> nn.Module:
    return Scaled()


def patches() -> nn.Module:
    return Patches()


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(),
        nn.BatchNorm1d(27, 1e-3, 0.1), nn.Tanh(), nn.Linear(27, 4),
    )  # fmt: skip


def summarised() -> nn.Module:
    return Summarised()


def filmed() -> nn.Module:
    return Filmed()
