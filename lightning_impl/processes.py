"""Training on several processes with torch.distributed: joining them, and losing them.

Lightning's DDP averages gradients over ranks, so a rank's loss is the sum over its share of a
batch, times the ranks, over the images of the whole batch: the average is then the gradient of the
whole batch's mean loss, also where shares are unequal or empty.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from lightning_impl.fast import Batch
from lightning_impl.model import Classifier, EpochMean
from pipeline.errors import RunError, UsageError
from pipeline.processes import Ranks, this_process
from pipeline.ranks import require_same, why_lost

TIME_LIMIT_SECONDS = 120.0
"""How long a rank waits for the others: to come, and in each exchange."""
ENVIRONMENTS: dict[str, Callable[[], ClusterEnvironment]] = {
    "local": LightningEnvironment,
    "torchrun": TorchElasticEnvironment,
    "slurm": lambda: SLURMEnvironment(auto_requeue=False),
}


def devices_options() -> dict[str, Any]:
    """Return the Trainer's options for the processes that have joined.

    On SLURM, Lightning would by itself save checkpoints and requeue the job when it is told to end.
    """
    ranks = this_process()
    return {
        "plugins": [],
        "devices": ranks.local_size,
        "num_nodes": ranks.size // ranks.local_size,
        "strategy": DDPStrategy(cluster_environment=ENVIRONMENTS[ranks.launcher]()),
        # Lightning's own would deal whole batches, and repeat some so that all have as many.
        "use_distributed_sampler": False,
    }


class SharedClassifier(Classifier):
    """The module of one of several processes: of each batch it takes its share."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the share's summed loss, scaled so that DDP's mean is that of the whole batch."""
        loader = self.trainer.train_dataloader
        assert loader is not None
        num_images = loader.dataset.batches.size(batch_idx)
        total = super().training_step(batch, batch_idx)
        return total * (self.trainer.world_size / num_images)

    def _measured_loss(
        self, batch: Batch, mean_loss: EpochMean, accuracy: MulticlassAccuracy
    ) -> Tensor:
        """Return the summed loss of this rank's share of a batch, which may be empty."""
        images, one_hot = batch
        logits = self(images)
        total = functional.cross_entropy(logits, one_hot, reduction="sum")
        if len(images):
            mean_loss.update(total / len(images), len(images))
            accuracy.update(logits, one_hot.argmax(dim=1))
        return total


class OwnSigterm(L.Callback):
    """Keep what SIGTERM did before the Trainer.

    Lightning's own handler exchanges something with the other ranks, wherever each one is.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set it again, now that the Trainer has set its own."""
        signal.signal(signal.SIGTERM, self.handler)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set it again."""
        signal.signal(signal.SIGTERM, self.handler)


@contextmanager
def together(statement: Mapping[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """Join the other ranks, which must state the same under `same`; yield rank 0's statement.

    `device` is Lightning's name of what is trained on.

    Raises:
        UsageError: not all come within `TIME_LIMIT_SECONDS`, the port is in use, or they differ.
        RunError: a rank failed, or was not heard of for `TIME_LIMIT_SECONDS`.
    """
    ranks = this_process()
    # Else Lightning sets the number of threads by its own reckoning.
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    store = _connected(ranks, device)
    try:
        statements: list[dict[str, Any]] = [{}] * ranks.size
        dist.all_gather_object(statements, dict(statement))
        for rank, other in enumerate(statements):
            require_same(rank, statements[0]["same"], other["same"])
        yield statements[0]
    except Exception as error:
        if not is_loss_of_others(error):
            with suppress(RuntimeError):  # rank 0, which holds the store, has ended
                store.set(_word(ranks.rank), " ".join(str(error).split())[:300] or repr(error))
            raise
        _leave()  # so that those who wait for this rank end too
        reason = why_lost(
            ranks,
            say=lambda word: store.set(_word(ranks.rank), word),
            heard=lambda rank: _heard(store, rank),
        )
        raise RunError(reason) from error
    finally:
        _leave()


def is_loss_of_others(error: BaseException) -> bool:
    """Return whether an exchange with other ranks failed, which torch says in its own words."""
    words = str(error).lower()
    own = ("gloo", "nccl", "caused pair closure")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(name in words for name in own)
    )


def gathered(shares: list[Tensor]) -> list[Tensor]:
    """Return batches (B, …) whole, of each rank's share of them, in the order of their images."""
    everyone: list[list[Tensor]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, [share.cpu() for share in shares])
    return [torch.cat(parts) for parts in zip(*everyone, strict=True)]


def _connected(ranks: Ranks, device: str) -> dist.Store:
    try:
        environment = ENVIRONMENTS[ranks.launcher]()
    except RuntimeError as error:  # as where srun got no --ntasks-per-node
        raise UsageError(" ".join(str(error).split())) from error
    address, port = environment.main_address, environment.main_port
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    limit = timedelta(seconds=TIME_LIMIT_SECONDS)
    if device == "gpu":
        torch.cuda.set_device(ranks.local_rank)
    try:
        store, *_ = next(dist.rendezvous("env://", ranks.rank, ranks.size, timeout=limit))
        store.set_timeout(limit)
        backend = "nccl" if device == "gpu" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=limit
        )
    except (RuntimeError, ValueError) as error:  # ValueError: a port that is none
        if "EADDRINUSE" in str(error):
            raise UsageError(f"port {port} is in use; name another in MASTER_PORT") from error
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"rank {ranks.rank} of {ranks.size} did not find the others at {address}:{port} "
            f"within {TIME_LIMIT_SECONDS:g} s: {reason}"
        ) from error
    return dist.PrefixStore("words", store)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _word(rank: int) -> str:
    return f"of rank {rank}"


def _heard(store: dist.Store, rank: int) -> str | None:
    return store.get(_word(rank)).decode() if store.check([_word(rank)]) else None
