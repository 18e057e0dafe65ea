"""What tests/both has to know of Lightning."""

# ruff: noqa: F401 (what is imported is part of it)

import torch
from lightning import Callback
from torch import manual_seed as set_seed

from lightning_impl import settings
from lightning_impl.model import build_model
from lightning_impl.train import steps_per_batch as steps_at_once
from lightning_impl.watch import Follow
from lightning_impl.weights import export_weights, load_weights

ENGINE = "lightning"
FRAMEWORKS = {"lightning", "torch"}
"""What a training loads."""
FIRST_LAYER = ("Conv2d", (32, 28, 28))
"""Of a run's first layer: its class and its output's shape."""
FIRST_KINDS = ("Conv2d", "LeakyReLU", "MaxPool2d")
NOISE = "GPU available: False"
"""A word that the framework prints by itself, which belongs in a run's log."""
NO_GPU = "torch sees no GPU here; use --device cpu"


def is_checkpoint(path):
    return bool(torch.load(path, weights_only=True)["state_dict"])


def follow(follower, recipe, steps_per_epoch):
    return Follow(follower, recipe, steps_per_epoch)
