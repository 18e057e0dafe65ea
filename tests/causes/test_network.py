"""Causes in layers, losses and gradients: each is planted in a small network and must be named."""

import numpy as np
import pytest
from scipy import signal

from ladder.causes import Diagnosis, Evidence, diagnose
from ladder.causes.formulas import Mode, run, softmax
from ladder.causes.loss import cross_entropy, one_hot, smoothed, softmax_first
from ladder.exchange import Question, Trace

DRAW = np.random.default_rng(7)
POINTS = [
    "conv1", "act1", "pool1", "conv2", "act2", "pool2", "flatten", "hidden", "hidden_act", "logits"
]  # fmt: skip
ROWS = [
    {"name": "conv1", "kind": "convolution", "padding": "same", "strides": [1, 1], "filters": 4},
    {"name": "act1", "kind": "leaky_relu", "negative_slope": 0.1},
    {"name": "pool1", "kind": "max_pool", "pool_size": [2, 2], "padding": "same"},
    {"name": "conv2", "kind": "convolution", "padding": "same", "strides": [1, 1], "filters": 4},
    {"name": "act2", "kind": "leaky_relu", "negative_slope": 0.1},
    {"name": "pool2", "kind": "max_pool", "pool_size": [2, 2], "padding": "same",
     "output_shape": [2, 2, 4]},
    {"name": "flatten", "kind": "flatten"},
    {"name": "hidden", "kind": "dense", "units": 6},
    {"name": "hidden_act", "kind": "leaky_relu", "negative_slope": 0.1},
    {"name": "logits", "kind": "dense", "units": 3},
]  # fmt: skip
SHAPES = {
    "conv1.kernel": (3, 3, 1, 4), "conv1.bias": (4,), "conv2.kernel": (3, 3, 4, 4),
    "conv2.bias": (4,), "hidden.kernel": (16, 6), "hidden.bias": (6,), "logits.kernel": (6, 3),
    "logits.bias": (3,),
}  # fmt: skip
WEIGHTS = {name: DRAW.normal(size=shape) * 0.5 for name, shape in SHAPES.items()}
IMAGES = {"full": DRAW.normal(size=(8, 7, 7, 1)), "single": DRAW.normal(size=(1, 7, 7, 1))}
CLASSES = {"full": np.array([0, 1, 2, 0, 0, 1, 2, 1]), "single": np.array([2])}


def question(dtype=np.float64, **settings):
    ran = run(ROWS, WEIGHTS, IMAGES["full"])
    arrays = {f"weights.{name}": value for name, value in WEIGHTS.items()}
    for name in POINTS:
        arrays[f"input.{name}"] = ran.inputs[name]
    for case, images in IMAGES.items():
        arrays |= {f"images.{case}": images, f"labels.{case}": CLASSES[case]}
    arrays = {k: v.astype(dtype) if v.dtype == np.float64 else v for k, v in arrays.items()}
    return Question(("forced",), {"points": POINTS, **settings}, arrays)


def forced(rows=ROWS, weights=WEIGHTS, dtype=np.float64, asked=None):
    """Return the traces' arrays: each layer fed the question's input."""
    asked = asked or question(dtype)
    found = {}
    for row in rows:
        value = run([row], weights, asked.arrays[f"input.{row['name']}"]).last
        found[f"forced.{row['name']}"] = value.astype(dtype)
    return found


def trace(arrays=None, **facts):
    return Trace("", "", {"layers": ROWS, **facts}, arrays or {})


def named(rung, left, right, asked=None, **facts):
    """Return what is diagnosed between two sides' arrays."""
    left, right = (
        side if isinstance(side, Trace) else trace(side, **facts) for side in (left, right)
    )
    return diagnose(Evidence(rung, asked or question(), left, right))


def changed(layer, **changes):
    return [{**row, **changes} if row["name"] == layer else row for row in ROWS]


def weighted(**changes):
    return {**WEIGHTS, **{name.replace("__", "."): value for name, value in changes.items()}}


CHW = WEIGHTS["hidden.kernel"].reshape(2, 2, 4, 6).transpose(2, 0, 1, 3).reshape(16, 6)
HWC = WEIGHTS["hidden.kernel"].reshape(4, 2, 2, 6).transpose(1, 2, 0, 3).reshape(16, 6)
LAYER_MUTANTS = [
    ("leaky-slope", "act2", changed("act2", negative_slope=0.01), WEIGHTS, "0.01 against 0.1"),
    ("leaky-slope", "act1", changed("act1", negative_slope=0.237), WEIGHTS, "0.237 against 0.1"),
    ("activation-missing", "act1", changed("act1", negative_slope=1.0), WEIGHTS, "missing"),
    ("float32-inside-float64", "act1", changed("act1", negative_slope=float(np.float32(0.1))),
     WEIGHTS, "stored as float32"),
    ("missing-bias", "conv2", ROWS, weighted(conv2__bias=np.zeros(4)), "bias is not added"),
    ("kernel-transposed", "conv2", ROWS,
     weighted(conv2__kernel=WEIGHTS["conv2.kernel"].swapaxes(0, 1)), "height and width"),
    ("kernel-transposed", "conv2", ROWS,
     weighted(conv2__kernel=WEIGHTS["conv2.kernel"].swapaxes(2, 3)), "input and output"),
    ("kernel-flipped", "conv1", ROWS,
     weighted(conv1__kernel=WEIGHTS["conv1.kernel"][::-1, ::-1]), "true convolution"),
    ("flatten-order", "hidden", ROWS, weighted(hidden__kernel=CHW), "H, W, C"),
    ("flatten-order", "hidden", ROWS, weighted(hidden__kernel=HWC), "H, W, C"),
    ("flatten-order", "flatten", changed("flatten", order=(2, 0, 1)), WEIGHTS, "C, H, W"),
    ("pool-padding", "pool1", changed("pool1", padding="explicit 1"), WEIGHTS, "each side"),
    ("pool-padding", "pool1", changed("pool1", padding="same-first"), WEIGHTS, "the pool pads"),
    ("pool-valid", "pool1", changed("pool1", padding="valid"), WEIGHTS, "does not pad"),
    ("pool-average", "pool2", changed("pool2", kind="average_pool"), WEIGHTS, "mean"),
    ("conv-padding", "conv1", changed("conv1", padding="valid"), WEIGHTS, "does not pad"),
    ("pool-stride", "pool1", changed("pool1", strides=[1, 1]), WEIGHTS, "moves by 1"),
    ("conv-stride", "conv1", changed("conv1", strides=[2, 2]), WEIGHTS, "moves by 2"),
    ("weights-swapped", "conv1", ROWS, weighted(conv1__bias=WEIGHTS["conv2.bias"]), "conv2.bias"),
    ("weights-not-loaded", "conv1", ROWS,
     weighted(conv1__kernel=np.random.default_rng(1).normal(size=(3, 3, 1, 4))), "another kernel"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cause", "layer", "rows", "weights", "words", "dtype"),
    [
        (*mutant, dtype)
        for mutant in LAYER_MUTANTS
        for dtype in (np.float64, np.float32)
        if (mutant[0], dtype) != ("float32-inside-float64", np.float32)
    ],
)
def test_a_layer_fed_the_reference_names_its_cause(cause, layer, rows, weights, words, dtype):
    asked = question(dtype)
    left, right = forced(dtype=dtype, asked=asked), forced(rows, weights, dtype, asked)
    first, *_ = named("layers", left, right, asked)
    assert (first.cause, first.where) == (cause, layer)
    assert words in first.sentence


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_and_randomly_moved_layers_have_no_cause(dtype):
    asked = question(dtype)
    left = forced(dtype=dtype, asked=asked)
    assert named("layers", left, left, asked) == []
    for size in (1e-15, 1e-7, 1e-3, 1.0):
        noise = np.random.default_rng(3)
        moved = {k: v + (size * noise.normal(size=v.shape)).astype(dtype) for k, v in left.items()}
        assert named("layers", left, moved, asked) == []


def carried(weights):
    """Return the layers' outputs with these weights, and the weights as the suspect holds them."""
    return forced(weights=weights) | {f"carried.{name}": array for name, array in weights.items()}


def test_a_bias_that_is_held_as_zeros_is_not_called_left_out():
    first, *rest = named("layers", forced(), carried(weighted(conv2__bias=np.zeros(4))))
    assert (first.cause, first.where) == ("weights-not-loaded", "conv2.bias")
    assert "zeros, not the values that it was given" in first.sentence
    assert rest == []
    ignored = forced(weights=weighted(conv2__bias=np.zeros(4)))
    held = {f"carried.{name}": array for name, array in WEIGHTS.items()}
    assert [found.cause for found in named("layers", forced(), ignored | held)] == ["missing-bias"]


@pytest.mark.parametrize("says_so", [True, False])
def test_filters_in_another_order_are_not_called_not_loaded(says_so):
    weights = weighted(conv2__kernel=WEIGHTS["conv2.kernel"][..., ::-1])
    right = carried(weights) if says_so else forced(weights=weights)
    assert named("layers", forced(), right) == []


def test_a_softmax_at_the_end_is_named():
    left = forced()
    right = {**left, "forced.logits": softmax(left["forced.logits"])}
    assert named("layers", left, right)[0].cause == "softmax-output"


def test_dropout_in_evaluation_is_named():
    rows = [*ROWS[:3], {"name": "drop1", "kind": "dropout", "rate": 0.25}]
    values = DRAW.normal(size=(8, 4, 4, 4))
    asked = Question((), {"points": ["pool1", "drop1"]}, {"input.drop1": values})
    left = Trace("", "", {"layers": rows}, {"forced.drop1": values})
    keep = DRAW.uniform(size=values.shape) > 0.25
    for right, cause in (
        (np.where(keep, values / 0.75, 0), "dropout-at-evaluation"),
        (values * 0.75, "dropout-not-scaled"),
    ):
        suspect = Trace("", "", {"layers": rows}, {"forced.drop1": right})
        assert named("layers", left, suspect, asked)[0].cause == cause


def test_float32_products_in_float64_are_named():
    left = forced()
    product = left["forced.hidden"] - WEIGHTS["hidden.bias"]
    right = {**left, "forced.hidden": product.astype(np.float32) + WEIGHTS["hidden.bias"]}
    assert named("layers", left, right)[0].cause == "float32-inside-float64"
    right = {**left, "forced.hidden": left["forced.hidden"].astype(np.float32)}
    assert named("layers", left, right)[0].cause == "float32-inside-float64"
    coarse = (product.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    right = {**left, "forced.hidden": coarse + WEIGHTS["hidden.bias"]}
    assert named("layers", left, right)[0].cause == "half-precision"


def test_a_slope_wrong_in_every_layer_is_named_from_the_logits():
    rows = [{**row, "negative_slope": 0.3} if "act" in row["name"] else row for row in ROWS]
    sides = [
        {f"logits.{case}": run(side, WEIGHTS, images).last for case, images in IMAGES.items()}
        for side in (ROWS, rows)
    ]
    first, *_ = named("logits", *sides)
    assert (first.cause, first.where) == ("leaky-slope", "act1, act2, hidden_act")


OTHER_ROWS = [
    {"name": "act", "kind": "relu"},
    {"name": "pool", "kind": "average_pool", "pool_size": [3, 3], "strides": [3, 3],
     "padding": "same"},
]  # fmt: skip
OTHER_MUTANTS = [
    ("activation-missing", {"name": "act", "kind": "leaky_relu", "negative_slope": 1.0}),
    ("pool-average", {"name": "pool", "kind": "max_pool"}),
    ("pool-padding", {"name": "pool", "counts_padding": True}),
]


@pytest.mark.parametrize(("cause", "change"), OTHER_MUTANTS)
def test_other_layers_have_causes_too(cause, change):
    values = DRAW.normal(size=(6, 7, 7, 2))
    names = [row["name"] for row in OTHER_ROWS]
    arrays = {f"input.{name}": values for name in names}
    asked = Question((), {"points": names}, arrays)
    planted = [{**row, **change} if row["name"] == change["name"] else row for row in OTHER_ROWS]
    sides = [
        {f"forced.{row['name']}": run([row], {}, values).last for row in rows}
        for rows in (OTHER_ROWS, planted)
    ]
    left, right = (Trace("", "", {"layers": OTHER_ROWS}, side) for side in sides)
    assert named("layers", left, right, asked)[0].cause == cause


def losses(formula, weights=WEIGHTS):
    """Return logits and losses of the cases."""
    found = {}
    for case, images in IMAGES.items():
        logits = run(ROWS, weights, images).last
        loss, _ = formula(logits, one_hot(CLASSES[case], 3))
        found |= {f"logits.{case}": logits, f"loss.{case}": np.asarray(loss)}
    return found


def gradients(formula, mode=None, images=None, weights=WEIGHTS):
    """Return the gradients and losses of the cases."""
    found = {}
    for case, batch in (images or IMAGES).items():
        ran = run(ROWS, weights, batch, mode or Mode(is_training=True))
        loss, gradient = formula(ran.last, one_hot(CLASSES[case], 3))
        found |= {f"gradient.{case}.{k}": v for k, v in ran.gradients(gradient).items()}
        found[f"gradient.{case}.loss"] = np.asarray(loss)
    return found


def times(factor):
    return lambda logits, targets: tuple(factor * x for x in cross_entropy(logits, targets))


def rolled(axis):
    return lambda logits, targets: cross_entropy(logits, np.roll(targets, 1, axis))


def summed(logits, targets):
    return tuple(len(logits) * part for part in cross_entropy(logits, targets))


def clipped(logits, targets):
    shares = np.clip(softmax(logits), 1e-7, 1 - 1e-7)
    return float(-(targets * np.log(shares)).sum(1).mean()), cross_entropy(logits, targets)[1]


def negative_logit(logits, targets):
    return float(-(targets * logits).sum(1).mean()), -targets / len(logits)


LOSS_MUTANTS = [
    ("log-softmax-missing", negative_logit),
    ("loss-sum", summed),
    ("mean-over-classes", times(1 / 3)),
    ("softmax-before-loss", softmax_first),
    ("label-smoothing", smoothed(0.1)),
    ("labels-shifted", rolled(1)),
    ("labels-permuted", lambda logits, targets: cross_entropy(logits, targets[:, ::-1])),
]


@pytest.mark.parametrize(("cause", "formula"), LOSS_MUTANTS)
def test_another_loss_is_named_from_its_value(cause, formula):
    assert named("logits", losses(cross_entropy), losses(formula))[0].cause == cause


@pytest.mark.parametrize(("cause", "formula"), LOSS_MUTANTS)
def test_another_loss_is_named_from_its_gradients(cause, formula):
    first, *_ = named("gradients", gradients(cross_entropy), gradients(formula))
    assert first.cause == cause


def test_an_unusual_smoothing_is_named_with_its_share():
    first, *_ = named("logits", losses(cross_entropy), losses(smoothed(0.07)))
    assert first.cause == "label-smoothing"
    assert "0.07" in first.sentence


def test_clipped_probabilities_are_named_where_logits_are_saturated():
    wide = {**WEIGHTS, "logits.kernel": 300 * WEIGHTS["logits.kernel"]}
    found = named("logits", losses(cross_entropy, wide), losses(clipped, wide))
    assert found[0].cause == "clipped-probabilities"


def test_a_float32_loss_is_named():
    left = losses(cross_entropy)
    right = {k: np.float64(np.float32(v)) if k[:4] == "loss" else v for k, v in left.items()}
    right = {name: np.asarray(value) for name, value in right.items()}
    assert named("logits", left, right)[0].cause == "float32-inside-float64"


def test_a_loss_with_a_factor_is_named():
    first, *_ = named("gradients", gradients(cross_entropy), gradients(times(0.25)))
    assert first.cause == "loss-scaled"
    assert "0.25 times" in first.sentence


def test_a_squeezed_batch_axis_is_named():
    left = losses(cross_entropy)
    right = {**left, "logits.single": left["logits.single"][0]}
    first, *_ = named("logits", left, right)
    assert (first.cause, first.where) == ("batch-axis-squeezed", "logits.single")


def test_the_gradient_of_an_activation_at_zero_is_named():
    # A dead input and no bias: the first convolution's outputs are exactly zero.
    weights = {**WEIGHTS, "conv1.bias": np.zeros(4)}
    images = {case: batch * (np.arange(7)[:, None, None] > 3) for case, batch in IMAGES.items()}
    asked = question(gradient_cases=list(images))
    arrays = {f"weights.{name}": value for name, value in weights.items()}
    arrays |= {f"images.{case}": batch for case, batch in images.items()}
    asked = Question(asked.asks, asked.settings, {**asked.arrays, **arrays})
    left = gradients(cross_entropy, images=images, weights=weights)
    mode = Mode(is_training=True, is_zero_positive=True)
    right = gradients(cross_entropy, mode, images, weights)
    first, *_ = named("gradients", left, right, asked)
    assert first.cause == "gradient-at-zero"
    assert "act1" in first.where


def test_a_loss_summed_over_the_batch_is_told_by_the_factor():
    first, *_ = named("gradients", gradients(cross_entropy), gradients(summed))
    assert "8 times" in first.sentence or "summed over the batch of 8" in first.sentence


def test_equal_and_randomly_moved_gradients_have_no_cause():
    left = {**gradients(cross_entropy), **losses(cross_entropy)}
    assert named("gradients", left, left) == []
    noise = np.random.default_rng(5)
    for size in (1e-15, 1e-7, 1e-3):
        right = {
            name: value + size * noise.normal(size=value.shape) for name, value in left.items()
        }
        assert named("gradients", left, right) == []
        assert named("logits", left, right) == []


def test_dead_and_frozen_parameters_are_named():
    left = gradients(cross_entropy)
    for names, cause, where in (
        (("conv2.kernel", "conv2.bias"), "frozen-layer", "conv2"),
        (("conv2.bias",), "frozen-bias", "conv2"),
        (("conv1.kernel", "conv1.bias", "input"), "zero-gradient", "conv1.kernel, conv1.bias"),
    ):
        right = {k: v * 0 if k.split(".", 2)[2] in names else v for k, v in left.items()}
        first, *_ = named("gradients", left, right)
        assert (first.cause, first.where) == (cause, where)
    right = {k: v if k.endswith(".loss") else v * 0 for k, v in left.items()}
    assert named("gradients", left, right)[0].cause == "zero-gradient"


@pytest.mark.parametrize("rule", ["last", "shared", "every"])
def test_the_rule_among_ties_is_named(rule):
    # The dead border of a flat image ties in every window of its first pool.
    images = {case: np.where(np.arange(7)[:, None] < 3, 0.5, batch) for case, batch in
              ((case, batch[..., 0]) for case, batch in IMAGES.items())}  # fmt: skip
    images = {case: batch[..., None] for case, batch in images.items()}
    asked = question(gradient_cases=list(images))
    asked = Question(asked.asks, asked.settings, {
        **asked.arrays, **{f"images.{case}": batch for case, batch in images.items()},
    })  # fmt: skip
    left = gradients(cross_entropy, images=images)
    right = gradients(cross_entropy, Mode(is_training=True, ties=rule), images)
    first, *_ = named("gradients", left, right, asked)
    assert (first.cause, first.where) == ("max-pool-ties", "pool1")


def test_gradients_that_add_up_and_decay_are_named():
    left = gradients(cross_entropy)
    parts = [k.removeprefix("gradient.single.") for k in left if k.startswith("gradient.single.")]
    summed_up = dict(left)
    for name in parts:
        if name not in ("loss", "input"):
            summed_up[f"gradient.single.{name}"] = (
                left[f"gradient.full.{name}"] + left[f"gradient.single.{name}"]
            )
    assert named("gradients", left, summed_up)[0].cause == "gradient-accumulation"
    decayed = {
        k: v + 0.01 * WEIGHTS[k.split(".", 2)[2]] if k.endswith(".kernel") else v
        for k, v in left.items()
    }
    first, *_ = named("gradients", left, decayed)
    assert first.cause == "coupled-weight-decay"
    assert "0.01" in first.sentence


def test_the_formulas_are_the_derivatives_of_the_forward_pass():
    rows = [*ROWS[:5],
            {"name": "mean", "kind": "average_pool", "pool_size": [3, 3], "strides": [2, 2],
             "padding": "same", "output_shape": [2, 2, 4]}, *ROWS[6:]]  # fmt: skip
    weights = WEIGHTS
    images, targets = IMAGES["full"], one_hot(CLASSES["full"], 3)
    mode = Mode(is_training=True)
    ran = run(rows, weights, images, mode)
    found = ran.gradients(cross_entropy(ran.last, targets)[1])
    for name in [*weights, "input"]:
        value = images if name == "input" else weights[name]
        place = tuple(DRAW.integers(size) for size in value.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = value.copy()
            moved[place] += step
            fed = moved if name == "input" else images
            other = weights if name == "input" else {**weights, name: moved}
            ends.append(cross_entropy(run(rows, other, fed, mode).last, targets)[0])
        assert found[name][place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_the_convolution_is_scipys_correlation():
    image, kernel = IMAGES["single"], WEIGHTS["conv1.kernel"]
    row = ROWS[0]
    received = run([row], WEIGHTS, image).last[0, ..., 2]
    expected = signal.correlate2d(image[0, ..., 0], kernel[..., 0, 2], mode="same")
    np.testing.assert_allclose(received, expected + WEIGHTS["conv1.bias"][2], atol=1e-13)


def test_a_diagnosis_is_a_plain_value():
    assert Diagnosis("a", "b", "c") == Diagnosis("a", "b", "c")
