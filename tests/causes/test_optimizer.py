"""Causes in slots and updates: each is planted in steps made with NumPy and must be named."""

from dataclasses import replace

import numpy as np
import pytest

from ladder.causes import Evidence, diagnose
from ladder.causes.formulas import Adam
from ladder.exchange import Question, Trace

SETTINGS = {
    "kind": "adam", "learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7,
    "epsilon_placement": "outside", "weight_decay": 0.0, "weight_decay_kind": "none",
    "clipping": "none",
}  # fmt: skip
KERAS = Adam(1e-3, 0.9, 0.999, 1e-7)
SHAPES = {"conv.kernel": (3, 3, 2, 4), "conv.bias": (4,), "hidden.kernel": (40, 12),
          "hidden.bias": (12,)}  # fmt: skip
START = {
    name: np.random.default_rng(len(name)).normal(size=shape) * 0.2 * ("kernel" in name)
    for name, shape in SHAPES.items()
}
NUM_STEPS = 4
QUESTION = Question(("steps",), {"batch_size": 50}, {f"weights.{n}": w for n, w in START.items()})


def gradient(name, step):
    """Return gradients of every size from 1e-8 to 1, as those of dead units are small."""
    draw = np.random.default_rng([step, len(name)])
    size = SHAPES[name]
    return draw.normal(size=size) * 10.0 ** draw.uniform(-8, 0, size=size)


def as_it_is(g, weight, name, step):
    return g


def always(name, step):
    return True


def nobody(name):
    return False


def constant(step):
    return 1e-3


def steps(
    adam=KERAS, *, change=as_it_is, rate=constant, slots=(0.0, 0.0), count=0, start=None,
    dtype=np.float64, largest=False, moves=always, spares=nobody, loss=2.3, skips=(),
    num_steps=NUM_STEPS,
):  # fmt: skip
    """Return the arrays of a few steps; in `skips` the optimizer does nothing."""
    weights = dict(start or START)
    m, v, top, found = {}, {}, {}, {}
    if 1 in skips:
        m, v = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in "mv")
    for step in range(1, num_steps + 1):
        for name, weight in dict(weights).items() if step not in skips else ():
            g = change(gradient(name, step), weight, name, step)
            m[name] = adam.beta_1 * m.get(name, slots[0]) + (1 - adam.beta_1) * g
            v[name] = adam.beta_2 * v.get(name, slots[1]) + (1 - adam.beta_2) * g**2
            top[name] = np.maximum(top.get(name, 0), v[name])
            own = replace(adam, learning_rate=rate(step) * adam.learning_rate / 1e-3)
            own = replace(own, decay=0.0) if spares(name) else own
            if moves(name, step):
                used = top[name] if largest else v[name]
                weights[name] = own.after(weight, m[name], used, step + count)
        for kind, value in (("weight", weights), ("adam.m", m), ("adam.v", v)):
            for name, array in value.items():
                found[f"step.{step}.{kind}.{name}"] = np.asarray(array).astype(dtype)
        found[f"step.{step}.loss"] = np.asarray(loss, dtype)
    return found


def named(left, right, question=QUESTION, **settings):
    facts = {"contract": {"optimizer": {**SETTINGS, **settings}}}
    evidence = Evidence("optimizer", question, Trace("", "", facts, left), Trace("", "", {}, right))
    return diagnose(evidence)


def clip_all(g, weight, name, step):
    norm = np.sqrt(sum((gradient(other, step) ** 2).sum() for other in SHAPES))
    return g * min(1, 1.0 / norm)


def clip_each(g, weight, name, step):
    return g * min(1, 0.5 / np.linalg.norm(g))


def stop(which):
    return lambda name, step: not which(name, step)


MUTANTS = [
    ("adam-epsilon-placement", {"adam": replace(KERAS, is_inside=True)}, "ε inside"),
    ("adam-epsilon-placement", {"adam": replace(KERAS, is_inside=True, epsilon=1e-8)}, "1e-08"),
    ("adam-epsilon-value", {"adam": replace(KERAS, epsilon=1e-8)}, "1e-08 against 1e-07"),
    ("adam-epsilon-value", {"adam": replace(KERAS, epsilon=3.3e-6)}, "3.3e-06 against 1e-07"),
    ("learning-rate", {"adam": replace(KERAS, learning_rate=2e-3)}, "0.002 against 0.001"),
    ("adam-beta-1", {"adam": replace(KERAS, beta_1=0.95)}, "0.95 against 0.9"),
    ("adam-beta-2", {"adam": replace(KERAS, beta_2=0.99)}, "0.99 against 0.999"),
    ("no-bias-correction", {"adam": replace(KERAS, corrects_bias=False)}, "without bias"),
    ("coupled-weight-decay", {"change": lambda g, w, name, step: g + 0.01 * w}, "0.01 times"),
    ("decoupled-weight-decay", {"adam": replace(KERAS, decay=0.004)}, "0.004 against 0"),
    ("clipped-gradients", {"change": clip_all}, "total norm is clipped to 1"),
    ("clipped-gradients", {"change": clip_each}, "each parameter's gradient"),
    ("clipped-gradients", {"change": lambda g, w, n, s: np.clip(g, -0.1, 0.1)}, "±0.1"),
    ("stale-optimizer-state", {"slots": (1e-3, 1e-6), "count": 100}, "step 101"),
    ("stale-optimizer-state", {"count": 750}, "step 751"),
    ("stale-optimizer-state", {"slots": (1e-3, 1e-6)}, "earlier gradients"),
    ("adamax-or-amsgrad", {"largest": True}, "AMSGrad"),
    ("optimizer-step-skipped", {"skips": (2,)}, "step 2 of the first 4: steps are skipped"),
    ("optimizer-step-skipped", {"skips": (1, 3)}, "step 1, 3 of the first 4: steps are skipped"),
    ("learning-rate", {"moves": stop(lambda name, step: step == 2)}, "0.001, 0, 0.001, 0.001"),
    ("frozen-layer", {"moves": stop(lambda name, step: "conv" in name)}, "conv.kernel, conv.bias"),
    ("frozen-bias", {"moves": stop(lambda name, step: name == "conv.bias")}, "conv.bias"),
    ("loss-sum", {"change": lambda g, w, name, step: 50 * g, "loss": 115.0}, "50 times"),
    ("weights-not-loaded", {"start": {n: np.roll(w, 7) for n, w in START.items()}}, "conv.kernel"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "mutant", "words"), MUTANTS)
@pytest.mark.parametrize("knows_first", [True, False])
def test_each_cause_is_named_first(cause, mutant, words, knows_first):
    question = QUESTION if knows_first else Question(("steps",), {"batch_size": 50})
    first, *_ = named(steps(), steps(**mutant), question)
    assert first.cause == cause
    assert words in first.sentence


LARGE = ("learning-rate", "adam-beta-1", "adam-beta-2", "frozen-layer", "no-bias-correction",
         "adam-epsilon-placement", "clipped-gradients", "stale-optimizer-state")  # fmt: skip


@pytest.mark.parametrize(("cause", "mutant", "words"), [f for f in MUTANTS if f[0] in LARGE])
def test_large_causes_are_named_in_float32_too(cause, mutant, words):
    first, *_ = named(steps(dtype=np.float32), steps(**mutant, dtype=np.float32))
    assert first.cause == cause


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_and_randomly_moved_steps_have_no_cause(dtype):
    left = steps(dtype=dtype)
    assert named(left, left) == []
    noise = np.random.default_rng(0)
    for size in (1e-16, 1e-9, 1e-4):
        right = {
            name: (value * (1 + size * noise.normal(size=value.shape))).astype(dtype)
            for name, value in left.items()
        }
        assert named(left, right) == []


def test_other_gradients_alone_have_no_cause():
    def other(g, w, name, step):
        return g * np.random.default_rng(len(name) + step).uniform(0.5, 2, size=g.shape)

    assert named(steps(), steps(change=other)) == []


def test_plain_descent_is_named_with_its_rate():
    right = {}
    weights = dict(START)
    for step in range(1, 3):
        weights = {name: w - 0.01 * gradient(name, step) for name, w in weights.items()}
        right |= {f"step.{step}.weight.{name}": weight for name, weight in weights.items()}
    first, *_ = named(steps(), right)
    assert first.cause == "sgd-instead"
    assert "0.01 times" in first.sentence


def test_gradients_that_are_never_set_to_zero_are_named():
    total = {}

    def added(g, w, name, step):
        total[name] = total.get(name, 0) + g
        return total[name]

    assert named(steps(), steps(change=added))[0].cause == "gradient-accumulation"


def test_all_skipped_steps_are_told_where_weights_are_known_to_rounding():
    """What passes is replaced by the reference's: a step that stands after it seems to move."""
    left, right = steps(num_steps=6), steps(num_steps=6, skips=(3, 6))
    noise = np.random.default_rng(0)
    shown = {
        name: left[name] * (1 + 1e-15 * noise.normal(size=value.shape))
        if name.startswith(("step.1.", "step.2."))
        else value
        for name, value in right.items()
    }
    (only,) = named(left, shown)
    assert only.cause == "optimizer-step-skipped"
    assert "no weight moves in step 3, 6 of the first 6" in only.sentence


def test_a_layer_that_never_moves_is_named_where_weights_are_known_to_rounding():
    right = steps(moves=stop(lambda name, step: "conv" in name))
    noise = np.random.default_rng(0)
    right |= {
        name: value * (1 + 3e-16 * noise.normal(size=value.shape))
        for name, value in right.items()
        if ".weight." in name
    }
    (only,) = named(steps(), right)
    assert only.cause == "frozen-layer"


def test_a_step_so_small_that_rounding_hides_it_is_not_called_skipped():
    right = steps(rate=lambda step: 1e-3 if step != 2 else 1e-9)
    assert "optimizer-step-skipped" not in [found.cause for found in named(steps(), right)]


@pytest.mark.parametrize("layer", ["conv", ""])
def test_a_larger_gradient_is_not_called_stale_slots(layer):
    right = steps(change=lambda g, w, name, step: g * (2 + (g > 0)) if layer in name else g)
    assert named(steps(), right) == []


def test_negated_first_weights_are_not_called_drawn_anew():
    right = steps(start={name: -weight for name, weight in START.items()})
    assert named(steps(), right) == []


def test_a_count_that_cannot_be_told_is_not_named():
    """Behind so many steps all bias corrections are 1, and any count fits."""
    right = steps(adam=replace(KERAS, corrects_bias=False))
    assert [found.cause for found in named(steps(), right)] == ["no-bias-correction"]


def test_a_schedule_in_float32_is_named_with_its_rates():
    right = steps(rate=lambda step: float(np.float32(1e-3 * 0.9 ** (step - 1))))
    (only,) = named(steps(), right)
    assert only.cause == "learning-rate"
    assert "0.001, 0.0009, 0.00081, 0.000729" in only.sentence


@pytest.mark.parametrize(
    "mutant", [{"count": 1}, {"count": 750}, {"adam": replace(KERAS, corrects_bias=False)}]
)
def test_another_bias_correction_is_not_called_another_learning_rate(mutant):
    assert "learning-rate" not in [found.cause for found in named(steps(), steps(**mutant))]


def test_scaled_gradients_are_not_called_clipped_whatever_their_norm_is():
    """The twin: halved gradients whose norm is, by chance, near a number of few digits."""
    norm = np.sqrt(sum((gradient(name, 1) ** 2).sum() for name in SHAPES))
    scale = float(f"{norm / 2:.3e}") / norm * (1 + 4e-6)
    right = steps(change=lambda g, w, name, step: scale * g)
    assert "clipped-gradients" not in [found.cause for found in named(steps(), right)]
    assert named(steps(), steps(change=clip_all))[0].cause == "clipped-gradients"


def test_gradients_that_exceed_the_limit_later_are_not_called_clipped():
    def clip_first(g, weight, name, step):
        return clip_all(g, weight, name, step) if step == 1 else g

    assert "clipped-gradients" not in [
        found.cause for found in named(steps(), steps(change=clip_first))
    ]


def test_clipping_as_torch_divides_is_named():
    def clip(g, weight, name, step):
        norm = np.sqrt(sum((gradient(other, step) ** 2).sum() for other in SHAPES))
        return g * min(1, 0.1 / (norm + 1e-6))

    assert "clipped to 0.1" in named(steps(), steps(change=clip))[0].sentence


def test_no_gradient_at_all_is_not_called_clipped():
    assert [found.cause for found in named(steps(), steps(skips=(1, 3)))] == [
        "optimizer-step-skipped"
    ]


def test_two_steps_with_one_gradient_are_not_called_other_betas():
    """m and v are then those of one step with β²; the weights are not."""
    left, right, weights, m, v = steps(), {}, dict(START), {}, {}
    for step in range(1, NUM_STEPS + 1):
        for name in SHAPES:
            g = gradient(name, step)
            for count in (2 * step - 1, 2 * step):
                m[name] = 0.9 * m.get(name, 0) + 0.1 * g
                v[name] = 0.999 * v.get(name, 0) + 0.001 * g**2
                weights[name] = KERAS.after(weights[name], m[name], v[name], count)
            for kind, value in (("weight", weights), ("adam.m", m), ("adam.v", v)):
                right[f"step.{step}.{kind}.{name}"] = value[name]
        right[f"step.{step}.loss"] = np.asarray(2.3)
    assert named(left, right) == []


def test_rates_that_part_by_rounding_to_float32_are_told_apart():
    cast = float(np.float32(1e-3))
    (only,) = named(steps(), steps(rate=lambda step: cast))
    assert only.cause == "float32-inside-float64"
    assert "the reference's as float32" in only.sentence
    (only,) = named(steps(rate=lambda step: cast), steps(), learning_rate=cast)
    assert only.cause == "learning-rate"
    assert "0.001 against 0.00100000004" in only.sentence
    assert "the same number as float32" in only.sentence


def test_a_state_that_is_lost_with_its_count_is_not_called_a_schedule():
    right, again = steps(num_steps=2), {}
    weights = {name: right[f"step.2.weight.{name}"] for name in SHAPES}
    m, v = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in "mv")
    for count in (1, 2):
        for name in SHAPES:
            g = gradient(name, count + 2)
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g**2
            weights[name] = KERAS.after(weights[name], m[name], v[name], count)
        for kind, value in (("weight", weights), ("adam.m", m), ("adam.v", v)):
            again |= {f"step.{count + 2}.{kind}.{name}": value[name] for name in SHAPES}
    (only,) = named(steps(), right | again)
    assert only.cause == "optimizer-state-lost"
    assert "before step 3" in only.sentence


@pytest.mark.parametrize("coarse", [0, 1])
def test_of_two_schedules_that_part_by_float32_neither_is_blamed(coarse):
    rates = [1e-3 * 0.9 ** (step - 1) for step in range(NUM_STEPS + 1)]
    sides = [steps(rate=rates.__getitem__), steps(rate=lambda step: float(np.float32(rates[step])))]
    (only,) = named(sides[1 - coarse], sides[coarse], schedule="exponential_decay, each step")
    assert only.cause == "float32-inside-float64"
    assert "one side computes its schedule in float32" in only.sentence


def test_a_schedule_that_stands_still_is_named():
    left = steps(rate=lambda step: 1e-3 * 0.8 ** (step - 1))
    first, *_ = named(left, steps(), schedule="cosine_decay, each step")
    assert first.cause == "schedule-per-epoch"
    assert "0.0008" in first.sentence


def test_decay_of_what_the_reference_spares_is_named():
    adam = replace(KERAS, decay=0.05)
    start = {name: weight + 0.1 for name, weight in START.items()}
    left = steps(adam, spares=lambda name: name.endswith("bias"), start=start)
    decay = {"weight_decay": 0.05, "weight_decay_kind": "decoupled"}
    question = Question((), {}, {f"weights.{name}": weight for name, weight in start.items()})
    assert named(left, left, question, **decay) == []
    first, *_ = named(left, steps(adam, start=start), question, **decay)
    assert first.cause == "decoupled-weight-decay"
    assert "conv.bias, hidden.bias" in first.sentence
    first, *_ = named(left, steps(start=start), question, **decay)
    assert "decay is 0 against 0.05" in first.sentence


def test_betas_as_float32_are_named():
    betas = {name: float(np.float32(SETTINGS[name])) for name in ("beta_1", "beta_2")}
    cast = replace(KERAS, **betas)
    right = {}
    weights = dict(START)
    left = steps()
    for step in range(1, NUM_STEPS + 1):
        for name, weight in dict(weights).items():
            m, v = (left[f"step.{step}.adam.{letter}.{name}"] for letter in "mv")
            weights[name] = cast.after(weight, m, v, step)
            right |= {f"step.{step}.weight.{name}": weights[name]}
            right |= {f"step.{step}.adam.m.{name}": m, f"step.{step}.adam.v.{name}": v}
    assert named(left, right)[0].cause == "float32-inside-float64"
