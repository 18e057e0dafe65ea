"""Ports of the models in `by_hand_keras`, and wrong ones."""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Network(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x).tanh())
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", F.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0625)


class Optimized(Network):
    def __init__(self, rule: Any, **options: Any) -> None:
        super().__init__()
        self.rule, self.options = rule, {"lr": 0.0625, "eps": 1e-7, **options}

    def configure_optimizers(self) -> Any:
        return self.rule(self.parameters(), **self.options)


def adagrad() -> L.LightningModule:
    return Optimized(torch.optim.Adagrad, initial_accumulator_value=0.1)


def adagrad_from_zero() -> L.LightningModule:
    return Optimized(torch.optim.Adagrad)


class Decayed(Optimized):
    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1]},
            {"params": [p for p in self.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
        return self.rule(groups, **self.options)  # fmt: skip


def decayed() -> L.LightningModule:
    return Decayed(torch.optim.AdamW, weight_decay=0.25)


def decayed_whole() -> L.LightningModule:
    return Optimized(torch.optim.AdamW, weight_decay=0.25)


def nadam() -> L.LightningModule:
    return Optimized(torch.optim.NAdam, momentum_decay=1.0)


def nadam_slower() -> L.LightningModule:
    return Optimized(torch.optim.NAdam)


class Classes(Network):
    """Class weights, divided by the number of samples as in Keras, or by their sum as by itself."""

    def __init__(self, is_mean: bool = False) -> None:
        super().__init__()
        self.head, self.is_mean = nn.Linear(8, 3), is_mean

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        weight = torch.tensor([1.0, 2.0, 0.5])
        if self.is_mean:
            return F.cross_entropy(self(x), y, weight)
        return F.cross_entropy(self(x), y, weight, reduction="sum") / len(x)


def classes() -> L.LightningModule:
    return Classes()


def classes_mean() -> L.LightningModule:
    return Classes(is_mean=True)


class TwoOptimizers(Network):
    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate, self.automatic_optimization = rate, False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        both: Any = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        for optimizer in both:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in both:
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        slow = torch.optim.Adam(self.body.parameters(), self.rate, eps=1e-7)
        return [slow, torch.optim.SGD(self.head.parameters(), 0.0625, momentum=0.9)]


class Constrained(Network):
    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            self.body.weight.clamp_(min=0)


class Averaged(Network):
    """Starts with the weights after the first step, as Keras does."""

    average: list[torch.Tensor] | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        now = [p.detach().clone() for p in self.parameters()]
        before = self.average or now
        self.average = [0.75 * a + 0.25 * b for a, b in zip(before, now, strict=True)]

    def on_train_end(self) -> None:
        with torch.no_grad():
            for p, average in zip(self.parameters(), self.average or [], strict=True):
                p.copy_(average)


class TwoOutputs(Network):
    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.body(x).tanh()
        return self.head(hidden), self.place(hidden)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (size, place), (_, (y, z)) = self(batch[0]), batch
        return F.mse_loss(size, y) + F.l1_loss(place, z)


def network() -> nn.Module:
    return Network()


def two_optimizers() -> nn.Module:
    return TwoOptimizers()


def two_optimizers_other_rate() -> nn.Module:
    return TwoOptimizers(0.02)


def constrained() -> nn.Module:
    return Constrained()


def averaged() -> nn.Module:
    return Averaged()


def validated() -> tuple[nn.Module, dict[str, Any]]:
    """Its loader gives float32, as loaders do."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 6)))
    sets = torch.utils.data.TensorDataset(x.float(), x.sin().sum(1, keepdim=True).float())
    return Network(), {"val_dataloaders": torch.utils.data.DataLoader(sets, 8)}


def two_outputs() -> nn.Module:
    return TwoOutputs()


class Squared(Network):
    """Its optimizer decays kernels, or else its loss holds so many times the squares of them."""

    def __init__(self, decay: float = 0.0, share: float = 0.0) -> None:
        super().__init__()
        self.decay, self.share = decay, share

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        squares = sum(layer.weight.square().sum() for layer in (self.body, self.head))
        return F.mse_loss(self(batch[0]), batch[1]) + self.share * squares

    def configure_optimizers(self) -> Any:
        kernels = {"params": [self.body.weight, self.head.weight], "weight_decay": self.decay}
        biases = {"params": [self.body.bias, self.head.bias]}
        return torch.optim.SGD([kernels, biases], 0.0625, momentum=0.9)


def squared() -> nn.Module:
    return Squared(decay=0.02)


def squared_half() -> nn.Module:
    return Squared(decay=0.01)


def squared_half_in_loss() -> nn.Module:
    return Squared(share=0.005)


class Recommending(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items, self.out = nn.Embedding(5, 4), nn.Embedding(7, 4), nn.Linear(4, 1)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.users(users) * self.items(items))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self(*batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01, eps=1e-7)


class ByName(Recommending):
    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return super().forward(user, item)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self(**batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0625)


class ByNameTurned(ByName):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self(batch[0]["user"], batch[0]["item"].flip(0)), batch[1])


class InOne(ByName):
    def forward(self, ids: dict[str, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        return super().forward(**ids)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self(batch[0]), batch[1])


class InOrder(ByName):
    def forward(self, read: torch.Tensor, reader: torch.Tensor) -> torch.Tensor:
        return super().forward(reader, read)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self(batch[0]["item"], batch[0]["user"]), batch[1])


class Recurrent(Network):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x)[0][:, -1])
        return out


def recommending() -> nn.Module:
    return Recommending()


def recurrent() -> nn.Module:
    return Recurrent()


def by_name() -> nn.Module:
    return ByName()


def by_name_turned() -> nn.Module:
    return ByNameTurned()


def in_one() -> nn.Module:
    return InOne()


def in_order() -> nn.Module:
    return InOrder()


class Normed(Network):
    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.norm, self.rate = nn.BatchNorm1d(8, eps=1e-3, momentum=0.01), rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.body(x)))
        return out

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), self.rate, eps=1e-7)


def normed() -> nn.Module:
    return Normed()


class BuiltStill(Network):
    """`Trainer.fit` leaves what is in evaluation mode as it is."""

    def __init__(self, is_frozen: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8).eval().requires_grad_(not is_frozen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.body(x)))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.logger is not None
        self.logger.log_metrics({"step": batch_idx})
        return super().training_step(batch, batch_idx)


def still() -> tuple[nn.Module, dict[str, Any]]:
    callbacks = L.pytorch.callbacks
    found = [callbacks.ModelCheckpoint(), callbacks.LearningRateMonitor()]
    return BuiltStill(is_frozen=True), {"callbacks": found}


def still_by_mistake() -> nn.Module:
    return BuiltStill(is_frozen=False)
