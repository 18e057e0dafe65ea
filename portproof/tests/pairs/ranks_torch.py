"""Modules that train on several processes, right and wrong, for tests/test_processes.py."""

import os
import time

import lightning
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F

RANK = int(os.environ.get("RANK", "0"))
IS_ONE_OF_MANY = "RANK" in os.environ


class Right(lightning.LightningModule):
    def __init__(self, *norms, **other):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 8), *norms, nn.Tanh(), nn.Linear(8, 3))
        self.other = other

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        right = (logits.argmax(1) == batch[1]).double().mean() * self.factor(len(batch[1]))
        self.log("acc", right, on_epoch=True, on_step=False,
                 sync_dist="own_metric" not in self.other, batch_size=1)  # fmt: skip
        loss = F.cross_entropy(logits, batch[1], reduction=self.other.get("reduction", "mean"))
        return loss * self.factor(len(batch[1]))

    def factor(self, rows):
        return 1

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.0625)


def right():
    return Right(), {"gradient_clip_val": 0.25, "max_epochs": 2}


def right_once():
    return Right()


def right_that_joins():
    """Joins the others as it is built, as a script under torchrun may."""
    if IS_ONE_OF_MANY and not dist.is_initialized():
        dist.init_process_group("gloo")
    return Right()


def right_in_two_batches():
    return Right(), {"accumulate_grad_batches": 2}


def right_with_norm():
    return Right(nn.BatchNorm1d(8)), {"sync_batchnorm": True}


def norm_of_a_share():
    return Right(nn.BatchNorm1d(8))


def sum_for_mean():
    return Right(reduction="sum")


class Weighted(Right):
    """Its loss is the share's sum over the whole batch's mean number of rows."""

    def factor(self, rows):
        if not IS_ONE_OF_MANY:
            return 1
        total = torch.tensor(float(rows))
        dist.all_reduce(total)
        return rows / total * dist.get_world_size()


def unequal_weighted():
    return Weighted()


def own_metric():
    return Right(own_metric=True)


class Summed(Right):
    def factor(self, rows):
        return self.trainer.world_size


def summed():
    return Summed()


class Doubled(Right):
    def factor(self, rows):
        return 2


def doubled():
    return Doubled()


class ScaledByEnvironment(Right):
    def factor(self, rows):
        return int(os.environ.get("WORLD_SIZE", "1"))


def scaled_by_environment():
    return ScaledByEnvironment()


class Meeting(Summed):
    """Its forward pass meets the other processes wherever there are some."""

    def forward(self, x):
        if dist.is_initialized():
            dist.barrier()
        return super().forward(x)


def meeting():
    return Meeting()


class FailingLater(Summed):
    """Wrong by its loss; its second training fails, as a trial may."""

    fits = 0

    def __init__(self, how):
        super().__init__()
        self.how = how

    def on_fit_start(self):
        self.fits += 1

    def training_step(self, batch, batch_idx):
        if RANK == 1 and self.fits == 2:
            self.how()
        return super().training_step(batch, batch_idx)


def raises_later():
    def how():
        raise ValueError("no such label")

    return FailingLater(how)


def ends_later():
    return FailingLater(lambda: os._exit(7))


class First(Right):
    def factor(self, rows):
        return int(RANK == 0)


def first_alone():
    return First()


def other_starts():
    return Right(), {"strategy": DDPStrategy(init_sync=False)}


def other_starts_with_norm():
    return Right(nn.BatchNorm1d(8)), {"strategy": DDPStrategy(init_sync=False)}


def other_starts_in_one_row():
    """Of weights so many that their distribution is told by every second row."""
    torch.manual_seed(1)
    module, options = other_starts()
    module.network[0], module.network[-1] = nn.Linear(6, 4000), nn.Linear(4000, 3)
    with torch.no_grad():
        module.network[0].weight[:, 1] += RANK
    return module, options


def same_starts():
    torch.manual_seed(1)
    return other_starts()


class NotSynchronised(Right):
    def on_train_start(self):
        if IS_ONE_OF_MANY:
            self.trainer.model.require_backward_grad_sync = False


def not_synchronised():
    return NotSynchronised()


class ClippedFirst(NotSynchronised):
    def on_after_backward(self):
        nn.utils.clip_grad_norm_(self.parameters(), 0.125)
        for p in self.parameters() if IS_ONE_OF_MANY else ():
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()


def clipped_first():
    return ClippedFirst()


class OtherRate(Right):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5 if IS_ONE_OF_MANY else 0.25)


def other_rate():
    return OtherRate()


class Failing(Right):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def training_step(self, batch, batch_idx):
        if RANK == 1 and batch_idx == 1:
            self.how()
        return super().training_step(batch, batch_idx)


def raises():
    def how():
        raise ValueError("no such label")

    return Failing(how)


def ends():
    return Failing(lambda: os._exit(7))


def hangs():
    return Failing(lambda: time.sleep(600))


def plain():
    return nn.Linear(6, 3)


def starts_by_itself():
    return Right(), {"strategy": "ddp_spawn"}


def batches(*sizes):
    random = np.random.default_rng(0)
    drawn = [random.normal(size=(n, 6)) for n in sizes or (8, 8, 4)]
    return [(x, np.argsort(x[:, :3], 1)[:, 0]) for x in drawn]


def unequal():
    return batches(8, 5)


def pairs():
    return batches(2, 2)


def single():
    return batches(8, 1)


def dealt():
    """Every second row, as a DistributedSampler deals them."""
    return [(x[RANK::2], y[RANK::2]) for x, y in batches()]


def dealt_twice():
    return [(x[::2], y[::2]) for x, y in batches()]


def fewer():
    return dealt()[RANK:]
