"""The defaults of torch and Lightning that docs/keras-lightning-map.md tells of."""

import inspect

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from tests.programs import run_python

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
    (EarlyStopping, "mode", "min"),
    (ModelCheckpoint, "monitor", None),
    (ModelCheckpoint, "save_top_k", 1),
    (L.seed_everything, "workers", False),
]


@pytest.mark.parametrize(("function", "argument", "value"), DEFAULTS)
def test_a_default_is_what_the_map_says(function, argument, value):
    assert inspect.signature(function).parameters[argument].default == value


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


def test_batch_normalisation_takes_in_a_tenth():
    layer = nn.BatchNorm1d(1)
    layer(torch.tensor([[1.0], [3.0]]))
    assert torch.allclose(layer.running_mean, torch.tensor(0.1 * 2.0))
    assert torch.allclose(layer.running_var, torch.tensor(0.9 + 0.1 * 2.0))  # over N - 1
    assert layer.eps == 1e-5


lightnings_own = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:The 'train_dataloader' does not have many workers"
)


class TwoWeights(L.LightningModule):
    """Two weights whose gradients are 3 and 4, and a rate that is divided by ten at each step."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(2)])
        self.rates, self.modes = [], []

    def training_step(self, batch):
        self.modes.append(self.training)
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return 3 * self.weights[0].sum() + 4 * self.weights[1].sum()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)]


def trained(tmp_path, is_training=True, **options):
    module = TwoWeights().train(is_training)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.zeros(3, 1)))
    return module


@lightnings_own
def test_a_scheduler_is_stepped_by_epoch(tmp_path):
    rates = trained(tmp_path, max_epochs=2).rates
    assert rates == pytest.approx([1.0] * 3 + [0.1] * 3)


@lightnings_own
@pytest.mark.filterwarnings("ignore:Found 2 module")  # it warns of just this
@pytest.mark.parametrize("is_training", [True, False])
def test_fit_keeps_the_mode_that_it_finds(tmp_path, is_training):
    assert trained(tmp_path, is_training, max_steps=1).modes == [is_training]


@lightnings_own
def test_gradients_are_clipped_by_one_norm(tmp_path):
    module = trained(tmp_path, max_steps=1, gradient_clip_val=1.0)
    moved = [-float(weight.detach()) for weight in module.weights]
    assert moved == pytest.approx([0.6, 0.8], rel=1e-4)


@pytest.mark.slow
def test_tensor_float_32_is_on_in_cudnn_alone():
    code = "import torch; "
    code += "print(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)"
    # No test has set it in a process of its own.
    assert run_python("-c", code, check=True).stdout == "True False\n"
