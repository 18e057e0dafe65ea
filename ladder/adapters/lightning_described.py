"""What torch's optimizers, losses and metrics are, as facts that frameworks share."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torchmetrics import Metric

from ladder.subject import Facts


def metric_words(value: Any, options: Mapping[str, Any], batch_size: int) -> str:
    """Say what a logged value is and how an epoch's value is made of it.

    Keras's metrics are means over an epoch's images; `self.log` in a training step keeps the last
    batch's value unless it is told `on_epoch=True`.
    """
    if isinstance(value, Metric):
        average = getattr(value, "average", "micro")
        if average == "micro":
            return "share of images, weighted by batch size"
        return f"{average} average over the classes"
    if not options.get("on_epoch"):
        return "of the last batch"
    if options.get("batch_size") not in (None, batch_size):
        return f"weighted by batch_size={options['batch_size']}"
    return "share of images, weighted by batch size"


def optimizer_kind(optimizer: torch.optim.Optimizer) -> str:
    """Return `adam`, `sgd`, `rmsprop`, …; AdamW is Adam with a decoupled weight decay."""
    for name in ("Adam", "SGD", "RMSprop"):
        if isinstance(optimizer, getattr(torch.optim, name)):
            return name.lower()
    return {"adamw": "adam"}.get(name := type(optimizer).__name__.lower(), name)


SLOTS = {
    ("adam", "exp_avg"): "m",
    ("adam", "exp_avg_sq"): "v",
    ("adam", "max_exp_avg_sq"): "v_hat",
    ("sgd", "momentum_buffer"): "momentum",
}


def optimizer_contract(optimizer: torch.optim.Optimizer, trainer: L.Trainer) -> Facts:
    """Return an optimizer's resolved settings, with what its Trainer adds."""
    kind = optimizer_kind(optimizer)
    group = optimizer.param_groups[0]
    decay = max(float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups)
    is_decoupled = group.get("decoupled_weight_decay", type(optimizer).__name__ == "AdamW")
    found: Facts = {
        "kind": kind,
        "learning_rate": float(group["lr"]),
        "weight_decay": decay,
        "weight_decay_kind": ("decoupled" if is_decoupled else "coupled") if decay else "none",
        "clipping": _clipping(trainer),
        "schedule": _schedule(trainer),
        "gradient_accumulation": trainer.accumulate_grad_batches,
    }
    if kind == "adam":
        # An Adam that keeps `epsilon` beside torch's own `eps` places it as Keras does.
        found |= {
            "beta_1": float(group["betas"][0]),
            "beta_2": float(group["betas"][1]),
            "epsilon": float(group.get("epsilon", group["eps"])),
            "epsilon_placement": "outside" if "epsilon" in group else "inside bias correction",
            "amsgrad": group["amsgrad"],
        }
    elif kind == "sgd":
        found |= {
            "momentum": float(group["momentum"]),
            "nesterov": group["nesterov"],
        }
    return found


def _clipping(trainer: L.Trainer) -> str:
    if not trainer.gradient_clip_val:
        return "none"
    words = {"value": "value"}.get(str(trainer.gradient_clip_algorithm), "global norm")
    return f"{words}, at most {float(trainer.gradient_clip_val):g}"


def _schedule(trainer: L.Trainer) -> str:
    if not trainer.lr_scheduler_configs:
        return "none"
    return f"each {trainer.lr_scheduler_configs[0].interval}"
