"""What tests/both has to know of Lightning."""

# ruff: noqa: F401 (what is imported is part of it)

import torch
from lightning import Callback
from torch import manual_seed as set_seed

from lightning_impl import model, settings
from lightning_impl.fast import STEPS_PER_BATCH as STEPS_AT_ONCE
from lightning_impl.model import build_model
from lightning_impl.train import predict_logits, train
from lightning_impl.train import steps_per_batch as steps_at_once
from lightning_impl.watch import AtSeams, Follow, InjectMasks, NoteMasks
from lightning_impl.weights import export_weights, load_weights

ENGINE = "lightning"
FRAMEWORKS = {"lightning", "torch"}
"""What a training loads."""
FIRST_LAYERS = [
    ("conv1", "Conv2d", (32, 28, 28), 320),
    ("act1", "LeakyReLU", (32, 28, 28), 0),
    ("pool1", "MaxPool2d", (32, 14, 14), 0),
]
"""Of a run: name, class, its output's shape and parameters."""
WATCHED = "64"
"""The precision at which it is watched, and the gaps there: of masks in calls of several steps, and
of a training whose own masks are noted."""
SAME = ROUNDING = 1e-12
FILE_LIMITS = (1_000_000, 2_000_000)
"""Bytes; the weights are 1.4 MB, a checkpoint 4.3 MB."""
NOISE = "GPU available: False"
"""A word that the framework prints by itself, which belongs in a run's log."""
NO_GPU = "torch sees no GPU here; use --device cpu"


def is_checkpoint(path):
    return bool(torch.load(path, weights_only=True)["state_dict"])


def follow(follower, recipe, steps_per_epoch):
    return Follow(follower, recipe, steps_per_epoch)


def export_trained(module, recipe):
    return export_weights(module.network, recipe)


def built_in(recipe, dtype):
    """Return the network with weights of that dtype."""
    return build_model(recipe).to(getattr(torch, dtype))


def layers_of(network):
    return model.layers_of(network, 28)


def logits(network, images):
    return network(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()


def steps_in_a_call(masks):
    """Return for how many steps `InjectMasks` has drawn at once."""
    return masks.num_steps


def as_numpy(values):
    return values.numpy()
