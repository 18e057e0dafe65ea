"""Causes that a side's own settings state: contracts and layer tables."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ladder.causes.fits import is_near, number
from ladder.causes.reading import join, layer_rows
from ladder.causes.registry import Diagnosis, Evidence, Rank, UnexaminableError, detects
from ladder.exchange import Trace

RUNGS = ("contract", "architecture")
MISSING = "missing"
POOLS = ("max_pool", "average_pool")
DECAY_SETTINGS = ("optimizer.weight_decay", "optimizer.weight_decay_kind", "optimizer.decayed")
ACTIVATIONS = ("leaky_relu", "relu", "softmax")
SETTINGS = {
    r"layers\.[^.]+\.negative_slope": "leaky-slope",
    r"layers\.[^.]+\.rate": "dropout-rate",
    r"optimizer\.learning_rate": "learning-rate",
    r"optimizer\.beta_1": "adam-beta-1",
    r"optimizer\.beta_2": "adam-beta-2",
    r"optimizer\.epsilon": "adam-epsilon-value",
    r"optimizer\.epsilon_placement": "adam-epsilon-placement",
    r"optimizer\.amsgrad": "adamax-or-amsgrad",
    r"optimizer\.clipping": "clipped-gradients",
    r"optimizer\.bias_correction": "no-bias-correction",
    r"optimizer\.learning_rate_step": "schedule-per-epoch",
    r"optimizer\.gradient_accumulation": "gradient-accumulation",
    r"loss\.label_smoothing": "label-smoothing",
}
"""Settings whose difference is a cause whatever the values are; the rest look at the values."""


@detects(
    *SETTINGS.values(), "sgd-instead", "coupled-weight-decay", "decoupled-weight-decay",
    "loss-sum", "mean-over-classes", "softmax-before-loss", "clipped-probabilities",
    "metric-unweighted-mean", "metric-of-last-batch", "float32-inside-float64",
    "activation-added", "frozen-layer", "frozen-bias", "learning-rate", "schedule-per-epoch",
    "init-distribution", "bias-not-zero", "missing-bias", "softmax-output", "activation-missing",
    "conv-padding", "conv-stride", "pool-padding", "pool-valid", "pool-average", "pool-stride",
    on=RUNGS,
)  # fmt: skip
def settings(evidence: Evidence) -> list[Diagnosis]:
    """Recognise each setting that differs."""
    found = []
    for path, left, right in differences(_settings(evidence.left), _settings(evidence.right)):
        cause = _cause_of(path, left, right, evidence)
        if cause:
            words = f"{path} is {_shown(right)} against {_shown(left)}"
            found.append(Diagnosis(cause, _where(path), words))
    return _without_swaps(found, evidence)


def _settings(trace: Trace) -> dict[str, Any]:
    """Return the contract with what the layer table says of each layer."""
    contract = dict(trace.facts.get("contract") or {})
    layers = {name: dict(row) for name, row in (contract.get("layers") or {}).items()}
    for row in trace.facts.get("layers") or []:
        layers[row["name"]] = {**layers.get(row["name"], {}), **row}
    if layers:
        contract["layers"] = layers
    return contract


def differences(left: Any, right: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, left, right) for each plain value in which two nested settings differ.

    What one side does not state is `MISSING`; a whole group that is missing is yielded as such.
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in dict.fromkeys([*left, *right]):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(left.get(key, MISSING), right.get(key, MISSING), inner)
    elif left != right:
        yield path, left, right


def _where(path: str) -> str:
    """Return the layer for a layer's setting, else the setting."""
    parts = path.split(".")
    return parts[1] if parts[0] == "layers" and len(parts) > 1 else path


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "not there" if isinstance(value, Mapping) else str(value)


def _cause_of(path: str, left: Any, right: Any, evidence: Evidence) -> str | None:
    if path.startswith("layers."):
        return _layer_cause(path, left, right, evidence)
    if MISSING in (left, right) and path.count(".") == 0:
        return None  # a group that one side does not state says nothing of its values
    if decay := _decay_cause(path, evidence):
        return decay
    by_value = (_optimizer_cause, _loss_cause, _dtype_cause, _initialiser_cause, _metric_cause)
    for cause_of in by_value:
        cause = cause_of(path, left, right)
        if cause:
            return cause
    return _by_path(path, left, right)


def _by_path(path: str, left: Any, right: Any) -> str | None:
    if MISSING in (left, right):
        return None
    for pattern, cause in SETTINGS.items():
        if re.fullmatch(pattern, path):
            return cause
    return None


def _optimizer_cause(path: str, left: Any, right: Any) -> str | None:
    if path == "optimizer.kind":
        word = str(right).lower()
        if "sgd" in word:
            return "sgd-instead"
        if "adamax" in word or "amsgrad" in word:
            return "adamax-or-amsgrad"
        return "decoupled-weight-decay" if "adamw" in (word, str(left).lower()) else None
    if path == "optimizer.schedule":
        is_added = str(left) == "none" and "step" in str(right)
        return "learning-rate" if is_added else "schedule-per-epoch"
    return None


def _decay_cause(path: str, evidence: Evidence) -> str | None:
    """Name a difference in weight decay by the suspect's kind, or the kind that it lacks."""
    if path not in DECAY_SETTINGS:
        return None
    kinds = [
        str(((trace.facts.get("contract") or {}).get("optimizer") or {}).get("weight_decay_kind"))
        for trace in (evidence.right, evidence.left)
    ]
    kind = next((kind for kind in kinds if kind in ("coupled", "decoupled")), "coupled")
    return f"{kind}-weight-decay"


def _loss_cause(path: str, left: Any, right: Any) -> str | None:
    word = str(right).lower()
    if path == "loss.reduction":
        return "loss-sum" if "sum" in word else "mean-over-classes" if "class" in word else None
    if path == "loss.takes":
        if "clip" in word:
            return "clipped-probabilities"
        return "softmax-before-loss" if "softmax" in word or "prob" in word else None
    if path == "loss.kind":
        return "mean-over-classes" if "binary" in word else None
    return None


def _dtype_cause(path: str, left: Any, right: Any) -> str | None:
    is_coarser = str(left) == "float64" and str(right) in ("float32", "bfloat16", "float16")
    return "float32-inside-float64" if path.startswith("dtypes") and is_coarser else None


def _initialiser_cause(path: str, left: Any, right: Any) -> str | None:
    if not path.startswith("initialisers.") or MISSING in (left, right):
        return None
    return "bias-not-zero" if path.endswith("bias") else "init-distribution"


def _metric_cause(path: str, left: Any, right: Any) -> str | None:
    if not path.startswith("metrics."):
        return None
    if "last" in str(right):
        return "metric-of-last-batch"
    # Another metric, such as a mean over the classes, is none of these mistakes.
    is_mean = any(words in str(right) for words in ("unweighted", "mean of batch"))
    return "metric-unweighted-mean" if is_mean else None


def _layer_cause(path: str, left: Any, right: Any, evidence: Evidence) -> str | None:
    _, layer, *keys = path.split(".")
    if not keys:
        return _missing_layer(left, right)
    if MISSING in (left, right):
        return None
    row = {
        **_settings(evidence.right)["layers"][layer],
        **_settings(evidence.left)["layers"][layer],
    }
    return _kind_cause(row, keys[0], left, right) or _by_path(path, left, right)


def _missing_layer(left: Any, right: Any) -> str | None:
    row = left if right == MISSING else right
    if "rate" in row:
        return "dropout-rate"
    is_activation = "negative_slope" in row or row.get("kind") in ACTIVATIONS
    if right == MISSING:
        return "activation-missing" if is_activation else None
    return "softmax-output" if row.get("kind") == "softmax" else None


def _kind_cause(row: Mapping[str, Any], key: str, left: Any, right: Any) -> str | None:
    is_pool = "pool_size" in row
    causes = {
        "use_bias": "missing-bias" if right is False else None,
        "kind": "pool-average" if left in POOLS and right in POOLS else None,
        "activation": _activation_cause(left, right),
        "padding": "conv-padding",
        "strides": "pool-stride" if is_pool else "conv-stride",
    }
    if key == "padding" and is_pool:
        return "pool-valid" if right == "valid" else "pool-padding"
    return causes.get(key)


def _activation_cause(left: Any, right: Any) -> str:
    if "softmax" in str(right):
        return "softmax-output"
    return "activation-added" if left == "linear" else "activation-missing"


def _without_swaps(found: list[Diagnosis], evidence: Evidence) -> list[Diagnosis]:
    """Say of rates that each stands in the other's place that they are swapped."""
    rates = [diagnosis for diagnosis in found if diagnosis.cause == "dropout-rate"]
    left, right = (_rates(trace) for trace in (evidence.left, evidence.right))
    if not is_swap([diagnosis.where for diagnosis in rates], left, right):
        return found
    swapped = swapped_rates([diagnosis.where for diagnosis in rates], left)
    return [swapped, *(diagnosis for diagnosis in found if diagnosis not in rates)]


def _rates(trace: Trace) -> dict[str, float]:
    layers = _settings(trace).get("layers", {})
    return {name: float(row["rate"]) for name, row in layers.items() if "rate" in row}


def is_swap(names: list[str], left: Mapping[str, float], right: Mapping[str, float]) -> bool:
    """Return whether exactly two layers differ, each with the other's value."""
    if len(names) != 2 or not set(names) <= set(left) & set(right):
        return False
    one, two = names
    return is_near(left[one], right[two], 1e-6) and is_near(left[two], right[one], 1e-6)


def swapped_rates(names: list[str], left: Mapping[str, float]) -> Diagnosis:
    """Return the diagnosis of two layers whose dropout rates are exchanged."""
    one, two = names
    words = f"the rates of {one} and {two} are swapped: {one} has {number(left[two])} against "
    words += f"{number(left[one])}, {two} has {number(left[one])} against {number(left[two])}"
    return Diagnosis("dropout-rate", f"{one}, {two}", words)


@detects("frozen-layer", "frozen-bias", on=("contract",))
def frozen(evidence: Evidence) -> Diagnosis | None:
    """Recognise parameters that the suspect does not train and the reference does."""
    left, right = (
        list((trace.facts.get("contract") or {}).get("frozen") or [])
        for trace in (evidence.left, evidence.right)
    )
    added = [name for name in right if name not in left]
    if not added:
        return None
    words = f"{join(added)}: not trained"
    if all(name.endswith(".bias") for name in added):
        return Diagnosis("frozen-bias", join(added, most=8), words)
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in added))
    return Diagnosis("frozen-layer", join(layers, most=8), words)


@detects("activation-order", "layer-order", on=RUNGS, rank=Rank.PATTERN)
def layer_order(evidence: Evidence) -> Diagnosis | None:
    """Recognise the same layers in another order."""
    left, right = ([row["name"] for row in layer_rows(t)] for t in (evidence.left, evidence.right))
    if left == right or sorted(left) != sorted(right):
        return None
    first = next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
    words = f"the layers stand in another order: {right[first]} where {left[first]} should"
    kinds = {row["name"]: row["kind"] for row in layer_rows(evidence.left)}
    moved = {kinds[name] for a, b in zip(left, right, strict=True) if a != b for name in (a, b)}
    cause = "activation-order" if moved & set(ACTIVATIONS) else "layer-order"
    return Diagnosis(cause, left[first], words)


@detects("missing-bias", on=RUNGS, rank=Rank.PATTERN)
def fewer_parameters(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a layer with fewer parameters by just its outputs' biases."""
    if not evidence.left.facts.get("layers") or not evidence.right.facts.get("layers"):
        raise UnexaminableError("no layer table")
    right = {row["name"]: row for row in layer_rows(evidence.right)}
    found = []
    for row in layer_rows(evidence.left):
        count = row.get("filters") or row.get("units")
        other = right.get(row["name"])
        is_told = other is not None and other.get("use_bias") is True
        if count and other and not is_told and row["parameters"] - other["parameters"] == count:
            words = f"{row['name']} has {other['parameters']:,} parameters against "
            words += f"{row['parameters']:,}: its {count} biases are missing"
            found.append(Diagnosis("missing-bias", row["name"], words))
    return found
