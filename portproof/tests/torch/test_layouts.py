"""In which layout the torch program records what a module does: crops, features of steps, drops."""

import numpy as np
import pytest
import torch
from portproof.graph.calls import Graph
from portproof.record.torch import TorchModel, open_model
from torch import nn
from torch.nn import functional as F


def opened(build, shape) -> tuple[TorchModel, Graph, list[np.ndarray]]:
    model = open_model(build())[0]
    x = [np.random.default_rng(0).normal(size=(4, *shape))]
    return model, Graph.from_dict(model.describe(x)), x


class Cut(nn.Module):
    """A transposed convolution of which a slice cuts off the end, joined with what it came from."""

    def __init__(self, cut):
        super().__init__()
        self.norm, self.cut = nn.BatchNorm2d(3), cut
        self.up = nn.ConvTranspose2d(3, 3, 3, 2)

    def forward(self, x):
        x = self.norm(x)
        return torch.cat([x[:, :, ::2, ::2], self.cut(self.up(x[:, :, ::4, ::4]))], 1)


@pytest.mark.parametrize(
    "cut", [lambda y: y[..., :-1, :-1], lambda y: F.pad(y, (0, -1, 0, -1))], ids=["slice", "pad"]
)
def test_what_is_cut_off_right_behind_a_transposed_convolution_is_its_crop(cut) -> None:
    model, graph, x = opened(lambda: Cut(cut), (8, 8, 3))
    (call,) = [c for c in graph.calls if c.kind == "deconv"]
    assert call.settings["crop"] == [[0, 1], [0, 1]]
    assert call.out_shape == [4, 4, 4, 3]
    free = model.replay(x, {}, {})
    forced = model.replay(x, {}, free)
    assert np.allclose(forced["alone.1"], free["out.1"], rtol=0, atol=1e-14)
    trials = [{"call": 1, "settings": {"crop": [[1, 0], [1, 0]]}}]
    assert model.vary(trials, free)["alone.0"].shape == (4, 4, 4, 3)


class Columns(nn.Module):
    """Each column of maps, channels first, is what a step of a sequence takes."""

    def __init__(self, is_recurrent):
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 1)
        self.steps = nn.LSTM(8, 2, batch_first=True) if is_recurrent else nn.Linear(8, 2)

    def forward(self, x):
        columns = self.maps(x).permute(0, 3, 1, 2).flatten(2)
        made = self.steps(F.relu(columns))
        return made[0] if isinstance(made, tuple) else made


@pytest.mark.parametrize("is_recurrent", [False, True])
def test_features_of_a_step_stand_in_the_order_of_maps_with_channels_last(is_recurrent) -> None:
    model, graph, x = opened(lambda: Columns(is_recurrent), (4, 5, 3))
    free = model.replay(x, {}, {})
    columns = np.maximum(free["out.0"], 0).transpose(0, 2, 1, 3).reshape(4, 5, 8)
    assert np.array_equal(free["in.1"], columns)
    forced = model.replay(x, {}, {"in.1": columns})
    assert np.allclose(forced["alone.1"], free["out.1"], rtol=0, atol=1e-14)
    kernel = model.weights()[f"{graph.calls[1].key}|kernel"]
    if not is_recurrent:
        bias = model.weights()[f"{graph.calls[1].key}|bias"]
        assert np.allclose(columns @ kernel + bias, free["out.1"], rtol=0, atol=1e-14)


def drop_connect(inputs, p, training):
    """As published EfficientNets have it."""
    if not training:
        return inputs
    kept = torch.floor(1 - p + torch.rand(len(inputs), 1))
    return inputs / (1 - p) * kept


class DropPath(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return drop_connect(x, self.rate, self.training)


class Dropped(nn.Module):
    """Drops samples by a function, and by a module that calls it."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.path = nn.Linear(3, 3), nn.Linear(3, 2), DropPath(0.25)

    def forward(self, x):
        x = x + drop_connect(inputs=self.first(x), p=0.5, training=self.training)
        return self.path(self.last(x))


def test_a_norm_over_all_axes_of_a_map_has_its_weights_channels_last() -> None:
    model, graph, x = opened(
        lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.LayerNorm([2, 4, 5]), nn.Conv2d(2, 1, 1)),
        (4, 5, 3),
    )
    assert [c.roles.get("gamma") for c in graph.calls] == [None, [4, 5, 2], None]
    rng = np.random.default_rng(1)
    model.fill({name: rng.normal(size=a.shape) for name, a in model.weights().items()})
    seen, own = model.replay(x, {}, {}), model.weights()
    a = seen["in.1"]
    normal = (a - a.mean((1, 2, 3), keepdims=True)) / np.sqrt(
        a.var((1, 2, 3), keepdims=True) + graph.calls[1].settings["epsilon"]
    )
    gamma, beta = (own[f"{graph.calls[1].key}|{role}"] for role in ("gamma", "beta"))
    assert np.allclose(normal * gamma + beta, seen["out.1"], rtol=0, atol=1e-12)


def test_a_slice_behind_a_padded_convolution_pads_less() -> None:
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.o = nn.Conv1d(3, 2, 3, padding=4, dilation=2), nn.Conv1d(2, 2, 3, 2, 1)

        def forward(self, x):
            return self.o(self.c(x)[:, :, :-4].sigmoid())[:, :, 1:]

    model, graph, x = opened(Causal, (9, 3))
    assert [c.settings["padding"] for c in graph.calls] == [[[4, 0]], [[1, 1]]]
    assert [c.then for c in graph.calls] == ["sigmoid", "getitem"]
    free = model.replay(x, {}, {})
    forced = model.replay(x, {}, free)
    assert np.allclose(forced["alone.0"], free["out.0"], rtol=0, atol=1e-14)


def test_functions_that_drop_samples_drop_none_and_their_rates_are_noted_once() -> None:
    model, graph, x = opened(Dropped, (3,))
    assert graph.calls[1].drops == ["0.5 of samples"]
    assert graph.outputs[0].drops == ["0.25 of samples"]
    evaluated = model.replay(x, {}, {})["final.0"]
    assert np.array_equal(model.replay(x, {"train": True}, {})["final.0"], evaluated)
    assert drop_connect.__module__ == __name__


def test_a_training_pass_that_fails_leaves_no_statistic_moved() -> None:
    """Numbers of another shape are handed on first, which `cat` does not take."""
    model, _, x = opened(lambda: Cut(lambda y: y[..., :-1, :-1]), (8, 8, 3))
    force = {"out.1": np.ones((4, 3, 3, 3))}
    moved = [model.replay(x, {"train": True}, given) for given in ({}, force)]
    name = next(n for n in moved[0] if n.endswith("moving_mean"))
    assert np.array_equal(moved[0][name], moved[1][name])
