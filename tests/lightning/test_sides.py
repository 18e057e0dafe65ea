"""The LightningModule as a subject of the ladder."""

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from ladder.adapters.lightning_layers import layer_row, trace_layers
from lightning_impl.trace import ImplementationSubject, built_subject
from pipeline.execution import Execution
from pipeline.recipe import preset
from tests.both.sides import (
    IMAGES,
    POINTS,
    RECIPE,
    check_segments,
    check_that_gradients_are_the_losss_slope,
    check_that_the_loss_is_the_mean_over_all_images,
    check_the_contract_of_the_tutorials_model,
)


@pytest.fixture(params=[False, True], ids=["fast", "plain"])
def subject(request):
    return built_subject(RECIPE, Execution(device="cpu", plain=request.param))


def test_points_and_segments_are_the_modules_own(subject):
    check_segments(subject)


def test_points_of_both_paths_are_the_same():
    fast, plain = (built_subject(RECIPE, Execution(device="cpu", plain=p)) for p in (False, True))
    points = [check_segments(each) for each in (fast, plain)]
    for name in POINTS:
        np.testing.assert_allclose(*(found[name] for found in points), atol=1e-12)
    with pytest.raises(ValueError, match="`pool1` runs before `act1` is reached"):
        fast.points(IMAGES, ["act1"])


def test_gradients_are_the_losss_slope(subject):
    check_that_gradients_are_the_losss_slope(subject)
    assert subject.model.train_accuracy.update_count == 0


def test_the_loss_is_the_mean_over_all_images(subject):
    check_that_the_loss_is_the_mean_over_all_images(subject)


def test_the_table_is_read_off_the_network():
    subject = built_subject(preset("dropout"), Execution(device="cpu"))
    network = subject.model.network
    rows = {row["name"]: row for row in subject.layer_table()}
    assert list(rows) == [name for name, _ in network.named_children()]
    assert rows["act1"]["output_shape"] == [28, 28, 32]  # though the fast path pools first
    assert rows["conv2"]["parameters"] == 18_496
    assert rows["pool3"] == {
        "name": "pool3", "kind": "max_pool", "output_shape": [4, 4, 128], "parameters": 0,
        "pool_size": [2, 2], "strides": [2, 2], "padding": "same",
    }  # fmt: skip
    assert rows["drop3"]["rate"] == pytest.approx(0.4)
    network.act1.negative_slope, network.pool3.ceil_mode = 0.01, False
    broken = ImplementationSubject(subject.model, subject.recipe, Execution(device="cpu"))
    changed = {row["name"]: row for row in broken.layer_table()}
    assert changed["act1"]["negative_slope"] == 0.01
    assert (changed["pool3"]["padding"], changed["pool3"]["output_shape"]) == ("valid", [3, 3, 128])
    assert changed["logits"]["output_shape"] is None  # never reached: `hidden` does not fit


class Odd(nn.Conv2d):
    """Pads bottom and right, as Keras does with a stride of 2."""

    def forward(self, images):
        return super().forward(functional.pad(images, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), {"padding": "same"}),
        (nn.Conv2d(2, 2, 3, padding="same"), {"padding": "same"}),
        (nn.Conv2d(2, 2, 3), {"padding": "valid"}),
        (nn.Conv2d(2, 2, 3, stride=2, padding=1), {"padding": "explicit (1, 1)"}),
        (Odd(2, 2, 3, stride=2), {"padding": "same", "kind": "convolution"}),
        (nn.MaxPool2d(2), {"padding": "valid"}),
        (nn.MaxPool2d(3, ceil_mode=True), {"padding": "same"}),
        (nn.MaxPool2d(2, stride=1, ceil_mode=True), {"padding": "valid"}),
        (nn.MaxPool2d(2, padding=1), {"padding": "explicit (1, 1)"}),
        (nn.AvgPool2d(5, padding=1, count_include_pad=False), {"padding": "same"}),
        (nn.AvgPool2d(5, padding=1), {"padding": "explicit (1, 1)"}),
        (nn.PixelShuffle(1), {"kind": "pixel_shuffle"}),
    ],
)
def test_a_layers_settings_are_what_it_computes(layer, expected):
    module = L.LightningModule()
    module.network = nn.Sequential(nn.Conv2d(2, 2, 1), layer)
    module.forward = module.network.forward
    row = layer_row(trace_layers(module, module, torch.zeros(1, 2, 8, 8))[1])
    assert {name: row[name] for name in expected} == expected


def test_the_contract_of_the_tutorials_module():
    contract = built_subject(preset("dropout"), Execution(device="cpu")).contract()
    check_the_contract_of_the_tutorials_model(contract, "channels_first")


def test_the_contract_says_what_is_unusual():
    class Unusual(ImplementationSubject):
        def at_start(self, use):
            module = self.model
            groups = [{"params": [module.network.logits.weight], "weight_decay": 0.25}]
            groups += [{"params": [module.network.hidden.bias]}]
            optimizer = torch.optim.AdamW(groups, 0.5, weight_decay=0.0)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            trainer = L.Trainer(gradient_clip_val=2, logger=False, accelerator="cpu")
            trainer.strategy.optimizers = [optimizer]
            trainer.strategy.lr_scheduler_configs = [
                L.pytorch.utilities.types.LRSchedulerConfig(schedule)
            ]
            return use(trainer, module)

    subject = built_subject(RECIPE, Execution(device="cpu"))
    module = subject.model

    def training_step(batch, batch_idx):
        module.log("train_accuracy", MulticlassAccuracy(10))
        module.log("error", torch.ones(()))
        shares = module(batch[0]).softmax(dim=1)
        return functional.cross_entropy(shares, batch[1], reduction="sum")

    module.training_step = training_step
    contract = Unusual(module, RECIPE, subject.execution).contract()
    found = contract["optimizer"]
    assert (found["kind"], found["epsilon_placement"]) == ("adam", "inside bias correction")
    assert (found["weight_decay"], found["weight_decay_kind"]) == (0.25, "decoupled")
    assert found["decayed"] == ["logits.kernel"]
    assert (found["clipping"], found["schedule"]) == ("global norm, at most 2", "each epoch")
    assert contract["loss"]["takes"] == "softmax of its outputs"
    assert contract["loss"]["reduction"] == "sum over the batch"
    assert contract["metrics"] == {
        "accuracy": "macro average over the classes",
        "error": "of the last batch",
    }
    assert "conv1.kernel" in contract["frozen"]
    assert "logits.kernel" not in contract["frozen"]


def test_weights_of_the_implementation_go_through_the_implementation(monkeypatch):
    subject = built_subject(preset("base"), Execution(device="cpu"))
    monkeypatch.setattr("lightning_impl.trace.export_weights", lambda *_: {"seen": np.ones(1)})
    assert list(subject.weights()) == ["seen"]
