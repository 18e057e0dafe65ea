"""Ports that train, and what goes with them, for tests/test_check.py."""

from functools import partial

import numpy as np
import torch
from in_torch import Regression, regression
from torch import nn
from torch.nn import functional as F

__all__ = ["regression"]


class Classes(Regression):
    def __init__(self, averages=True, kept=0.5, whole=True):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
        self.averages, self.kept, self.whole, self.right = averages, kept, whole, []

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        if self.whole or not batch_idx:
            self.right += (logits.argmax(1) == batch[1]).tolist()
        losses = F.cross_entropy(logits, batch[1], torch.tensor([1.0, 2.0, 0.5]), reduction="none")
        return losses.mean() if self.averages else losses.sum()

    def on_train_epoch_end(self):
        self.log("train_acc", sum(self.right) / len(self.right))
        self.right = []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.125)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.kept)]


def classes(**other):
    return Classes(**other), {"max_epochs": 2}


def classes_by_sum():
    return classes(averages=False)


def classes_other_schedule():
    return classes(kept=0.25)


def classes_first_batch():
    return classes(whole=False)


class Momentum(Regression):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def optimizer(self):
        return torch.optim.SGD(self.parameters(), 0.0625, momentum=0.5, **self.options)

    def configure_optimizers(self):
        optimizer = self.optimizer()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ByRoot(Momentum):
    def optimizer(self):
        return torch.optim.RMSprop(self.parameters(), 0.0625, 0.9, 1e-3, momentum=0.5)


class WarmedUp(ByRoot):
    def configure_optimizers(self):
        options = {"lr": 0.0625, "alpha": 0.9, "eps": 1e-2, "momentum": 0.5}
        optimizer = torch.optim.RMSprop(self.parameters(), **options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def momentum_warmed_up_other_epsilon():
    return WarmedUp()


def momentum_by_root():
    return ByRoot()


def momentum():
    return Momentum()


def momentum_upwards():
    return Momentum(maximize=True)


def momentum_dampened():
    return Momentum(dampening=0.25)


class AsWritten(Regression):
    def __init__(self, rate_of_biases=0.01):
        super().__init__()
        self.rate_of_biases = rate_of_biases

    def configure_optimizers(self):
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1]},
            {"params": [p for p in self.parameters() if p.ndim == 1], "lr": self.rate_of_biases},
        ]
        return torch.optim.SGD(groups, 0.01, momentum=0.9)


def momentum_as_written():
    return AsWritten()


def momentum_in_groups():
    return AsWritten(0.1)


class ClippedAdam(Regression):
    """Clips in a hook of its own, as Lightning would."""

    def configure_gradient_clipping(self, optimizer, *args, **kwargs):
        super().configure_gradient_clipping(optimizer, 0.25, "norm")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.001, eps=1e-7)


def adam_clipped():
    return ClippedAdam()


class NamedClasses(Regression):
    def __init__(self, is_twice=False, rule=torch.optim.Adam, choose=list, **loss):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.is_twice, self.rule, self.choose, self.loss = is_twice, rule, choose, loss

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return F.cross_entropy(
            logits.softmax(1) if self.is_twice else logits, batch[1], **self.loss
        )

    def configure_optimizers(self):
        return self.rule(self.choose(self.parameters()), 0.001, eps=1e-7)


def named_classes():
    return NamedClasses(), {"max_epochs": 2}


def named_by_sum():
    return NamedClasses(reduction="sum"), {"max_epochs": 2}


def named_smoothed():
    return NamedClasses(label_smoothing=0.1), {"max_epochs": 2}


def named_softmax_twice():
    return NamedClasses(is_twice=True), {"max_epochs": 2}


def named_weighted():
    return NamedClasses(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)), {
        "max_epochs": 2
    }


def named_amsgrad():
    return NamedClasses(rule=partial(torch.optim.Adam, amsgrad=True)), {"max_epochs": 2}


def named_two_options():
    return NamedClasses(rule=partial(torch.optim.Adam, betas=(0.8, 0.99))), {"max_epochs": 2}


class Scheduled(NamedClasses):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def named_scheduled():
    return Scheduled(), {"max_epochs": 2}


def named_groups():
    """Biases learn ten times as fast."""
    return NamedClasses(
        choose=lambda found: [
            {"params": [p for p in each if (p.ndim > 1) == is_kernel], "lr": rate}
            for each in [list(found)]
            for is_kernel, rate in ((True, 0.001), (False, 0.01))
        ]
    ), {"max_epochs": 2}


def named_rule():
    return NamedClasses(rule=torch.optim.RMSprop), {"max_epochs": 2}


def named_without_biases():
    return NamedClasses(choose=lambda found: [p for p in found if p.ndim > 1]), {"max_epochs": 2}


def named_accumulated():
    return NamedClasses(), {"max_epochs": 2, "accumulate_grad_batches": 2}


class TwoTargets(Regression):
    def __init__(self, weight=0.5):
        super().__init__()
        self.network, self.weight = nn.Linear(6, 8), weight
        self.size, self.place = nn.Linear(8, 1), nn.Linear(8, 2)

    def forward(self, x):
        x = self.network(x).tanh()
        return {"size": self.size(x), "place": self.place(x)}

    def training_step(self, batch, batch_idx):
        made, (_, wanted) = self(batch[0]), batch
        place = F.mse_loss(made["place"], wanted["place"])
        return F.mse_loss(made["size"], wanted["size"]) + self.weight * place


def two_targets():
    return TwoTargets()


def two_targets_other_weight():
    return TwoTargets(1.0)


class Tied(nn.Module):
    def __init__(self, is_tied=True):
        super().__init__()
        self.table, self.dense = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        if is_tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.dense(self.table(tokens))))


def tied():
    return Tied()


def tied_not():
    return Tied(is_tied=False)


def batches(factor=1.0):
    """Those of the Keras file as a loader gives them, in float32."""
    random = np.random.default_rng(0)
    drawn = [random.normal(size=(n, 6)) for n in (8, 8, 3)]
    return [(torch.tensor(factor * x).float(), torch.tensor(np.sin(x).sum(1))) for x in drawn]


def batches_twice():
    return batches(2.0)


def converted(weights, module):
    kernel, bias, last, end = weights.values()
    return {"network.0.weight": kernel.T, "network.0.bias": bias, "network.3.weight": last.T,
            "network.3.bias": end}  # fmt: skip


def unconverted(weights, module):
    first = next(iter(weights.values()))
    return {**converted(weights, module), "network.0.weight": first.reshape(8, 6)}


class Drawing(Regression):
    """Gives maps with their channels first, and lets the optimizer decay what Keras penalises."""

    def __init__(self, is_cut_first=False, decay=0.02):
        super().__init__()
        self.network, self.last = nn.Linear(6, 16), nn.ConvTranspose2d(4, 3, 2, 2)
        self.is_cut_first, self.decay = is_cut_first, decay

    def forward(self, x):
        x = self.network(x).tanh()
        if self.is_cut_first:
            return self.last(x.view(-1, 4, 2, 2))
        return self.last(x.view(-1, 2, 2, 4).permute(0, 3, 1, 2))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        decayed = {"params": [self.network.weight], "weight_decay": self.decay}
        return torch.optim.SGD([decayed, {"params": [self.network.bias, *self.last.parameters()]}],
                               0.0625)  # fmt: skip


def drawing():
    return Drawing()


def drawing_cut_first():
    return Drawing(is_cut_first=True)


def drawing_decayed_less():
    return Drawing(decay=0.01)
