"""Train a LightningModule on given batches by `Trainer.fit`; note its weights after each step."""

import importlib
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from portproof.record.program import Arrays, Batch, SetUpError, metrics
from portproof.record.torch_calls import DROPOUTS, RATES
from portproof.record.torch_tags import function_name
from portproof.record.torch_variants import variant_of


class Training(TorchFunctionMode):
    """Lets every dropout function give what it takes, and others that drop numbers drop none.

    Args:
        swaps: functions that are computed in another way: the name of a variant by that of one.
    """

    def __init__(self, swaps: Mapping[str, str]) -> None:
        super().__init__()
        self.swaps = swaps

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, function_name(func)
        if name in DROPOUTS and args:
            return args[0]
        if name in RATES:
            names = RATES[name].split()
            args = tuple(0.0 if n.startswith("dropout") else a
                         for n, a in zip(names, args, strict=False))  # fmt: skip
            kwargs = {k: 0.0 if k.startswith("dropout") else v for k, v in kwargs.items()}
        if name in self.swaps:
            func = variant_of(name, self.swaps[name], func)
        return func(*args, **kwargs)


def train(
    module: nn.Module,
    options: dict[str, Any],
    batches: list[Batch],
    weights: Callable[[], Arrays],
    tensors: Callable[[list[np.ndarray]], list[torch.Tensor]],
    swaps: Mapping[str, str],
) -> Arrays:
    """Train on the batches in order with the module's own step and optimizer.

    Args:
        module: a LightningModule.
        options: the user's own for the Trainer, and `val_dataloaders` for its `fit`.
        batches: inputs, targets and weights, as the user's function gave them.
        weights: returns canonical weights by `key|role`.
        tensors: gives inputs the layout that the module takes.
        swaps: functions that are computed in another way.

    Returns:
        `step.k|key|role` after step k, from 0, and `losses` (steps,); `metrics` (epochs, names)
        and their `names`.

    Raises:
        SetUpError: it is no LightningModule.
    """
    if not hasattr(module, "training_step"):
        raise SetUpError("the module is no LightningModule, so that it has no step to train with")
    lightning = importlib.import_module(_package(module))
    found: Arrays = {}
    losses: list[float] = []
    epochs: list[dict[str, float]] = []

    class Noted(lightning.Callback):  # type: ignore[name-defined]
        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            found.update({f"step.{len(losses)}|{key}": a for key, a in weights().items()})
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            if loss is None:
                raise SetUpError("training_step returned no loss")
            losses.append(float(loss))

    user: Any = module
    end = user.on_train_epoch_end  # callbacks come before it, and it may log metrics

    def ended() -> None:
        end()
        epochs.append({k: float(v) for k, v in user.trainer.callback_metrics.items()})

    user.on_train_epoch_end = ended
    data: Any = []  # a list does for a data set
    for xs, y, given in batches:
        inputs: Any = tensors(list(xs))
        inputs = inputs[0] if len(inputs) == 1 else tuple(inputs)
        data.append((inputs, *(_tensors(part) for part in (y, *given))))
    validation = options.get("val_dataloaders")
    own = {k: v for k, v in options.items() if k != "val_dataloaders"}
    own = {**own, "callbacks": [*options.get("callbacks", []), Noted()]}
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    usual = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False}  # fmt: skip
    with warnings.catch_warnings(), Training(swaps):
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(**{**usual, **quiet, **own})
        try:
            trainer.fit(module, DataLoader(data, batch_size=None, shuffle=False), validation)
        finally:
            del user.on_train_epoch_end
    return found | {"losses": np.array(losses)} | metrics(epochs)


def _tensors(value: Any) -> Any:
    """Return targets or weights as tensors, several in the structure that they have."""
    if isinstance(value, dict):
        return {name: _tensors(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_tensors(part) for part in value]
    return torch.from_numpy(np.ascontiguousarray(value))


def _package(module: nn.Module) -> str:
    for cls in type(module).__mro__:
        if cls.__module__.startswith("pytorch_lightning"):
            return "pytorch_lightning"
    return "lightning.pytorch"


def described(module: nn.Module) -> dict[str, str]:
    """Return the optimizer in a few words, and schedules; the loss is what the step computes."""
    configure: Any = getattr(module, "configure_optimizers", None)
    if configure is None:
        return {}
    made = configure()
    optimizers: Any = made
    schedules: Any = ()
    if isinstance(made, dict):
        optimizers, schedules = made.get("optimizer"), [made.get("lr_scheduler")]
    elif isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], tuple | list):
        optimizers, schedules = made
    optimizer = optimizers[0] if isinstance(optimizers, tuple | list) else optimizers
    named = [s.get("scheduler") if isinstance(s, dict) else s for s in schedules]
    options = getattr(optimizer, "defaults", {})
    wanted = ("lr", "momentum", "betas", "eps", "weight_decay", "nesterov")
    words = [f"{k}={options[k]}" for k in wanted if options.get(k)]
    return {
        "loss": "training_step",
        "optimizer": f"{type(optimizer).__name__}({', '.join(words)})",
        "schedules": ", ".join(type(s).__name__ for s in named if s is not None),
    }
