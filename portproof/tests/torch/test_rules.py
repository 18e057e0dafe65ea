"""torch's optimizers with ε where Keras has it, against Keras's formulas in NumPy."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from portproof.record.torch_rules import place_epsilon

RATE, EPSILON, DECAY = 0.1, 1e-3, 0.3


def adam(precision, decay=0.0, amsgrad=False):
    def step(w, g, s, t):
        one, two, taken = (float(np.dtype(precision).type(x)) for x in (0.9, 0.99, decay))
        w, first, second = w - RATE * taken * w, 1 - one**t, 1 - two**t
        s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
        s["v"] = 0.99 * s.get("v", 0.0) + 0.01 * g**2
        s["h"] = np.maximum(s.get("h", 0.0), s["v"])
        root = np.sqrt(s["h"] if amsgrad else s["v"])
        return w - RATE * np.sqrt(second) / first * s["m"] / (root + EPSILON)

    return step


def rms(momentum=0.0, centered=False):
    def step(w, g, s, t):
        s["v"] = 0.9 * s.get("v", 0.0) + 0.1 * g**2
        s["a"] = 0.9 * s.get("a", 0.0) + 0.1 * g
        v = s["v"] - s["a"] ** 2 if centered else s["v"]
        s["m"] = momentum * s.get("m", 0.0) + RATE * g / np.sqrt(v + EPSILON)
        return w - s["m"]

    return step


def adagrad(w, g, s, t):
    s["v"] = s.get("v", float(np.float32(0.1))) + g**2
    return w - RATE * g / np.sqrt(s["v"] + EPSILON)


def adamax(precision):
    def step(w, g, s, t):
        s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
        s["u"] = np.maximum(0.99 * s.get("u", 0.0), np.abs(g))
        first = 1 - float(np.dtype(precision).type(0.9)) ** t
        return w - RATE / first * s["m"] / (s["u"] + EPSILON)

    return step


BETAS = {"lr": RATE, "betas": (0.9, 0.99)}
RULES = [
    (torch.optim.Adam, BETAS, adam("float64"), "float64"),
    (torch.optim.Adam, BETAS, adam("float32"), "float32"),
    (torch.optim.Adam, {**BETAS, "amsgrad": True}, adam("float64", amsgrad=True), "float64"),
    (torch.optim.AdamW, {**BETAS, "weight_decay": DECAY}, adam("float32", DECAY), "float32"),
    (torch.optim.Adamax, BETAS, adamax("float64"), "float64"),
    (torch.optim.Adamax, BETAS, adamax("float32"), "float32"),
    (torch.optim.RMSprop, {"lr": RATE, "alpha": 0.9}, rms(), "float64"),
    (torch.optim.RMSprop, {"lr": RATE, "alpha": 0.9, "momentum": 0.5}, rms(0.5), "float64"),
    (torch.optim.RMSprop, {"lr": RATE, "alpha": 0.9, "centered": True}, rms(0, True), "float64"),
    (torch.optim.Adagrad, {"lr": RATE, "initial_accumulator_value": 0.1}, adagrad, "float32"),
]


@pytest.mark.parametrize("name", ["Adam", "Adamax", "RMSprop", "Adagrad"])
def test_a_group_keeps_its_share_of_epsilon(name) -> None:
    ends = []
    for own, epsilon in ((1e-8, EPSILON), (1e-9, 10 * EPSILON)):
        parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        with ExitStack() as stack:
            place_epsilon(stack, "float64", epsilon)
            groups = [{"params": [parameter], "eps": own}]
            optimizer = getattr(torch.optim, name)(groups, lr=RATE, eps=1e-9)
            for _ in range(3):
                parameter.grad = torch.tanh(parameter.detach())
                optimizer.step()
        ends.append(parameter.detach())
    assert torch.allclose(*ends, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("optimizer", "options", "rule", "precision"), RULES)
def test_steps_are_kerass(optimizer, options, rule, precision) -> None:
    random, real = np.random.default_rng(0), optimizer.step
    start, target = random.normal(size=5), random.normal(size=5)
    weight, state = start, {}
    parameter = torch.nn.Parameter(torch.tensor(start))
    with ExitStack() as stack:
        place_epsilon(stack, precision, EPSILON)
        steps = optimizer([parameter], eps=1e-9, **options)
        for t in range(1, 6):
            weight = rule(weight, np.tanh(weight - target), state, t)

            def closure():
                parameter.grad = torch.tanh(parameter.detach() - torch.tensor(target))
                return torch.tensor(1.0)

            assert steps.step(closure) == 1
    assert np.abs(parameter.detach().numpy() - weight).max() < 1e-15
    assert steps.param_groups[0]["lr"] == RATE
    assert steps.param_groups[0]["eps"] == 1e-9
    assert optimizer.step is real
