"""Other ways to compute a loss, tried where trainings part in it; variants as any others."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from portproof.record.torch_variants import VARIANTS, variant

REDUCED = (
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss",
)  # fmt: skip
"""Losses that are told how to reduce."""
CLIPPED_AT = 1e-7
"""What Keras keeps probabilities away from 0 and 1 by (`keras.config.epsilon()`)."""
PROBABILITIES = "what goes into {} are probabilities already: without its {} the losses agree"
TOLD: dict[str, tuple[tuple[str, ...], str, Any, str]] = {
    "as_mean_loss": (REDUCED, "reduction", "mean", "the loss is a mean in the reference"),
    "as_sum_loss": (REDUCED, "reduction", "sum", "the loss is a sum in the reference"),
    "as_mean_of_samples": (
        ("kl_div",), "reduction", "batchmean",
        "the divergence is a mean over samples in the reference",
    ),
    "not_smoothed": (
        ("cross_entropy",), "label_smoothing", 0.0, "labels are not smoothed in the reference"
    ),
    "unweighted": (
        ("cross_entropy", "nll_loss"), "weight", None, "classes have equal weight in the reference"
    ),
}  # fmt: skip
"""Variants by one argument: of which losses, the argument, its value, the text."""


def _arguments(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def variants_of(name: str, func: Any, args: Any, kwargs: Any) -> Iterator[str]:
    """Yield the variants of a call of a loss function that may give another number."""
    told = _arguments(func, args, kwargs)
    for key in VARIANTS[name]:
        _, argument, value, _ = TOLD.get(key, ((), "", None, ""))
        is_apt = key != "over_samples" or (told["weight"] is not None and told["target"].ndim == 1)
        if told.get("reduction") == "none" and argument == "reduction":
            continue  # what the module makes of single losses is its own
        if is_apt and (not argument or told[argument] != value):
            yield key


def _told(func: Any, args: Any, kwargs: Any, **changed: Any) -> torch.Tensor:
    found: torch.Tensor = func(**{**_arguments(func, args, kwargs), **changed})
    return found


def _by_argument(key: str) -> None:
    names, argument, value, text = TOLD[key]

    def run(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return _told(func, args, kwargs, **{argument: value})

    run.__name__ = key
    variant(*names, text=text)(run)


for _key in TOLD:
    _by_argument(_key)


def smoothed(value: float) -> Any:
    """Return a cross-entropy whose labels are smoothed by `value`."""
    return lambda func, *args, **kwargs: _told(func, args, kwargs, label_smoothing=value)


@variant(
    "cross_entropy",
    "nll_loss",
    text="with class weights the loss is a mean over samples in the reference, and not divided by "
    "the sum of their weights",
)
def _over_samples(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    told = _arguments(func, args, kwargs)
    return _told(func, args, kwargs, reduction="sum") / (told["target"] != -100).sum()


@variant("cross_entropy", text=PROBABILITIES.format("cross_entropy", "softmax"))
def _of_probabilities(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    made: torch.Tensor = func(x.log(), *args, **kwargs)
    return made


@variant(
    "cross_entropy",
    text="the reference takes what goes into its loss for probabilities (from_logits=False)",
)
def _taken_for_probabilities(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    told = _arguments(func, args, kwargs)
    x, target = told["input"], told["target"]
    if told["weight"] is not None or told["label_smoothing"] or told["reduction"] == "none":
        raise ValueError("not tried with these")
    shares = (x / x.sum(1, keepdim=True)).clamp(CLIPPED_AT, 1 - CLIPPED_AT)
    if target.ndim < x.ndim:
        return F.nll_loss(
            shares.log(), target, None, None, told["ignore_index"], None, told["reduction"]
        )
    losses = -(target * shares.log()).sum(1)
    return losses.sum() if told["reduction"] == "sum" else losses.mean()


@variant("nll_loss", text="nll_loss is not given logarithms: with those of a softmax it agrees")
def _of_logits(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    made: torch.Tensor = func(torch.log_softmax(x, 1), *args, **kwargs)
    return made


@variant(
    "binary_cross_entropy_with_logits",
    text=PROBABILITIES.format("binary_cross_entropy_with_logits", "sigmoid"),
)
def _of_shares(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    told = _arguments(func, args, kwargs)
    if told["pos_weight"] is not None:
        raise ValueError("not tried with these")
    made: torch.Tensor = F.binary_cross_entropy(
        told["input"], told["target"], told["weight"], reduction=told["reduction"]
    )
    return made
