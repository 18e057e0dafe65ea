"""Train a compiled Keras model on given batches by `fit`, and note its weights after each step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import keras
import numpy as np

from portproof.record.model import Arrays, Batch
from portproof.record.program import SetUpError, metrics


def train(
    model: Any,
    options: dict[str, Any],
    batches: list[Batch],
    weights: Callable[[], Arrays],
    call: Callable[[list[Any]], Any],
) -> Arrays:
    """Train on the batches in order with the model's own loss and optimizer.

    Args:
        model: compiled.
        options: the user's own for `fit`: epochs, callbacks, class weights.
        batches: inputs, targets and weights, as the user's function gave them.
        weights: returns canonical weights by `key|role`.
        call: gives inputs the structure that the model takes.

    Returns:
        `step.k|key|role` after step k, from 0, and, behind the last one, when all has ended;
        `losses` (steps,) and what of them are `penalties` of regularisers, learning `rates`;
        `metrics` (epochs, names) and their `names`.

    Raises:
        SetUpError: it is not compiled.
    """
    if not model.compiled:
        raise SetUpError("the model is not compiled, so that it has no loss and no optimizer")
    found: Arrays = {}
    logged: list[float] = []
    unsaid: list[bool] = []
    means: list[tuple[_Sums, _Sums]] = []
    penalties = [_penalty(model)]
    epochs: list[dict[str, float]] = []
    rates: list[float] = []

    class Noted(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if keras.backend.backend() == "jax":
                model.jax_state_sync()  # during an epoch its trainer keeps the state aside
            found.update({f"step.{len(logged)}|{key}": a for key, a in weights().items()})
            rates.append(_rate(model.optimizer))
            logged.append(float(logs.get("loss", 0.0)))
            unsaid.append("loss" not in logs)
            means.append((means[-1][1] if batch else {}, _sums(model)))  # an epoch's begin anew
            penalties.append(_penalty(model))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            epochs.append({k: float(v) for k, v in logs.items() if k != "loss"})

    model.steps_per_execution = 1  # each step is looked at
    given = _Given([(_tupled(call(list(xs))), _tupled(y), *w) for xs, y, w in batches])
    own = {"epochs": 1, **options, "verbose": 0, "shuffle": False}
    own["callbacks"] = [*own.get("callbacks", []), Noted()]
    model.fit(given, **own)
    found.update({f"step.{len(logged)}|{key}": a for key, a in weights().items()})
    found |= {"losses": _of_steps(logged, means), "penalties": np.array(penalties[:-1])}
    found |= {"rates": np.array(rates), "unsaid": np.array(unsaid)}
    return found | metrics(epochs)


def optimizers(model: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the class and the settings of each optimizer that a model holds, by attribute."""
    held = {"optimizer": getattr(model, "optimizer", None), **vars(model)}
    return {name: (type(value), value.get_config())
            for name, value in held.items()
            if isinstance(value, keras.optimizers.Optimizer)}  # fmt: skip


def start_anew(model: Any, made: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    """Let a model that was trained train from the start: what `optimizers` gave, and no slots."""
    for name, (kind, config) in made.items():
        setattr(model, name, kind.from_config(config))
    model.train_function = None  # it holds the ones before


@contextmanager
def dense_gradients() -> Iterator[None]:
    """Give optimizers the sum of a table's gradients for each row, while the block runs.

    On TensorFlow they get one for each place that reads the row, and square these one by one.
    """
    import tensorflow as tf

    original = keras.optimizers.Optimizer.apply

    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        dense = [None if g is None else tf.convert_to_tensor(g) for g in grads]
        return original(self, dense, trainable_variables)

    with mock.patch.object(keras.optimizers.Optimizer, "apply", apply):
        yield


def _tupled(value: Any) -> Any:
    """Return several arrays in a tuple; in a list TensorFlow's data sets do not take them."""
    return tuple(value) if isinstance(value, list) else value


_Sums = dict[str, np.ndarray]
"""The sum and the count behind each metric that is a mean, by name."""


def _sums(model: Any) -> _Sums:
    means = [m for m in model.metrics if isinstance(m, keras.metrics.Mean)]
    return {m.name: np.array([keras.ops.convert_to_numpy(v) for v in (m.total, m.count)])
            for m in means}  # fmt: skip


def _of_steps(logged: list[float], means: list[tuple[_Sums, _Sums]]) -> np.ndarray:
    """Return the loss of each step: what is logged is a mean so far, or a step's own.

    Args:
        logged: by step.
        means: before each step and after it.
    """
    losses = np.array(logged)
    for name in means[-1][1] if means else ():
        before, after = (np.array([side.get(name, np.zeros(2)) for side in sides])
                         for sides in zip(*means, strict=True))  # fmt: skip
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.allclose(after[:, 0] / after[:, 1], losses, rtol=1e-9, atol=0, equal_nan=True):
                steps = after - before
                return np.asarray(steps[:, 0] / steps[:, 1])
    return losses


def _rate(optimizer: Any) -> float:
    """Return the learning rate of the step taken last; NaN where it is not to be had."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    try:
        rate = optimizer._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(optimizer._iterations - 1)
        elif callable(rate):
            rate = rate()
        return float(keras.ops.convert_to_numpy(rate))
    except Exception:  # an optimizer of the user's own; no cause is named by its rate
        return float("nan")


def _penalty(model: Any) -> float:
    """Return the sum of the weights' regularisation penalties."""
    regularised = [v for v in model.trainable_variables if v.regularizer is not None]
    return sum(float(keras.ops.convert_to_numpy(v.regularizer(v))) for v in regularised)


class _Given(keras.utils.PyDataset):
    """Batches in memory."""

    def __init__(self, batches: list[Any]) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


_WITHOUT_EFFECT = {"name", "ema_momentum"}
"""Options of Keras's optimizers that are set by default and change no update by themselves."""


OPTIONS = (
    "amsgrad", "beta_1", "beta_2", "centered", "epsilon", "initial_accumulator_value",
    "learning_rate", "momentum", "momentum_decay", "nesterov", "rho", "weight_decay",
)  # fmt: skip
"""What torch's optimizers have too, under other names."""
CLIPPINGS = ("clipnorm", "clipvalue", "global_clipnorm")


def described(model: Any) -> dict[str, Any]:
    """Return the loss and the optimizer in a few words; their options and clipping by name."""
    if not model.compiled:
        return {}
    flat = keras.tree.flatten(model.loss)
    losses = [getattr(f, "name", None) or getattr(f, "__name__", f) for f in flat]
    config = model.optimizer.get_config()
    if isinstance(model.optimizer, keras.optimizers.Nadam):
        config["momentum_decay"] = 1.0  # by each step, which torch's counts 0.004 times
    others = [v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)]
    every = {id(each): _words(each) for each in (model.optimizer, *others)}
    return {
        "loss": ", ".join(map(str, losses)),
        "smoothing": max((_smoothing(loss) for loss in flat), default=0.0),
        "rule": type(model.optimizer).__name__,
        "average": config["ema_momentum"] if config.get("use_ema") else None,
        "accumulated": getattr(model.optimizer, "gradient_accumulation_steps", None) or 1,
        "optimizer": ", ".join(every.values()),
        "optimizers": list(every.values()),
        "options": {k: float(config[k] or 0) for k in OPTIONS
                    if k in config and isinstance(config[k], int | float | None)},
        "clipping": next(([k, float(config[k])] for k in CLIPPINGS
                          if isinstance(config.get(k), int | float) and config[k]), []),
    }  # fmt: skip


def _words(optimizer: Any) -> str:
    config = optimizer.get_config()
    words = [f"{k}={_short(v)}" for k, v in config.items() if v and k not in _WITHOUT_EFFECT]
    return f"{type(optimizer).__name__}({', '.join(words)})"


def _smoothing(loss: Any) -> float:
    """Return by how much a loss smooths labels; 0 where it does not, or does not say."""
    try:
        return float(loss.get_config().get("label_smoothing") or 0)
    except Exception:  # a function, or a user's own
        return 0.0


def _short(value: Any) -> str:
    if isinstance(value, dict):  # a schedule
        return str(value.get("class_name", "?"))
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:30]
