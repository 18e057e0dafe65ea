"""Layers of the user's own: what they are is inferred from numbers, and ports by hand pass."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from portproof.adapter import Adapter, adapter_of, is_tried
from portproof.checking import CheckError, check
from portproof.record.inferred import infer, may_be_inferred

PAIRS = Path(__file__).parent / "pairs"


class Layer:
    """Something to be inferred."""


def found_in(formula, shape=(4, 5, 6), **shapes) -> Adapter | None:
    layer = Layer()
    weights = {name: np.zeros(size) for name, size in shapes.items()}
    assert may_be_inferred(weights)
    infer(layer, lambda x, w: formula(x, **w), shape, weights)
    assert is_tried(layer)
    return adapter_of(layer)


def norm(x, axis=-1, centred=True, epsilon=1e-5, less=0, beside=False):
    center = x - x.mean(axis, keepdims=True) if centred else x
    variance = (center**2).sum(axis, keepdims=True) / (x.shape[axis] - less)
    return center / (np.sqrt(variance) + epsilon if beside else np.sqrt(variance + epsilon))


LAYER = {"epsilon": 1e-5, "axes": 1}


@pytest.mark.parametrize(
    ("formula", "shapes", "kind", "names", "settings"),
    [
        (lambda x, a: x * a, {"a": 6}, "scale", {"gamma": "a"}, {}),
        (lambda x, a: a + x, {"a": (1, 6)}, "shift", {"beta": "a"}, {}),
        (
            lambda x, a: a * norm(x, centred=False, epsilon=1e-6), {"a": 6},
            "rms_norm", {"gamma": "a"}, {"epsilon": 1e-6},
        ),
        (
            lambda x, a: (1 + a) * norm(x, centred=False, epsilon=1.001e-5), {"a": 6},
            "rms_norm", {"gamma": "a"}, {"epsilon": 1.001e-5},
        ),
        (
            lambda x, a, b: b * norm(x) + a, {"a": 6, "b": 6},
            "layer_norm", {"gamma": "b", "beta": "a"}, LAYER,
        ),
        (
            lambda x, a, b: b * norm(x, less=1, beside=True) + a, {"a": 6, "b": 6},
            "layer_norm", {"gamma": "b", "beta": "a"},
            {**LAYER, "variance": "over n − 1", "ε": "beside the root"},
        ),
        (lambda x, a: a * norm(x), {"a": 6}, "layer_norm", {"gamma": "a"}, LAYER),
        (
            lambda x, a: a * norm(x, centred=False, epsilon=0), {"a": 6},
            "rms_norm", {"gamma": "a"}, {"epsilon": 0.0},
        ),
        (
            lambda x, a: a * norm(x, centred=False, epsilon=1e-12), {"a": 6},
            "rms_norm", {"gamma": "a"}, {"epsilon": 1e-12},
        ),
        *(
            (
                lambda x, a, epsilon=epsilon: a * norm(x, centred=False, epsilon=epsilon), {"a": 6},
                "rms_norm", {"gamma": "a"}, {"epsilon": epsilon},
            )
            for epsilon in (float(np.float32(1e-6)), 1.23456789e-3)
        ),
        (lambda x, a: a * x, {"a": ()}, "scale", {"gamma": "a"}, {}),
        (lambda x, w: x @ w, {"w": (6, 3)}, "dense", {"kernel": "w"}, {}),
        (lambda x, w: x @ w, {"w": (6, 1)}, "dense", {"kernel": "w"}, {}),
        (
            lambda x, w, c: x @ w.T + c, {"w": (1, 6), "c": 1},
            "dense", {"kernel": "w", "bias": "c"}, {},
        ),
        (lambda x, w: x @ w, {"w": (6, 6)}, "dense", {"kernel": "w"}, {}),
        (
            lambda x, w, c: x @ w.T + c, {"w": (6, 6), "c": 6},
            "dense", {"kernel": "w", "bias": "c"}, {},
        ),
    ],
)  # fmt: skip
def test_a_layer_is_told_by_its_numbers(formula, shapes, kind, names, settings) -> None:
    found = found_in(formula, **shapes)
    assert found is not None
    assert (found.kind, found.names, found.settings(None)) == (kind, names, settings)
    assert not found.channels_first
    drawn = {name: np.random.default_rng(1).normal(size=size) for name, size in shapes.items()}
    found.weights = drawn
    for role in found.roles(None).values():
        back = role.stored(role.value(role.variable)).reshape(role.variable.shape)
        assert np.allclose(back, role.variable, rtol=0, atol=1e-15)


def test_a_norm_over_channels_behind_the_samples_is_one() -> None:
    found = found_in(lambda x, a: a[:, None] * norm(x, 1), shape=(4, 6, 6), a=6)
    assert found is not None
    assert (found.kind, found.channels_first) == ("layer_norm", True)


def test_settings_are_tried_only_where_a_norm_is_its_formula() -> None:
    found = found_in(lambda x, a: a * norm(np.clip(x, -999, 999)), a=6)
    assert found is not None
    x, by_role = np.random.default_rng(0).normal(size=(4, 6)), {"gamma": np.ones(6)}
    other = found.varied(x, norm(x), by_role, {"epsilon": 1e-3})
    assert np.allclose(other, norm(x, epsilon=1e-3), rtol=1e-12)
    with pytest.raises(RuntimeError, match="more than its formula"):
        found.varied(1e4 * x, norm(np.clip(1e4 * x, -999, 999)), by_role, {"epsilon": 1e-3})


@pytest.mark.parametrize(
    "formula",
    [
        lambda x, a: np.clip(a * x, -20, 20),
        lambda x, a: a * x + 1e-9,
        lambda x, a: a * np.tanh(x),
        lambda x, a: a * norm(x.round(6)),
        lambda x, a: (a * x)[:, :1],
        lambda x, a: 1 / 0,
        lambda x, a: a * x + 0j,
        lambda x, a: np.where(x > 2, x, a * x),
    ],
)
def test_what_is_nearly_something_is_nothing(formula) -> None:
    assert found_in(formula, a=6) is None


def test_few_weights_tell_what_a_layer_is() -> None:
    sizes = [(6,), (1, 6), (6, 3)]
    for pair in itertools.combinations_with_replacement(sizes, 2):
        assert may_be_inferred({str(i): np.zeros(s) for i, s in enumerate(pair)}) == (
            pair != ((6, 3), (6, 3))
        )
    assert not may_be_inferred({})
    assert not may_be_inferred({str(i): np.zeros(6) for i in range(3)})
    assert not may_be_inferred({"kernel": np.zeros((3, 3, 6, 6))})


def checked(name: str, port: str, sizes: str, **options: object):
    return check(f"{PAIRS}/own_keras.py:{name}", f"{PAIRS}/own_torch.py:{port}", [sizes], **options)


SIZES = {"own": "6,8", "celled": "5,6", "maps": "4,4,8", "frames": "3,6,6,2", "experts": "6"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, "tensorflow") for name in SIZES), ("own", "jax"), ("own", "torch")],
)
def test_a_port_by_hand_passes(name: str, backend: str) -> None:
    verdict = checked(name, name, SIZES[name], backend=backend)
    assert verdict.passed, str(verdict)
    assert verdict.matched == verdict.calls[0] == verdict.calls[1]
    assert not [d for d in verdict.differences if d.what != "first weights"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "port", "what", "cause"),
    [
        ("own", "own_by_relu", "between", "Tanh in the reference"),
        ("own", "own_over_less", "variance", 'variance – | "over n − 1"'),
        ("own_before", "own", "between", None),
        ("maps", "maps_not_scaled", "between", "Attention scaled by 1/√d in the reference"),
        ("frames", "frames_averaged", "between", "The maximum in the reference"),
        ("celled", "celled_turned", "order", "the same outputs, in another order"),
    ],
)
def test_a_mistake_in_one_is_named(name: str, port: str, what: str, cause: str | None) -> None:
    verdict = checked(name, port, SIZES[name.partition("_")[0]])
    assert not verdict.passed
    assert (verdict.failures[0].what, verdict.failures[0].cause) == (what, cause), str(verdict)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "port", "sizes", "what"),
    [
        ("overridden", "overridden", "8,8,3", []),
        ("overridden", "overridden_zeros", "8,8,3", ["between", "padding"]),
        ("overridden", "overridden_whole", "8,8,3", ["between"]),
        ("overridden", "overridden_dropping", "8,8,3", ["between"]),
        ("mixed", "mixed", "6,4", []),
        ("mixed", "mixed_in_evaluation", "6,4", ["gradients", "training mode"]),
        ("attending", "attending", "6,4", []),
        ("attending", "attending_awake", "6,4", ["dropout"]),
        ("masked", "masked", "6,4", []),
        ("masked", "masked_not", "6,4", ["output"]),
        ("hidden", "hidden", "6", []),
        ("hidden", "hidden_by_tanh", "6", ["between"]),
        ("bent", "bent", "8,8,3", []),
        ("bent", "bent_momentum", "8,8,3", ["statistics", "statistics"]),
        ("each", "each", "9,4", []),
        ("each", "each_folded", "9,4", ["between"]),
        ("deep", "deep", "6", []),
        ("deep", "deep_dropped", "6", ["gradients", "training mode"]),
        ("deep", "deep_moving", "6", ["buffers"]),
        ("counted", "counted", "6", []),
        ("counted", "counted_more", "6", ["output"]),
        ("encoded", "encoded", "int100pad:12", ["output"]),
        ("rounded", "rounded", "6", []),
        ("rounded", "rounded_by_tanh", "6", ["between"]),
        ("rounded", "rounded_other_epsilon", "6", ["epsilon"]),
    ],
)
def test_nothing_is_hidden_by_layers_that_are_overridden_by_constants_or_by_rounding(
    name: str, port: str, sizes: str, what: list[str]
) -> None:
    verdict = checked(name, port, sizes)
    assert sorted(d.what for d in verdict.failures) == what, str(verdict)


@pytest.mark.slow
def test_what_samples_that_are_kept_are_multiplied_by_is_told() -> None:
    verdict = checked("celled", "celled_undivided", "5,6")
    (dropped,) = [d for d in verdict.declarations if d.what == "dropout"]
    assert (dropped.left, dropped.right) == (
        "0.25 of samples",
        "0.25 of samples, the others times 1",
    )


@pytest.mark.slow
def test_a_scale_whose_sign_is_lost_is_refused() -> None:
    with pytest.raises(CheckError, match="did not keep what was put there: gamma"):
        checked("overridden", "overridden_unsigned", "8,8,3")
