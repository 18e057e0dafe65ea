"""The shared batches, as Lightning takes them."""

import dataclasses

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from lightning_impl.settings import rank_and_size
from pipeline.batches import Batches, evaluation_batches, training_batches
from pipeline.preprocess import PreparedData
from pipeline.recipe import Recipe


class TorchBatches(Dataset[tuple[Tensor, Tensor]]):
    """A set whose items are whole batches: images (B, 1, H, W) and one-hot labels (B, classes)."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images_nhwc, one_hot = self.batches[index]
        # One channel: the same bytes are NHWC and NCHW, and channels_last in memory.
        return torch.from_numpy(images_nhwc).permute(0, 3, 1, 2), torch.from_numpy(one_hot)


class EpochSampler(SequentialSampler):
    """Walks through the batches in turn, in an order of samples that the loader's set shares.

    The Trainer calls `set_epoch` of each loader's sampler, which reorders these batches.
    """

    data_source: Batches

    def set_epoch(self, epoch: int) -> None:
        """Take the sample order of `epoch`."""
        self.data_source.set_epoch(epoch)


def batch_loader(
    batches: Batches, steps_per_batch: int = 1, device: torch.device | None = None
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return a loader of ready batches, in this process: there is no decoding to hide.

    Each is as large as `steps_per_batch` of `batches`, consecutive ones, into which `steps_of` cuts
    it again, and gathered on `device` where one is named. Of several processes each takes its share
    of every batch. Its own generator keeps the loader from drawing on torch's global one, on which
    dropout draws.
    """
    rank, num_ranks = rank_and_size()
    batches = dataclasses.replace(
        batches, batch_size=batches.batch_size * steps_per_batch, rank=rank, num_ranks=num_ranks
    )
    if device:
        from lightning_impl.device_batches import DeviceBatches

        dataset: TorchBatches = DeviceBatches(batches, device)
    else:
        dataset = TorchBatches(batches)
    return DataLoader(
        dataset,
        sampler=EpochSampler(batches),
        batch_size=None,
        generator=torch.Generator(),
    )


class FashionData(L.LightningDataModule):
    """The prepared sets as a LightningDataModule, on `device` where one is named."""

    def __init__(
        self,
        data: PreparedData,
        recipe: Recipe,
        steps_per_batch: int = 1,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.data, self.recipe = data, recipe
        self.steps_per_batch, self.device = steps_per_batch, device

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the shuffled training batches."""
        batches = training_batches(self.data.train, self.recipe)
        return batch_loader(batches, self.steps_per_batch, self.device)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the validation batches."""
        batches = evaluation_batches(self.data.validation, self.recipe)
        return batch_loader(batches, self.steps_per_batch, self.device)
