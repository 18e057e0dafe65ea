"""What a newcomer to Lightning writes for this network: torchvision, DataLoader, ToTensor.

A leaf program that is measured: it shares no code with the project on purpose.
`stock_lightning.py --data-dir D --epochs N --workers N`; prints JSON.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import lightning as L
import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import FashionMNIST


class Classifier(L.LightningModule):
    """The tutorial's network as a first LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(2048, 128),
            nn.LeakyReLU(0.1),
            nn.Linear(128, 10),
        )
        self.train_accuracy = MulticlassAccuracy(10, average="micro")
        self.val_accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch, batch_idx):
        """Return the loss of a batch."""
        images, labels = batch
        logits = self.model(images)
        loss = functional.cross_entropy(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("loss", loss, on_step=False, on_epoch=True)
        self.log("accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        """Log validation loss and accuracy."""
        images, labels = batch
        logits = self.model(images)
        self.val_accuracy(logits, labels)
        self.log("val_loss", functional.cross_entropy(logits, labels))
        self.log("val_accuracy", self.val_accuracy)

    def configure_optimizers(self):
        """Return torch's Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class EpochClock(L.Callback):
    """Seconds of each epoch, validation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer, pl_module):
        """Start the clock."""
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer, pl_module):
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self.began)


def main() -> None:
    """Train and print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.parent.mkdir()
        raw.symlink_to(arguments.data_dir.resolve())
        images = FashionMNIST(folder, train=True, transform=transforms.ToTensor())
        train, validation = train_test_split(np.arange(len(images)), test_size=0.2, random_state=13)
        workers = {"num_workers": arguments.workers, "persistent_workers": arguments.workers > 0}
        train_loader = DataLoader(Subset(images, train), batch_size=64, shuffle=True, **workers)
        validation_loader = DataLoader(Subset(images, validation), batch_size=64, **workers)
        module, clock = Classifier(), EpochClock()
        trainer = L.Trainer(
            max_epochs=arguments.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(module, train_loader, validation_loader)
    measured = {
        "epoch_seconds": clock.seconds,
        "val_accuracy": float(trainer.callback_metrics["val_accuracy"]),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    json.dump(measured, sys.stdout)


if __name__ == "__main__":
    main()
