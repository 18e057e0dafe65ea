"""A LightningModule as a subject of the ladder."""

import sys
from collections import OrderedDict

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from ladder.adapters.lightning import LightningSubject, main
from ladder.adapters.lightning_fit import AfterEachStep
from ladder.exchange import Question, read_trace, write_question
from lightning_impl.trace import ImplementationSubject, built_subject
from pipeline.execution import Execution
from pipeline.network import shared_first_weights
from pipeline.recipe import preset
from tests.both.sides import (
    CLASSES,
    IMAGES,
    check_segments,
    check_that_the_loss_is_the_mean_over_all_images,
    check_that_weights_survive_the_way_in_and_out,
    check_the_contract_of_the_tutorials_model,
)

SHAPE = IMAGES.shape[1:]


class Small(L.LightningModule):
    """A small module; `takes_one_hot` and `configured` make it unlike."""

    def __init__(self, takes_one_hot=False, configured=None):
        super().__init__()
        self.takes_one_hot, self.configured = takes_one_hot, configured
        self.network = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(2, 4, 3),
                norm=nn.BatchNorm2d(4),
                depthwise=nn.Conv2d(4, 8, 3, groups=4, bias=False),
                act=nn.LeakyReLU(0.25),
                drop=nn.Dropout(0.5),
                flatten=nn.Flatten(),
                logits=nn.Linear(8 * 4 * 4, 3),
            )
        )
        self.accuracy = MulticlassAccuracy(3, average="micro")

    def forward(self, images):
        return self.network(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        classes = labels.argmax(dim=1) if self.takes_one_hot else labels
        loss = functional.cross_entropy(self(images), classes)
        self.accuracy.update(self(images), classes)
        self.log("train_accuracy", self.accuracy, on_epoch=True)
        return {"loss": loss}

    def configure_optimizers(self):
        return self.configured or torch.optim.Adam(self.parameters(), 0.01)


class Nested(L.LightningModule):
    """Modules within modules, flattening and an activation in `forward`."""

    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"conv": nn.Conv2d(2, 4, 3), "pool": nn.MaxPool2d(2)})
        self.norm = nn.BatchNorm1d(36)
        self.head = nn.Linear(36, 3)

    def forward(self, images):
        values = functional.relu(self.block["pool"](self.block["conv"](images)))
        return self.head(self.norm(values.flatten(1)))

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def users_module():
    return Small(), {"gradient_clip_val": 2.0}


@pytest.fixture
def subject():
    torch.manual_seed(0)
    return LightningSubject(Small(), SHAPE)


def test_weights_survive_the_way_in_and_out(subject):
    check_that_weights_survive_the_way_in_and_out(subject, num_features=128)


def test_a_flattened_map_is_in_canonical_order(subject):
    points = subject.points(IMAGES, ["drop", "flatten", "logits"])
    np.testing.assert_array_equal(points["flatten"], points["drop"].reshape(6, -1))
    weights = subject.weights()
    by_hand = points["flatten"] @ weights["logits.kernel"] + weights["logits.bias"]
    np.testing.assert_allclose(by_hand, points["logits"], atol=1e-6)


def test_a_map_flattened_in_forward_is_known_too():
    torch.manual_seed(0)
    nested = LightningSubject(Nested(), SHAPE)
    assert nested.names == ["block.conv", "block.pool", "norm", "head"]
    points = nested.points(IMAGES, ["block.pool", "norm", "head"])
    flat = np.maximum(points["block.pool"], 0).reshape(6, -1)
    weights = nested.weights()
    np.testing.assert_allclose(flat / np.sqrt(1 + 1e-5), points["norm"], atol=1e-6)
    by_hand = points["norm"] @ weights["head.kernel"] + weights["head.bias"]
    np.testing.assert_allclose(by_hand, points["head"], atol=1e-6)
    weights["norm.gamma"] = np.arange(36, dtype=np.float32)
    nested.load_weights(weights)
    scaled = nested.points(IMAGES, ["norm"])["norm"]
    np.testing.assert_allclose(scaled, points["norm"] * np.arange(36), atol=1e-5)
    with pytest.raises(ValueError, match=r"no nn.Sequential"):
        nested.forced({"norm": flat}, ["norm"])


def test_names_can_be_given():
    renamed = LightningSubject(Small(), SHAPE, names={"network.conv": "first", "logits": "last"})
    assert (renamed.names[0], renamed.names[-1]) == ("first", "last")
    assert "last.kernel" in renamed.weights()


def test_the_table_is_read_off_the_network():
    subject = built_subject(preset("dropout"), Execution(device="cpu"))
    network = subject.classifier.network
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
    broken = ImplementationSubject(subject.classifier, Execution(device="cpu"))
    changed = {row["name"]: row for row in broken.layer_table()}
    assert changed["act1"]["negative_slope"] == 0.01
    assert (changed["pool3"]["padding"], changed["pool3"]["output_shape"]) == ("valid", [3, 3, 128])
    assert changed["logits"]["output_shape"] is None  # never reached: `hidden` does not fit


class Odd(nn.Conv2d):
    """Pads bottom and right, as Keras does with a stride of 2."""

    def forward(self, images):
        return super().forward(functional.pad(images, (0, 1, 0, 1)))


class Biased(nn.BatchNorm2d):
    """Moves towards the biased variance."""

    def forward(self, images):
        values = super().forward(images)
        if self.training:
            count = images.numel() / images.shape[1]
            shares = self.momentum * images.var((0, 2, 3)) / count
            self.running_var -= shares
        return values


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
        (nn.BatchNorm2d(2, momentum=0.25), {"momentum": 0.75, "moving_variance": "unbiased"}),
        (Biased(2), {"moving_variance": "biased", "kind": "batch_norm"}),
        (nn.AdaptiveAvgPool2d(1), {"kind": "global_average_pool", "output_shape": [1, 1, 2]}),
        (nn.PixelShuffle(1), {"kind": "pixel_shuffle"}),
    ],
)
def test_a_layers_settings_are_what_it_computes(layer, expected):
    class One(Nested):
        def __init__(self):
            L.LightningModule.__init__(self)
            self.network = nn.Sequential(OrderedDict(one=nn.Conv2d(2, 2, 1), layer=layer))

        def forward(self, images):
            return self.network(images)

    row = LightningSubject(One(), SHAPE).layer_table()[1]
    assert {name: row[name] for name in expected} == expected


def test_points_and_segments_are_the_modules_own(subject):
    names = ["norm", "act", "flatten", "logits"]
    points = subject.points(IMAGES, names)
    np.testing.assert_array_equal(points["logits"], subject.predict(IMAGES))
    check_segments(subject, points, names)


def test_points_of_both_paths_are_the_same():
    recipe = preset("base", conv_filters=(2, 3, 4), hidden_units=5)
    images = np.random.default_rng(0).random((3, 28, 28, 1)).astype(np.float32)
    found = []
    for plain in (False, True):
        subject = built_subject(recipe, Execution(device="cpu", plain=plain))
        subject.load_weights(shared_first_weights(recipe))
        names = ["conv1", "pool1", "conv2", "pool2", "pool3", "flatten", "hidden_act", "logits"]
        points = subject.points(images, names)
        inputs = {"pool1": points["conv1"], "hidden_act": points["flatten"]}
        found.append({**points, **subject.forced(inputs, names)})
    for name, array in found[0].items():
        np.testing.assert_allclose(array, found[1][name], atol=1e-6)
    fast = built_subject(recipe, Execution(device="cpu"))
    with pytest.raises(ValueError, match="`pool1` runs before `act1` is reached"):
        fast.points(images, ["act1"])


def test_gradients_are_the_losss_slope_and_leave_the_statistics():
    module = Small().double()
    module.network.drop.p = 0.0
    subject = LightningSubject(module, SHAPE)
    images, step = IMAGES.astype(np.float64), 1e-6
    before = subject.weights()
    gradients, loss = subject.gradients(images, CLASSES)
    for name, array in subject.weights().items():
        np.testing.assert_array_equal(array, before[name])
    trained = {name for name in before if "moving" not in name}
    assert set(gradients) == {"input", *trained}
    assert gradients["input"].shape == images.shape
    for name, place in (("conv.kernel", (1, 1, 0, 2)), ("logits.kernel", (77, 1))):
        moved = {**before, name: before[name].copy()}
        moved[name][place] += step
        subject.load_weights(moved)
        slope = (subject.gradients(images, CLASSES)[1] - loss) / step
        assert slope == pytest.approx(gradients[name][place], rel=1e-3)
    assert module.accuracy.update_count == 0


@pytest.mark.parametrize("takes_one_hot", [False, True])
def test_labels_are_given_as_the_step_takes_them(takes_one_hot):
    subject = LightningSubject(Small(takes_one_hot), SHAPE)
    check_that_the_loss_is_the_mean_over_all_images(subject)
    assert subject.one_hot is takes_one_hot


def test_steps_are_what_fit_takes_and_leave_the_module(subject):
    start = subject.weights()
    batches = [(IMAGES[:4], CLASSES[:4]), (IMAGES[4:], CLASSES[4:]), (IMAGES[:4], CLASSES[:4])]
    states = list(subject.steps(batches, steps_per_epoch=2))
    assert len(states) == 3
    assert {"loss", "weight.conv.kernel", "adam.m.conv.kernel", "adam.v.conv.kernel"} <= set(
        states[0]
    )
    moved = states[0]["weight.logits.bias"] - start["logits.bias"]
    np.testing.assert_allclose(np.abs(moved), 0.01, rtol=1e-3)
    assert not np.array_equal(states[1]["adam.v.conv.kernel"], states[2]["adam.v.conv.kernel"])
    for name, array in subject.weights().items():
        np.testing.assert_array_equal(array, start[name])


def test_a_fit_can_stop_after_a_step(subject):
    after = AfterEachStep(lambda module: subject, 1, stops=True)
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    batches = [(images, torch.from_numpy(CLASSES))] * 3
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    with pytest.raises(AfterEachStep.Reached):
        subject._fit(loader, after, max_epochs=1)
    assert len(after.states) == 1


def test_the_contract_of_the_tutorials_module():
    contract = built_subject(preset("dropout"), Execution(device="cpu")).contract()
    check_the_contract_of_the_tutorials_model(contract, "channels_first")


def test_the_contract_says_what_is_unusual():
    module = Small()
    module.network.conv.weight.requires_grad_(False)
    module.accuracy = MulticlassAccuracy(3)  # torchmetrics' own default averages over classes
    others = [parameter for parameter in module.parameters() if parameter.ndim == 1]
    groups = [{"params": [module.network.logits.weight], "weight_decay": 0.25}, {"params": others}]
    optimizer = torch.optim.AdamW(groups, 0.5, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    module.configured = {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(batch, batch_idx):
        module.log("train_accuracy", module.accuracy)
        module.log("error", torch.ones(()))
        shares = module(batch[0]).softmax(dim=1)
        return functional.cross_entropy(shares, batch[1], reduction="sum")

    module.training_step = training_step
    contract = LightningSubject(module, SHAPE, options={"gradient_clip_val": 2}).contract()
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
    assert contract["frozen"] == ["conv.kernel", "depthwise.kernel"]


def test_weights_of_the_implementation_go_through_the_implementation(monkeypatch):
    subject = built_subject(preset("base"), Execution(device="cpu"))
    monkeypatch.setattr("lightning_impl.trace.export_weights", lambda *_: {"seen": np.ones(1)})
    assert list(subject.weights()) == ["seen"]


def test_a_users_module_answers_a_question(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "users_module", sys.modules[__name__])
    question = Question(
        ("contract", "layers", "cases"),
        {"cases": ["all"], "precision": "64"},
        {"images.all": IMAGES, "labels.all": CLASSES},
    )
    write_question(tmp_path / "question", question)
    assert main("users_module:users_module", tmp_path / "question", tmp_path / "trace") == 0
    trace = read_trace(tmp_path / "trace", question)
    assert trace.arrays["logits.all"].shape == (6, 3)
    assert trace.arrays["logits.all"].dtype == np.float64
    assert trace.facts["contract"]["optimizer"]["clipping"] == "global norm, at most 2"
    assert trace.facts["contract"]["dtypes"] == {"compute": "float64", "weights": "float64"}
