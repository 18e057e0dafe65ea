"""Which torch functions own weights, in which roles, and in which layout.

Recording functions rather than modules finds weights wherever they are used: in a module, in a
subclass that does more, by `F.conv2d` with a bare parameter, or through a view of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from portproof.record.role import Role

Array = np.ndarray


@dataclass
class Spec:
    """What a function call is, apart from where it stands."""

    kind: str
    roles: dict[str, Role]
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = "input"
    """The argument that holds the activations."""
    channels_first: bool = False
    """Channels stand at axis 1 of what it takes and gives."""


def bind(names: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by name; functions written in C have no signature to ask."""
    return {**dict(zip(names.split(), args, strict=False)), **kwargs}


def _conv(bound: dict[str, Any], rank: int) -> Spec:
    x, weight = bound["input"], bound["weight"]
    stride, dilation = (
        _each(bound.get("stride"), rank, 1),
        _each(bound.get("dilation"), rank, 1),
    )
    padding = bound.get("padding", 0)
    if isinstance(padding, str):
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [[t // 2, t - t // 2] if padding == "same" else [0, 0] for t in total]
    else:
        pads = [[p, p] for p in _each(padding, rank, 0)]
    settings = {
        "strides": stride,
        "padding": pads,
        "dilation": dilation,
        "groups": bound.get("groups", 1) or 1,
    }
    roles = {
        "kernel": Role(
            weight,
            lambda a: np.moveaxis(a, (0, 1), (-1, -2)),  # (out, in, *s) to (*s, in, out)
            lambda a: np.moveaxis(a, (-1, -2), (0, 1)),
        )
    }
    return Spec("conv", _with(roles, bias=bound.get("bias")), settings, "input", x.ndim == rank + 2)


def _deconv(bound: dict[str, Any], rank: int) -> Spec:
    settings = {
        "strides": _each(bound.get("stride"), rank, 1),
        # What is cut off the full result before and behind each axis.
        "crop": [
            [p, p - more]
            for p, more in zip(
                _each(bound.get("padding"), rank, 0),
                _each(bound.get("output_padding"), rank, 0),
                strict=True,
            )
        ],
        "dilation": _each(bound.get("dilation"), rank, 1),
        "groups": bound.get("groups", 1) or 1,
    }
    roles = {
        "kernel": Role(
            bound["weight"],
            lambda a: np.moveaxis(a, (0, 1), (-2, -1)),  # (in, out, *s) to (*s, in, out)
            lambda a: np.moveaxis(a, (-2, -1), (0, 1)),
        )
    }
    return Spec("deconv", _with(roles, bias=bound.get("bias")), settings, "input", True)


def _linear(bound: dict[str, Any]) -> Spec:
    roles = {"kernel": Role(bound["weight"], np.transpose, np.transpose)}
    return Spec("dense", _with(roles, bias=bound.get("bias")))


def _matmul(bound: dict[str, Any]) -> Spec | None:
    if getattr(bound.get("other"), "ndim", 0) != 2:
        return None
    return Spec("dense", {"kernel": Role(bound["other"])})


def _addmm(bound: dict[str, Any]) -> Spec:
    roles = {"kernel": Role(bound["mat2"])}
    return Spec("dense", _with(roles, bias=bound["input"]), data="mat1")


def _batch_norm(bound: dict[str, Any]) -> Spec:
    mean, variance = bound.get("running_mean"), bound.get("running_var")
    roles = _with({}, gamma=bound.get("weight"), beta=bound.get("bias"))
    if mean is not None and variance is not None:
        roles["moving_mean"] = Role(mean, is_statistic=True)
        roles["moving_variance"] = Role(variance, is_statistic=True)
    momentum = bound.get("momentum", 0.1)
    by_batch = bound.get("training") or mean is None
    settings = {
        "epsilon": bound.get("eps", 1e-5),
        # Keras's is the share that is kept; rounded, for 1 - 0.1 is no 0.9.
        "momentum": None if momentum is None or mean is None else round(1 - momentum, 12),
        "normalised by": "the batch" if by_batch else "moving statistics",
    }
    return Spec("batch_norm", roles, settings, "input", True)


def _layer_norm(bound: dict[str, Any]) -> Spec:
    roles = _with({}, gamma=bound.get("weight"), beta=bound.get("bias"))
    settings = {
        "epsilon": bound.get("eps", 1e-5),
        "axes": len(tuple(bound["normalized_shape"])),
    }
    return Spec("layer_norm", roles, settings)


def _rms_norm(bound: dict[str, Any]) -> Spec:
    epsilon = bound.get("eps")
    if epsilon is None:
        epsilon = torch.finfo(bound["input"].dtype).eps
    return Spec("rms_norm", _with({}, gamma=bound.get("weight")), {"epsilon": epsilon})


def _group_norm(bound: dict[str, Any]) -> Spec:
    roles = _with({}, gamma=bound.get("weight"), beta=bound.get("bias"))
    settings = {"epsilon": bound.get("eps", 1e-5), "groups": bound["num_groups"]}
    return Spec("group_norm", roles, settings, "input", True)


def _instance_norm(bound: dict[str, Any]) -> Spec:
    roles = _with({}, gamma=bound.get("weight"), beta=bound.get("bias"))
    # An instance norm is a group norm with one channel a group, as Keras writes it.
    settings = {"epsilon": bound.get("eps", 1e-5), "groups": bound["input"].shape[1]}
    return Spec("group_norm", roles, settings, "input", True)


def _embedding(bound: dict[str, Any]) -> Spec:
    index = bound.get("padding_idx")
    table = bound["weight"]
    if index is not None and index < 0:
        index += len(table)
    return Spec("embedding", {"table": Role(table)}, {"padding_idx": index})


def _prelu(bound: dict[str, Any]) -> Spec:
    channels = bound["weight"].numel() > 1 and bound["input"].ndim > 1
    return Spec("prelu", {"alpha": Role(bound["weight"])}, {}, "input", channels)


def _each(value: Any, rank: int, default: int) -> list[int]:
    if value is None:
        value = default
    items = list(value) if isinstance(value, tuple | list | torch.Size) else [value]
    return [int(v) for v in (items * rank if len(items) == 1 else items)]


def _with(roles: dict[str, Role], **optional: torch.Tensor | None) -> dict[str, Role]:
    return roles | {name: Role(t) for name, t in optional.items() if t is not None}


CELLS = {"lstm_cell": "lstm", "gru_cell": "gru", "rnn_tanh_cell": "rnn", "rnn_relu_cell": "rnn"}
"""Functions that are one step of a recurrent layer, by its kind."""
_CONV = "input weight bias stride padding dilation groups"
_DECONV = "input weight bias stride padding output_padding groups dilation"
SIGNATURES: dict[str, str] = {
    **{f"conv{r}d": _CONV for r in (1, 2, 3)},
    **{f"conv_transpose{r}d": _DECONV for r in (1, 2, 3)},
    "linear": "input weight bias",
    "matmul": "input other",
    "mm": "input other",
    "addmm": "input mat1 mat2",
    "batch_norm": "input running_mean running_var weight bias training momentum eps",
    "layer_norm": "input normalized_shape weight bias eps",
    "rms_norm": "input normalized_shape weight eps",
    "group_norm": "input num_groups weight bias eps",
    "instance_norm": "input running_mean running_var weight bias use_input_stats momentum eps",
    "embedding": "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse",
    "prelu": "input weight",
    **dict.fromkeys(CELLS, "input hx w_ih w_hh b_ih b_hh"),
}


def _cell(bound: dict[str, Any], name: str) -> Spec:
    weights = [bound[n] for n in ("w_ih", "w_hh", "b_ih", "b_hh") if bound.get(n) is not None]
    return Spec(CELLS[name], recurrent_roles(CELLS[name], weights))


READERS: dict[str, Callable[[dict[str, Any]], Spec | None]] = {
    **{f"conv{r}d": lambda b, r=r: _conv(b, r) for r in (1, 2, 3)},  # type: ignore[misc]
    **{f"conv_transpose{r}d": lambda b, r=r: _deconv(b, r) for r in (1, 2, 3)},  # type: ignore[misc]
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "embedding": _embedding,
    "prelu": _prelu,
    **{name: lambda b, n=name: _cell(b, n) for name in CELLS},  # type: ignore[misc]
}

# The functions in C under the same names take their arguments in another order.
_IN_C = {
    torch.batch_norm: "input weight bias running_mean running_var training momentum eps",
    torch.instance_norm: (
        "input weight bias running_mean running_var use_input_stats momentum eps cudnn_enabled"
    ),
    torch.embedding: "weight input padding_idx scale_grad_by_freq sparse",
}


def signature_of(func: Any) -> str:
    """Return the names of a function's arguments, in order, separated by spaces."""
    name = getattr(func, "__name__", "").strip("_")
    return _IN_C.get(func) or SIGNATURES[name]


RECURRENT = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "rnn", "rnn_relu": "rnn"}
# Blocks of rows in torch's order, by their place in Keras's: LSTM has i, f, g, o in both,
# Keras's GRU z, r, h and torch's r, z, n.
GATES = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}


def recurrent_roles(kind: str, weights: list[torch.Tensor]) -> dict[str, Role]:
    """Return the roles of one direction of one recurrent layer.

    Args:
        kind: `lstm`, `gru` or `rnn`.
        weights: `weight_ih` (g·u, in), `weight_hh` (g·u, u) and, if any, `bias_ih` and `bias_hh`.
    """
    order = GATES[kind]

    def blocks(a: Array) -> Array:  # each of these orders is its own inverse
        parts = np.split(a, len(order))
        return np.concatenate([parts[i] for i in order])

    matrices = [Role(w, lambda a: blocks(a).T, lambda a: blocks(a.T)) for w in weights[:2]]
    biases = [Role(w, blocks, blocks) for w in weights[2:]]
    return dict(
        zip(["kernel", "recurrent", "bias", "recurrent_bias"], matrices + biases, strict=False)
    )


# Operations between calls, by the family that both frameworks share.
FAMILIES = {
    "add": "add", "radd": "add", "iadd": "add", "sub": "sub", "rsub": "sub", "mul": "mul",
    "rmul": "mul", "imul": "mul", "div": "div", "truediv": "div", "cat": "concat",
    "concat": "concat", "concatenate": "concat", "stack": "stack", "max_pool1d": "maxpool",
    "max_pool2d": "maxpool", "max_pool3d": "maxpool", "avg_pool1d": "avgpool",
    "avg_pool2d": "avgpool", "avg_pool3d": "avgpool", "adaptive_avg_pool1d": "mean",
    "adaptive_avg_pool2d": "mean", "adaptive_avg_pool3d": "mean", "mean": "mean",
    "adaptive_max_pool1d": "amax", "adaptive_max_pool2d": "amax", "amax": "amax",
    "relu": "relu", "relu_": "relu", "gelu": "gelu", "silu": "silu", "sigmoid": "sigmoid",
    "tanh": "tanh", "softmax": "softmax", "log_softmax": "log_softmax", "elu": "elu",
    "selu": "selu", "leaky_relu": "leaky_relu", "hardswish": "hard_silu",
    "hardsigmoid": "hard_sigmoid", "hardtanh": "relu6", "relu6": "relu6",
    "softplus": "softplus", "mish": "mish", "interpolate": "resize", "pad": "pad",
    "flatten": "reshape", "reshape": "reshape", "view": "reshape",
    "scaled_dot_product_attention": "softmax",
}  # fmt: skip
# What only looks at a tensor, or leaves every number in its place.
NO_OPERATION = {
    "contiguous", "to", "type", "double", "float", "clone", "detach", "type_as", "identity",
    "requires_grad", "expand", "squeeze", "unsqueeze", "native_channel_shuffle",
}  # fmt: skip
# Properties and questions: no operations on what a tensor holds.
LOOKING = {
    "get", "set", "dim", "size", "shape", "numel", "is_floating_point", "is_complex", "is_nested",
    "requires_grad", "dtype", "device", "ndim", "data", "grad", "is_leaf", "stride", "data_ptr",
    "storage_offset", "untyped_storage", "is_cuda", "is_sparse", "is_quantized", "layout", "len",
    "hash", "repr", "new_zeros", "new_ones", "zeros_like", "ones_like", "empty_like",
    "grad_fn", "is_contiguous", "is_cpu", "is_meta", "is_mkldnn", "is_inference", "element_size",
    "full_like", "bool", "int", "index", "item", "tolist", "is_conj", "is_neg",
}  # fmt: skip
DROPOUTS = {
    "dropout": "", "dropout1d": "of channels", "dropout2d": "of channels",
    "dropout3d": "of channels", "feature_dropout": "of channels", "alpha_dropout": "alpha",
    "feature_alpha_dropout": "alpha, of channels", "stochastic_depth": "of samples",
}  # fmt: skip
"""What a function drops; single numbers where nothing is said."""
_RECURRENT = "input hx params has_biases num_layers dropout train bidirectional batch_first"
ATTENTION = "query key value attn_mask dropout_p is_causal"
MULTI_HEAD_ATTENTION = (
    "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v "
    "add_zero_attn dropout_p out_proj_weight out_proj_bias training key_padding_mask need_weights "
    "attn_mask use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k "
    "static_v average_attn_weights is_causal"
)
RATES = {
    "scaled_dot_product_attention": ATTENTION,
    "multi_head_attention_forward": MULTI_HEAD_ATTENTION,
    **dict.fromkeys(RECURRENT, _RECURRENT),
}
"""Arguments of functions that drop numbers besides."""
ELEMENTWISE_WEIGHTS = {
    "add": "shift", "radd": "shift", "iadd": "shift", "mul": "scale", "rmul": "scale",
    "imul": "scale",
}  # fmt: skip
CONCATENATIONS = {"cat", "concat", "concatenate"}
PRODUCTS = {"linear", "matmul", "mm"}
WEIGHT = "weight"
"""The kind of a weight that is used by itself: a class token, a table of positions."""
