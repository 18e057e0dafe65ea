"""Modules and functions of a user's that drop whole samples, such as stochastic depth."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from portproof.record.program import factor

Draws = Callable[[torch.Tensor], torch.Tensor]
"""What drops samples, as it does in training."""
DROPPING = ("StochasticDepth", "DropPath", "DropConnect")
"""Modules that drop whole samples by a probability of their own, by the names of their classes."""
_PROBABILITIES = ("drop_prob", "p", "drop_rate", "drop_path", "drop_path_rate", "prob", "rate")
DRAWING = ("drop_connect", "drop_path", "stochastic_depth")
"""Functions that do, by their names where a module's code is written."""
_ACTING: set[Any] = set()
"""Functions of these names that do more than drop in training."""
_SAMPLES = 64
_drawing: list[bool] = []
"""Not empty while what drops samples is tried, and runs as it is."""
_NOT_THE_USERS = ("torch", "torchvision", "lightning", "pytorch_lightning")


def probabilities(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the modules that drop samples, each with the attribute that says how many."""
    found = []
    for m in module.modules():
        names = [name for name in _PROBABILITIES if isinstance(getattr(m, name, None), int | float)]
        if type(m).__name__ in DROPPING and names:
            found.append((m, names[0]))
    return found


@contextmanager
def replaced(
    module: nn.Module, dropped: Callable[[torch.Tensor, float, Draws], torch.Tensor]
) -> Iterator[None]:
    """Let functions that drop samples do something else while the block runs.

    Args:
        module: whose code calls them.
        dropped: takes what they take, the rate, and what does as they do in training.
    """
    names = {type(m).__module__ for m in module.modules()}
    spaces = [vars(sys.modules[name]) for name in sorted(names)
              if name in sys.modules and name.partition(".")[0] not in _NOT_THE_USERS]  # fmt: skip
    kept = [(space, name, space[name]) for space in spaces for name in DRAWING
            if inspect.isfunction(space.get(name))]  # fmt: skip
    for space, name, function in kept:
        space[name] = partial(_other, function, dropped, not module.training)
    try:
        yield
    finally:
        for space, name, function in kept:
            space[name] = function


def _other(
    function: Any,
    dropped: Callable[[torch.Tensor, float, Draws], torch.Tensor],
    is_evaluated: bool,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """Stand in for a function; its first parameter, by position or name, is the tensor.

    One that gives something else than this tensor in evaluation is left alone from then on.
    """
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    first, x = next(iter(bound.arguments.items()))
    if _drawing:
        return function(*args, **kwargs)
    if is_evaluated and function not in _ACTING:
        made: torch.Tensor = function(*args, **kwargs)
        if not (isinstance(made, torch.Tensor) and torch.equal(made, x)):
            _ACTING.add(function)
            return made
    if function in _ACTING:
        return function(*args, **kwargs)

    def draws(ones: torch.Tensor) -> torch.Tensor:
        bound.arguments[first] = ones
        if "training" in bound.arguments:
            bound.arguments["training"] = True
        return function(*bound.args, **bound.kwargs)

    return dropped(x, _rate(bound.arguments), draws)


def awake(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return a module's output in training mode, whatever its mode is."""
    was = module.training
    module.train()
    try:
        return type(module).forward(module, x)
    finally:
        module.train(was)


def of_samples(draws: Draws, rate: float, num_axes: int) -> str:
    """Say that samples are dropped, and what those kept are multiplied by.

    Nothing is said of that where it is 1 / (1 − `rate`), or could not be seen.
    """
    _drawing.append(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = draws(torch.ones(_SAMPLES, *[1] * (num_axes - 1))).flatten()
    except Exception:
        return "of samples"
    finally:
        _drawing.pop()
    return "of samples" + (factor(made.numpy(), rate) if len(made) == _SAMPLES else "")


def _rate(arguments: Mapping[str, Any]) -> float:
    """Return the share of samples that a call with these arguments drops."""
    if arguments.get("training") is False:
        return 0.0
    for name, value in arguments.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            return 1 - value if "keep" in name else float(value)
    return 0.0


def put_to_training(module: nn.Module, still: Sequence[nn.Module]) -> None:
    """Put a module into training mode, but for what of it stays in evaluation mode."""
    module.train()
    for m in still:
        m.training = False


@contextmanager
def nothing_dropped(module: nn.Module, still: Sequence[nn.Module] = ()) -> Iterator[None]:
    """Put a module into training mode, dropping nothing; put it back to evaluation behind.

    Args:
        module: all of it.
        still: what of it stays in evaluation mode, as it was built.
    """
    rates = probabilities(module)
    kept = [getattr(m, name) for m, name in rates]
    for m, name in rates:
        setattr(m, name, 0.0)
    put_to_training(module, still)
    try:
        with replaced(module, lambda x, *_: x):
            yield
    finally:
        module.eval()
        for (m, name), rate in zip(rates, kept, strict=True):
            setattr(m, name, rate)
