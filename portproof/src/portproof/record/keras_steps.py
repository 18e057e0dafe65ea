"""Train a compiled Keras model on given batches by `fit`, and note its weights after each step."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from portproof.record.program import Arrays, Batch, SetUpError


def train(
    model: Any,
    batches: list[Batch],
    weights: Callable[[], Arrays],
    call: Callable[[list[Any]], Any],
) -> Arrays:
    """Train on the batches in order with the model's own loss and optimizer.

    Args:
        model: compiled.
        batches: inputs and targets, as the user's function gave them.
        weights: returns canonical weights by `key|role`.
        call: gives inputs the structure that the model takes.

    Returns:
        `step.k|key|role` after step k, from 0, and `losses` (steps,).

    Raises:
        SetUpError: it is not compiled.
    """
    if not model.compiled:
        raise SetUpError("the model is not compiled, so that it has no loss and no optimizer")
    found: Arrays = {}
    means, sizes = [0.0], [0]

    class Noted(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            found.update({f"step.{batch}|{key}": a for key, a in weights().items()})
            means.append(float(logs["loss"]))

    def given() -> Iterator[Any]:
        for xs, y in batches:
            sizes.append(sizes[-1] + len(xs[0]))
            yield call(list(xs)), y

    model.fit(_Given(list(given())), epochs=1, verbose=0, shuffle=False, callbacks=[Noted()])
    # Keras logs the mean over all samples so far.
    totals = [mean * size for mean, size in zip(means, sizes, strict=True)]
    found["losses"] = np.diff(totals) / np.diff(sizes)
    return found


class _Given(keras.utils.PyDataset):
    """Batches in memory."""

    def __init__(self, batches: list[Any]) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


def described(model: Any) -> dict[str, str]:
    """Return the loss, the optimizer and metrics in a few words."""
    if not model.compiled:
        return {}
    loss = model.loss if isinstance(model.loss, str) else type(model.loss).__name__
    config = model.optimizer.get_config()
    names = "learning_rate momentum beta_1 beta_2 epsilon weight_decay clipnorm global_clipnorm"
    words = [f"{k}={_short(config[k])}" for k in names.split() if config.get(k)]
    metrics = keras.tree.flatten(getattr(model._compile_metrics, "_user_metrics", None) or [])
    return {
        "loss": str(loss),
        "optimizer": f"{type(model.optimizer).__name__}({', '.join(words)})",
        "not compared": ", ".join(getattr(m, "name", str(m)) for m in metrics if m is not None),
    }


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:30]
