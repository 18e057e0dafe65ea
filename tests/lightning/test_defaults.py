"""The defaults of torch and Lightning that docs/keras-lightning-map.md tells of."""

import inspect
import subprocess
import sys

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

DEFAULTS = [
    (nn.LeakyReLU, "negative_slope", 0.01),
    (nn.Conv2d, "padding", 0),
    (nn.MaxPool2d, "padding", 0),
    (nn.MaxPool2d, "ceil_mode", False),
    (torch.optim.Adam, "lr", 0.001),
    (torch.optim.Adam, "betas", (0.9, 0.999)),
    (torch.optim.Adam, "eps", 1e-8),
    (DataLoader, "batch_size", 1),
    (DataLoader, "shuffle", None),
    (DataLoader, "drop_last", False),
    (L.Trainer, "max_epochs", None),
    (L.Trainer, "num_sanity_val_steps", None),
    (L.Trainer, "log_every_n_steps", None),
    (L.Trainer, "devices", "auto"),
    (L.Trainer, "accelerator", "auto"),
    (L.Trainer, "strategy", "auto"),
    (L.Trainer, "precision", None),
    (L.Trainer, "deterministic", None),
    (L.Trainer, "use_distributed_sampler", True),
    (EarlyStopping, "monitor", inspect.Parameter.empty),
    (EarlyStopping, "patience", 3),
    (ModelCheckpoint, "monitor", None),
    (ModelCheckpoint, "save_top_k", 1),
    (L.seed_everything, "workers", False),
]


def default(function, argument):
    return inspect.signature(function).parameters[argument].default


@pytest.mark.parametrize(("function", "argument", "value"), DEFAULTS)
def test_a_default_is_what_the_map_says(function, argument, value):
    assert default(function, argument) == value


def test_another_default_would_be_seen():
    assert default(nn.LeakyReLU, "negative_slope") != 0.3


def test_a_trainer_fills_in_what_is_none(tmp_path):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    assert (trainer.num_sanity_val_steps, trainer.log_every_n_steps) == (2, 50)
    assert trainer.precision == "32-true"
    assert len(trainer.checkpoint_callbacks) == 1


def test_a_module_drops_until_eval_is_called():
    module = nn.Dropout(0.5)
    ones = torch.ones(1, 1000)
    assert not torch.equal(module(ones), ones)
    assert torch.equal(module.eval()(ones), ones)


def test_first_weights_are_of_one_width_and_biases_are_not_zero():
    layer = nn.Linear(2048, 128)
    for parameter in (layer.weight, layer.bias):
        assert 0 < parameter.abs().max() <= 2048**-0.5


def test_tensor_float_32_is_on_in_cudnn_alone():
    code = "import torch; "
    code += "print(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)"
    command = [sys.executable, "-c", code]  # no test has set it in a process of its own
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
