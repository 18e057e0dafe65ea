"""The shared batches, gathered on a GPU."""

import torch
from torch import Tensor

from lightning_impl.data import TorchBatches
from pipeline.batches import Batches


class DeviceBatches(TorchBatches):
    """The same, gathered on a device, in whose memory the whole set lies as bytes."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        super().__init__(batches)
        dtype = getattr(torch, batches.dtype)
        self.images = torch.from_numpy(batches.data.images).to(device).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(batches.data.labels).to(device, torch.int64)
        self.one_hot = torch.eye(batches.num_classes, dtype=dtype, device=device)
        # A tensor: dividing by a number, CUDA multiplies by its reciprocal, which rounds twice.
        self.full_scale = torch.tensor(255, dtype=dtype, device=device)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(self.batches.positions(index)).to(self.labels.device)
        images = self.images.index_select(0, chosen).to(self.full_scale.dtype)
        labels = self.labels.index_select(0, chosen)
        return images.div_(self.full_scale), self.one_hot.index_select(0, labels)
