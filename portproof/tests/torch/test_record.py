"""What the torch program records of a module, and that forced and free replays agree."""

import numpy as np
import pytest
import torch
from portproof.graph.calls import Graph
from portproof.record.program import SetUpError, batches_of, made_batches, one_line
from portproof.record.torch import TorchModel, open_model
from portproof.record.torch_steps import described
from torch import nn
from torch.nn import functional as F


class Functional(nn.Module):
    """Bare parameters, functions, views, operations in place, weights made of parameters."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))
        self.both = nn.Parameter(torch.zeros(8, 4))
        self.turned = nn.Parameter(torch.zeros(4, 6))
        self.shift = nn.Parameter(torch.zeros(2, 3))

    def forward(self, x):
        x = F.linear(x, self.weight)
        x.relu_()
        first, second = self.both.chunk(2)
        x = F.linear(x, second) + F.linear(x, first)
        blocks = torch.cat([self.turned[:, 3:], self.turned[:, :3]], 1)
        return (x @ blocks).view(-1, 2, 3) + self.shift


class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.second = nn.GRU(8, 5)

    def forward(self, x):
        x = self.first(x)[0]
        return self.second(x.transpose(0, 1))[1][-1]


class Folded(nn.Module):
    """Samples and steps folded into rows for a product, as GPT-2's Conv1D does."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(6))
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        rows = torch.addmm(self.bias, x.view(-1, 4), self.weight)
        return self.last(F.gelu(rows)).view(*x.shape[:-1], 2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.MultiheadAttention(4, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(4, 2)

    def forward(self, x):
        x = x + self.own(x, x, x, need_weights=False)[0]
        t = x.transpose(0, 1)
        return self.cross(t, t[:3], t[:3])[0].transpose(0, 1)


def images():
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(True),
        nn.Conv2d(4, 8, 3, padding="same", groups=2, dilation=2), nn.GroupNorm(2, 8),
        nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), nn.PReLU(4), nn.InstanceNorm2d(4, affine=True),
        nn.Flatten(), nn.Linear(4 * 64, 3),
    )  # fmt: skip


MODULES = [
    (Functional, (3,), ["dense"] * 4 + ["weight"]),
    (Sequences, (6, 3), ["lstm"] * 4 + ["gru"]),
    (Attention, (5, 4), ["dense"] * 8),
    (Folded, (5, 4), ["dense", "dense"]),
    (
        images, (8, 8, 3),
        ["conv", "batch_norm", "conv", "group_norm", "deconv", "prelu", "group_norm", "dense"],
    ),
    (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (9, 3), ["conv", "batch_norm"]),
    (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), (5, 3), ["dense", "layer_norm"]),
]  # fmt: skip


def opened(build, shape, rows=4) -> tuple[TorchModel, Graph, list[np.ndarray]]:
    torch.manual_seed(0)
    model, _ = open_model(build())
    x = [np.random.default_rng(0).normal(size=(rows, *shape))]
    return model, Graph.from_dict(model.describe(x)), x


def drawn(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        f"{c.key}|{role}": rng.uniform(0.2, 0.8, shape)
        for c in graph.calls
        for role, shape in c.roles.items()
    }


@pytest.mark.parametrize(("build", "shape", "kinds"), MODULES)
def test_every_weight_is_found_filled_and_replayed(build, shape, kinds) -> None:
    model, graph, x = opened(build, shape)
    assert [c.kind for c in graph.calls] == kinds
    assert graph.counted == graph.total == sum(p.numel() for p in model.module.parameters())
    assert (graph.uncovered, graph.unreadable) == ([], [])
    before = model.replay(x, {}, {})
    assert model.fill(drawn(graph)) == []
    free = model.replay(x, {}, {})
    assert not np.allclose(before["final.0"], free["final.0"])
    forced = model.replay(x, {}, {k: v for k, v in free.items() if k[:3] in ("in.", "out")})
    with torch.no_grad():
        plain = model.module(model._tensor(x[0], 0))
    assert np.allclose(np.sort(plain.numpy().ravel()), np.sort(free["final.0"].ravel()), atol=1e-12)
    for i in range(len(kinds)):
        for name in (f"alone.{i}", f"out.{i}"):
            assert np.allclose(forced[name], free[f"out.{i}"], rtol=0, atol=1e-12), name


@pytest.mark.parametrize(("build", "shape", "kinds"), MODULES)
def test_gradients_through_the_whole_are_those_of_autograd(build, shape, kinds) -> None:
    model, graph, x = opened(build, shape)
    model.fill(drawn(graph))
    found = model.replay(x, {"train": True}, {})
    ours = [v for k, v in found.items() if k.startswith("grad|")]
    assert len(ours) == sum(
        1 for c in graph.calls for role in c.roles if not role.startswith("moving")
    )
    whole = sum(float((p.grad**2).sum()) for p in model.module.parameters() if p.grad is not None)
    assert np.isclose(sum(float((g**2).sum()) for g in ours), whole)
    assert np.array_equal(model.replay(x, {"train": True}, {})["final.0"], found["final.0"])


def test_local_gradients_are_of_the_call_alone() -> None:
    model, graph, x = opened(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)
    )
    free = model.replay(x, {}, {})
    force = {k: v for k, v in free.items() if k.startswith("out.")}
    found = model.replay(x, {"train": True, "seeds": {"0": [(5, 0)]}}, force)
    factors = np.random.default_rng(5).normal(size=(4, 4))
    assert np.allclose(found[f"grad|{graph.calls[0].key}|kernel"], x[0].T @ factors)


def test_weights_that_are_no_permutation_of_parameters_are_said() -> None:
    _, graph, _ = opened(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), (3,))
    assert len(graph.unreadable) == 1
    assert graph.unreadable[0].endswith("|kernel")
    assert sum(size for _, size in graph.uncovered) > 0


def test_a_parameter_that_no_call_uses_is_said() -> None:
    class Spare(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.spare = nn.Parameter(torch.zeros(5))

    _, graph, _ = opened(Spare, (3,))
    assert graph.uncovered == [("spare", 5)]
    assert graph.total - graph.counted == 5


@pytest.mark.parametrize(
    ("build", "shape", "layout"),
    [
        (lambda: nn.Conv2d(3, 4, 3), (8, 8, 3), "channels first"),
        (lambda: nn.Conv2d(3, 4, 3), (3, 8, 3), "channels first"),
        (lambda: nn.Conv1d(6, 4, 3), (6, 6), "channels first"),
        (lambda: nn.LSTM(6, 4, batch_first=True), (6, 6), "as given"),
        (lambda: nn.Linear(6, 4), (6, 6), "as given"),
    ],
)
def test_where_channels_go_follows_from_what_reads_them(build, shape, layout) -> None:
    _, graph, _ = opened(build, shape)
    assert graph.about["inputs"] == [layout]


@pytest.mark.parametrize(
    ("real", "asked"),
    [
        (lambda x: x.float() / 255, ""),
        (lambda x: x.to(torch.float32) / 255, ""),
        (lambda x: x / torch.full((), 255, dtype=torch.float32), ""),
        (lambda x: x.to(dtype=torch.float16) / 255, "float16"),
        (lambda x: x.bfloat16() / 255, "bfloat16"),
    ],
)
def test_images_of_whole_numbers_go_channels_first_and_all_is_float64(real, asked) -> None:
    class Scaling(nn.Conv2d):
        def forward(self, x):
            return super().forward(real(x).to(self.weight.dtype))

    model = TorchModel(Scaling(3, 4, 3))
    images = np.arange(4 * 8 * 8 * 3).reshape(4, 8, 8, 3)
    about = model.describe([images])["about"]
    assert (about["inputs"], about["precision"]) == (["channels first"], asked)
    seen = model.replay([images], {}, {})["in.0"]
    assert np.array_equal(seen, images / 255)


def test_a_module_that_turns_its_input_itself_gets_it_as_given() -> None:
    class Turning(nn.Conv2d):
        def forward(self, x):
            return super().forward(x.permute(0, 3, 1, 2))

    _, graph, _ = opened(lambda: Turning(5, 4, 3), (5, 5, 5))
    assert graph.about["inputs"] == ["as given"]
    assert graph.calls[0].in_shape == [4, 5, 5, 5]


def test_dropout_is_noted_and_drops_nothing() -> None:
    build = lambda: nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.4), nn.Linear(50, 2))  # noqa: E731
    model, graph, x = opened(build, (3,))
    assert [c.drops for c in graph.calls] == [[], ["0.4"]]
    trained = model.replay(x, {"train": True}, {})
    assert np.array_equal(trained["final.0"], model.replay(x, {}, {})["final.0"])
    recurrent = lambda: nn.LSTM(3, 4, 3, dropout=0.2, batch_first=True)  # noqa: E731
    assert [c.drops for c in opened(recurrent, (6, 3))[1].calls] == [[], ["0.2"], ["0.2"]]


def test_features_flattened_from_maps_stand_in_order_of_channels_last() -> None:
    build = lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3))  # noqa: E731
    model, _, x = opened(build, (2, 2, 1))
    seen = model.replay(x, {}, {})
    assert np.array_equal(seen["in.1"], seen["out.0"].reshape(4, 8))


def test_folded_rows_are_samples_and_steps_again() -> None:
    _, graph, _ = opened(Folded, (5, 4))
    assert [(c.in_shape, c.out_shape) for c in graph.calls] == [
        ([4, 5, 4], [4, 5, 6]),
        ([4, 5, 6], [4, 5, 2]),
    ]


def test_samples_stand_first_in_every_call_of_an_attention() -> None:
    _, graph, _ = opened(Attention, (5, 4))
    assert [c.in_shape for c in graph.calls] == [
        *[[4, 5, 4]] * 4, [4, 5, 4], *[[4, 3, 4]] * 2, [4, 5, 4],
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "build",
    [nn.ReLU, lambda: nn.LazyLinear(3), lambda: torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3))],
)
def test_a_module_without_weights_or_of_torchscript_is_refused(build) -> None:
    with pytest.raises(SetUpError):
        open_model(build())


def test_an_input_that_does_not_fit_is_said_in_a_line() -> None:
    with pytest.raises(SetUpError, match=r"does not take inputs of shape \(4, 5\): RuntimeError"):
        opened(lambda: nn.Linear(3, 4), (5,))
    with pytest.raises(SetUpError, match="does not take all integers below 6, which it was fed"):
        open_model(nn.Embedding(3, 4))[0].describe([np.array([[1, 5]])])


class Detached(nn.Linear):
    def forward(self, x):
        return super().forward(x.detach())


class Positive(nn.Linear):
    def forward(self, x):
        return super().forward(x) > 0


def test_an_input_that_no_gradient_reaches_has_zeros() -> None:
    model, _, x = opened(lambda: Detached(3, 2), (3,))
    assert np.array_equal(model.replay(x, {"train": True}, {})["input.0"], np.zeros((4, 3)))


def test_truth_values_have_no_gradients_and_that_is_said() -> None:
    model, _, x = opened(lambda: Positive(3, 2), (3,))
    assert model.replay(x, {}, {})["final.0"].dtype == bool
    with pytest.raises(SetUpError, match="no real numbers, which have no gradients"):
        model.replay(x, {"train": True}, {})


BATCHES = """
import numpy as np

x, y = np.ones((2, 3), "float32"), np.ones(2, "int64")

def in_float32(): return [(x, y)]
def of_two(): return [(x, [y, y]), (x, {"b": y, "a": y}, y / 2)]
def of_texts(): return [(x, ["a", "b"])]
def without_inputs(): return [(x, y), ([], y)]
def of_a_number(): return [(x, y), (1.0, y)]
def without_rows(): return [(x, y), (x[:0].astype(int), y[:0])]
def of_names(): return [({"b": x, "a.1": y}, y), ({"a.1": y, "b": x}, y)]
def of_other_names(): return [({"b": x}, y), ({"a": x}, y)]
"""


def test_batches_are_taken_in_float64_with_several_targets_and_weights(tmp_path) -> None:
    (tmp_path / "batches.py").write_text(BATCHES)
    made = made_batches(f"{tmp_path}/batches.py:in_float32")
    assert {name: a.dtype.name for name, a in made.items()} == {"x.0.0": "float64", "y.0": "int64"}
    (_, first, none), (_, second, (weights,)) = batches_of(
        made_batches(f"{tmp_path}/batches.py:of_two")
    )
    assert [len(first), none, sorted(second), weights.tolist()] == [2, [], ["a", "b"], [0.5, 0.5]]
    with pytest.raises(SetUpError, match="must return batches of numbers"):
        made_batches(f"{tmp_path}/batches.py:of_texts")
    for name in ("without_inputs", "of_a_number", "without_rows"):
        with pytest.raises(SetUpError, match=r"batch 2 needs inputs with one or more rows"):
            made_batches(f"{tmp_path}/batches.py:{name}")
    with pytest.raises(SetUpError, match="batch 2 has other inputs than the first"):
        made_batches(f"{tmp_path}/batches.py:of_other_names")


def test_inputs_in_a_dictionary_keep_names_and_one_order(tmp_path) -> None:
    (tmp_path / "batches.py").write_text(BATCHES)
    batches = f"{tmp_path}/batches.py:of_names"
    assert sorted(made_batches(batches)) == [
        *("x.0.0.b", "x.0.1.a.1", "x.1.0.b", "x.1.1.a.1", "y.0", "y.1")
    ]
    (xs, *_), _ = batches_of(made_batches(batches, ["a.1", "b"]))
    assert [x.shape for x in xs] == [(2,), (2, 3)]


class Tied(nn.Module):
    """A head that reads the embedding's table, and a bias; precisions that float64 ignores."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.head(self.table(tokens))


def test_a_weight_that_another_module_reads_is_a_call_in_the_same_place() -> None:
    model, _ = open_model(Tied(), {"precision": "bf16-mixed"})
    graph = Graph.from_dict(model.describe([np.arange(8).reshape(4, 2)]))
    assert [c.kind for c in graph.calls] == ["embedding", "weight", "weight"]
    assert graph.calls[1].place("value") == graph.calls[0].place("table")
    assert (graph.uncovered, graph.counted) == ([], graph.total)
    assert graph.about["precision"] == "precision=bf16-mixed, torch.autocast"


def test_a_users_conversion_fills_the_module_in_place_or_by_a_state_dict() -> None:
    model, graph, _ = opened(lambda: nn.Linear(3, 2, bias=False), (3,))
    kernel = np.arange(6.0).reshape(3, 2)
    model.convert(
        lambda weights, module: {"weight": weights["dense/kernel"].T}, {"dense/kernel": kernel}
    )
    assert np.array_equal(model.weights()[f"{graph.calls[0].key}|kernel"], kernel)
    model.convert(lambda weights, module: module.weight.zero_().sum().item() or None, {})
    assert not model.native()["weight"].any()


def test_an_error_is_told_in_one_line_that_says_what_is_wrong() -> None:
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(3, 2).load_state_dict({})
    assert one_line(caught.value).startswith(
        "RuntimeError: Error(s) in loading state_dict for Linear: Missing"
    )
    called = "Exception encountered when calling A.call().\n\n\x1b[1mno such place\x1b[0m"
    assert one_line(ValueError(called)) == "ValueError: no such place"


def test_a_norm_without_an_epsilon_has_that_of_the_numbers_it_was_made_for() -> None:
    single, double = (nn.RMSNorm(3, dtype=dtype) for dtype in (torch.float32, torch.float64))
    for norm, dtype in ((single, torch.float32), (double, torch.float64)):
        _, graph, _ = opened(lambda norm=norm: norm, (3,))
        assert graph.calls[0].settings["epsilon"] == torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("made", "optimizer"),
    [
        (lambda sgd: sgd, "SGD("),
        (lambda sgd: {"optimizer": sgd}, "SGD("),
        (lambda sgd: ({"optimizer": sgd},), "SGD("),
        (lambda sgd: ([sgd], []), "SGD("),
        (lambda sgd: None, "none"),
        (lambda sgd: 1 / 0, "known to its Trainer alone"),
    ],
)
def test_an_optimizer_is_read_in_each_form_that_lightning_takes(made, optimizer) -> None:
    module = nn.Linear(3, 2)
    module.configure_optimizers = lambda: made(torch.optim.SGD(module.parameters(), 0.5))
    found = described(module, {})
    assert found["optimizer"].startswith(optimizer)
    assert ("options" in found) == (optimizer == "SGD(")
