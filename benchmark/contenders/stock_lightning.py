"""What a newcomer to Lightning writes for this network: torchvision, DataLoader, ToTensor.

A program that is measured: it shares no code with the project on purpose.
`stock_lightning.py --data-dir D --epochs N --workers N`; prints JSON. `workers` is the one thing
that a newcomer is told to try.
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
    """Seconds until all is built, of the first step, and of each epoch with its validation."""

    def __init__(self) -> None:
        self.measured = {"epoch_seconds": [], "history": []}

    def on_train_start(self, trainer, pl_module):
        """Note that the first step is about to be taken."""
        self.measured["built_at"] = time.time()
        self.built = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Note the first step."""
        if "first_step_seconds" not in self.measured:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self.measured["first_step_seconds"] = time.perf_counter() - self.built

    def on_train_epoch_start(self, trainer, pl_module):
        """Start the clock."""
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer, pl_module):
        """Stop the clock."""
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        # Numbers first: a GPU is done when they are there.
        self.measured["history"].append({n: float(trainer.callback_metrics[n]) for n in names})
        self.measured["epoch_seconds"].append(time.perf_counter() - self.began)
        self.measured["device"] = "gpu" if pl_module.device.type == "cuda" else "cpu"
        print("epoch", flush=True)  # to whoever measures energy


def main() -> None:
    """Train and print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.parent.mkdir()
        raw.symlink_to(arguments.data_dir.resolve())
        images, test_images = (
            FashionMNIST(folder, train=train, transform=transforms.ToTensor())
            for train in (True, False)
        )
        train, validation = train_test_split(np.arange(len(images)), test_size=0.2, random_state=13)
        options = {"batch_size": arguments.batch_size, "num_workers": arguments.workers}
        options["persistent_workers"] = arguments.workers > 0
        options["pin_memory"] = arguments.device == "gpu"
        train_loader = DataLoader(Subset(images, train), shuffle=True, **options)
        validation_loader = DataLoader(Subset(images, validation), **options)
        module, clock = Classifier(), EpochClock()
        trainer = L.Trainer(
            accelerator=arguments.device,
            devices=1,  # left to itself, Lightning takes every GPU
            max_epochs=arguments.epochs,
            precision="bf16-mixed" if arguments.precision == "bf16" else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(module, train_loader, validation_loader)
        test_loader = DataLoader(test_images, **options)
        (tested,) = trainer.validate(module, test_loader, verbose=False)
    measured = clock.measured
    measured["test_accuracy"] = tested["val_accuracy"]
    measured["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump(measured, sys.stdout)


if __name__ == "__main__":
    main()
