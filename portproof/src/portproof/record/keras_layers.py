"""Which Keras layers own weights, in which roles, with which settings; and what the others do."""

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import layers as L

from portproof.adapter import adapter_of, is_tried
from portproof.graph.calls import Op
from portproof.graph.gaps import CALL, gap
from portproof.record.inferred import may_be_inferred
from portproof.record.keras_live import numbers, tensors
from portproof.record.program import drops, factor
from portproof.record.role import Role, role_of

Array = np.ndarray


# The first that a layer is an instance of.
KINDS: list[tuple[Any, str]] = [
    (L.DepthwiseConv2D, "conv"),
    (L.DepthwiseConv1D, "conv"),
    ((L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose), "deconv"),
    ((L.SeparableConv1D, L.SeparableConv2D), "separable"),
    ((L.Conv1D, L.Conv2D, L.Conv3D), "conv"),
    ((L.Dense, L.EinsumDense), "dense"),
    (L.BatchNormalization, "batch_norm"),
    (L.LayerNormalization, "layer_norm"),
    (L.RMSNormalization, "rms_norm"),
    (L.GroupNormalization, "group_norm"),
    (L.Embedding, "embedding"),
    (L.LSTM, "lstm"),
    (L.GRU, "gru"),
    (L.SimpleRNN, "rnn"),
    (L.PReLU, "prelu"),
]
CELLS = {L.LSTMCell: "lstm", L.GRUCell: "gru", L.SimpleRNNCell: "rnn"}
"""What a layer of one such cell is."""
DROPPING = {
    "Dropout": "",
    "SpatialDropout1D": "of channels",
    "SpatialDropout2D": "of channels",
    "SpatialDropout3D": "of channels",
    "AlphaDropout": "alpha",
    "GaussianDropout": "gaussian",
    "GaussianNoise": "noise",
    "StochasticDepth": "of samples",
    "DropPath": "of samples",
}
"""What a layer drops, by the name of its class; single numbers where nothing is said."""
SAMPLES = 64
HOLDS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""For layers with a `call` of the user's own, whether they give what Keras's class gives."""
# Layers of keras-hub that do with a weight what could be done outside of them.
OPEN = {"PositionEmbedding"}


def own_variables(layer: Any) -> list[Any]:
    """Return the weights that a layer holds itself, apart from random states."""
    return [
        v
        for v in [*layer._trainable_variables, *layer._non_trainable_variables]
        if "seed" not in v.name
    ]


def is_users(layer: Any) -> bool:
    """Return whether the `call` of a layer is not Keras's."""
    return not layer.call.__module__.startswith("keras.")


def drops_of(layer: Any, xs: list[Any]) -> tuple[str, ...] | None:
    """Return a layer's dropout rate and the parts that it drops; an augmentation's name.

    Args:
        layer: any.
        xs: the tensors that it takes.

    Returns:
        None of a layer that does neither.
    """
    if augments(layer):
        return (type(layer).__name__,)
    what = next((DROPPING[c.__name__] for c in type(layer).__mro__ if c.__name__ in DROPPING), None)
    if what is None:
        return None
    shape = getattr(layer, "noise_shape", None)
    if not what and shape:
        whole = [size == 1 for size in shape[1:]]
        what = "of samples" if all(whole) else "of channels" if all(whole[:-1]) else "of blocks"
    names = ("rate", "drop_path_rate", "drop_prob", "stddev")
    rates = [getattr(layer, name) for name in names if getattr(layer, name, None) is not None]
    rate = rates[0] if rates else 0.0
    if rate and what == "of samples" and xs and is_users(layer):
        what += times(partial(layer.call, training=True), rate, len(xs[0].shape))
    return drops(rate, what)


def times(call: Any, rate: float, num_axes: int) -> str:
    """Say what samples that are kept are multiplied by; nothing where it is 1 / (1 − `rate`)."""
    try:
        made = numbers(call(keras.ops.ones((SAMPLES, *[1] * (num_axes - 1))))).ravel()
    except Exception:  # it takes something else
        return ""
    return factor(made, rate) if len(made) == SAMPLES else ""


def look_closer(layer: Any, original: Any, args: Any, kwargs: Any) -> None:
    """Find out whether a layer with a `call` of the user's own is still what its base class is.

    Args:
        layer: that is called.
        original: `Layer.__call__`.
        args: that it is given.
        kwargs: the same.
    """
    bases: list[Any] = [
        c for c in type(layer).__mro__ if "call" in vars(c) and c.__module__[:6] == "keras."
    ]
    weights = [v for v in layer.weights if v.dtype.startswith("float")]
    if layer in HOLDS or not is_users(layer) or not weights or bases[:1] in ([], [L.Layer]):
        return
    rng, kept = np.random.default_rng(0), [numbers(v) for v in layer.weights]
    try:
        for v in weights:  # first weights may hide what is done with them
            v.assign(rng.uniform(0.5, 1.5, v.shape) if "variance" in v.name
                     else rng.normal(0, 0.5, v.shape))  # fmt: skip
        made = [numbers(t) for t in tensors(original(layer, *args, **kwargs))]
        vars(layer)["call"] = bases[0].call.__get__(layer)
        usual = [numbers(t) for t in tensors(original(layer, *args, **kwargs))]
        HOLDS[layer] = len(made) == len(usual) and all(
            a.shape == b.shape and gap(a, b).within(CALL) for a, b in zip(usual, made, strict=True)
        )
    except Exception:  # the base class does not take what it is given
        HOLDS[layer] = False
    finally:
        vars(layer).pop("call", None)
        for v, value in zip(layer.weights, kept, strict=True):
            v.assign(value)


def kind_of(layer: Any) -> str | None:
    """Return the kind of a layer; None where it owns no weights, or its parts own them."""
    adapter = adapter_of(layer)
    if adapter is not None:
        return adapter.kind
    for classes, kind in KINDS:
        if isinstance(layer, classes) and HOLDS.get(layer, True):
            return kind
    if type(layer) is L.RNN and type(layer.cell) in CELLS:
        return CELLS[type(layer.cell)]
    if isinstance(layer, L.Normalization | keras.Model) or not own_variables(layer):
        return None
    is_open = type(layer).__name__ in OPEN or all(len(_core(v)) > 1 for v in own_variables(layer))
    if has_parts(layer) or is_open:  # tables of positions, say, which torch has as parameters too
        return None
    return f"{type(layer).__name__} (unknown)"


def _core(variable: Any) -> list[int]:
    return [size for size in variable.shape if size != 1]


def inferable_weights(layer: Any) -> dict[str, Any]:
    """Return the weights of a layer of one's own that may tell what it is; none of other layers."""
    weights = {str(i): v for i, v in enumerate(own_variables(layer))}
    is_open = is_tried(layer) or has_parts(layer) or layer._non_trainable_variables
    kind = kind_of(layer)
    is_known = kind is not None and not kind.endswith("(unknown)")
    return {} if is_open or is_known or not may_be_inferred(weights) else weights


def bare_variables(layer: Any) -> list[Any]:
    """Return the weights that a layer of no kind uses by themselves: a class token, positions."""
    if kind_of(layer) is not None or isinstance(layer, L.Normalization):
        return []
    return [v for v in layer._trainable_variables if v.dtype.startswith("float")]


def has_parts(layer: Any) -> bool:
    """Return whether a layer is made of layers."""
    return bool(list(layer._flatten_layers(include_self=False)))


def is_the_same_at_each_step(layer: Any, args: Any, kwargs: Any) -> bool:
    """Return whether a TimeDistributed layer has neither a mask nor statistics that steps move."""
    if args[1:] or kwargs.get("mask") is not None:
        return False
    x = tensors((args, kwargs))[0]
    norms = [part for part in layer._flatten_layers() if isinstance(part, L.BatchNormalization)]
    is_plain = isinstance(layer.layer, L.Dense | L.Embedding)  # these heed no mask
    return is_plain or (not norms and keras.src.backend.get_keras_mask(x) is None)


def contracted(layer: Any) -> int:
    """Return how many of its input's last axes a dense layer sums over."""
    if not isinstance(layer, L.EinsumDense):
        return 1
    taken, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    return sum(letter in kernel for letter in taken)


def produced(layer: Any) -> int:
    """Return how many of its output's last axes a dense layer makes."""
    return layer.kernel.ndim - contracted(layer) if isinstance(layer, L.EinsumDense) else 1


def is_channels_first(layer: Any, kind: str, rank: int) -> bool:
    """Return whether a layer has its features at axis 1 of what it takes, of that rank."""
    adapter = adapter_of(layer)
    if adapter is not None:
        return adapter.channels_first
    if kind.endswith("_norm"):
        return rank > 2 and layer.axis in (1, [1])
    return getattr(layer, "data_format", None) == "channels_first"


def roles_of(layer: Any, kind: str) -> dict[str, Role]:
    """Return a layer's weights by role, in canonical layout."""
    adapter = adapter_of(layer)
    if adapter is not None:
        return {role: role_of(weight) for role, weight in adapter.roles(layer).items()}
    if kind in ("lstm", "gru", "rnn"):
        return _recurrent_roles(layer.cell, kind)
    if kind.endswith("(unknown)"):
        return {v.name: Role(v) for v in own_variables(layer)}
    held = {role: getattr(layer, name, None) for role, name in _ATTRIBUTES.get(kind, _USUAL)}
    roles = {
        role: Role(v, is_statistic=role.startswith("moving"))
        for role, v in held.items()
        if v is not None
    }
    if isinstance(layer, L.EinsumDense):
        n = contracted(layer)
        roles["kernel"].canonical = lambda a: a.reshape(int(np.prod(a.shape[:n])), -1)
        if "bias" in roles:
            roles["bias"].canonical = lambda a: a.reshape(-1)
    elif isinstance(layer, L.DepthwiseConv2D | L.DepthwiseConv1D):
        rank = len(layer.kernel_size)  # (*s, C, M) to (*s, 1, C·M): channel c·M + m
        roles["kernel"].canonical = lambda a: a.reshape(*a.shape[:rank], 1, -1)
    elif kind == "deconv":
        roles["kernel"].canonical = lambda a: a.swapaxes(-1, -2)  # (*s, out, in) to (*s, in, out)
        roles["kernel"].native = lambda a: a.swapaxes(-1, -2)
    elif kind == "prelu" and layer.shared_axes:
        roles["alpha"].canonical = lambda a: a.reshape(-1, a.shape[-1]).squeeze(0)
    return roles


_USUAL = [(n, n) for n in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")]
# Where a kind's attributes have other names than its roles, or others besides.
_ATTRIBUTES = {
    "embedding": [("table", "embeddings")],
    "prelu": [("alpha", "alpha")],
    "rms_norm": [("gamma", "scale")],
}


def _recurrent_roles(cell: Any, kind: str) -> dict[str, Role]:
    roles = {"kernel": Role(cell.kernel), "recurrent": Role(cell.recurrent_kernel)}
    if cell.bias is None:
        return roles
    if kind == "gru" and cell.reset_after:  # one variable (2, 3·u)
        for part, name in enumerate(("bias", "recurrent_bias")):
            roles[name] = Role(cell.bias, part=part)
        return roles
    return roles | {"bias": Role(cell.bias)}


def settings_of(layer: Any, kind: str, shape: tuple[int, ...], pads: Any) -> dict[str, Any]:
    """Return the settings of a layer that change what it computes.

    Args:
        layer: the layer.
        kind: as `kind_of` says.
        shape: of its input, channels last.
        pads: what a ZeroPadding layer before it adds, (before, behind) by axis, or None.
    """
    adapter = adapter_of(layer)
    if adapter is not None:
        return adapter.settings(layer)
    if kind == "conv":
        depthwise = isinstance(layer, L.DepthwiseConv2D | L.DepthwiseConv1D)
        return {
            "strides": list(layer.strides),
            "padding": same_pads(layer, shape, pads),
            "dilation": list(layer.dilation_rate),
            "groups": shape[-1] if depthwise else layer.groups,
        }
    if kind == "deconv":
        return deconv_settings(layer, shape)
    settings: dict[str, Any] = {}
    if kind.endswith("_norm"):
        settings["epsilon"] = layer.epsilon
    if kind == "batch_norm":
        settings |= {"momentum": layer.momentum, "normalised by": "moving statistics"}
    if kind == "layer_norm":
        settings["axes"] = len(layer.axis) if isinstance(layer.axis, list | tuple) else 1
    if kind == "group_norm":
        settings["groups"] = shape[-1] if layer.groups == -1 else layer.groups
    if kind == "embedding":
        settings["padding_idx"] = None
    if kind in ("lstm", "gru", "rnn"):
        settings["reverse"] = bool(layer.go_backwards)
        settings |= _activations(layer, kind)
    return settings


def _activations(layer: Any, kind: str) -> dict[str, Any]:
    """Return a recurrent layer's activations, where they are not those that torch fixes."""
    name = getattr(layer.cell.activation, "__name__", "?")
    if kind == "rnn":
        return {"activation": name}
    found = {} if name == "tanh" else {"activation": name}
    gates = getattr(layer.cell.recurrent_activation, "__name__", "?")
    if gates != "sigmoid":
        found["gates"] = gates
    if kind == "gru" and not layer.cell.reset_after:
        found["reset_after"] = False
    return found


def same_pads(layer: Any, shape: tuple[int, ...], before: Any) -> list[list[int]]:
    """Return the zeros that a convolution sees before and behind each axis."""
    pads = []
    for i, (k, s) in enumerate(zip(layer.kernel_size, layer.strides, strict=True)):
        d, n = layer.dilation_rate[i], shape[1 + i]
        outer = list(before[i]) if before else [0, 0]
        n += sum(outer)
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) if layer.padding == "same" else 0
        if layer.padding == "causal":
            pads.append([outer[0] + d * (k - 1), outer[1]])
        else:
            pads.append([outer[0] + total // 2, outer[1] + total - total // 2])
    return pads


def deconv_settings(layer: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return a transposed convolution's settings, with what is cut off its full result."""
    crops = []
    for i, (k, s) in enumerate(zip(layer.kernel_size, layer.strides, strict=True)):
        n, extra = shape[1 + i], layer.output_padding
        width = layer.dilation_rate[i] * (k - 1) + 1
        more = extra if extra is None or isinstance(extra, int) else extra[i]
        if layer.padding == "same" and more is None:
            total = max((n - 1) * s + width - n * s, 0)
            crops.append([total // 2, total - total // 2])
        elif layer.padding == "same":
            crops.append([width // 2, width // 2 - more])
        else:
            crops.append([0, -(more or max(s - width, 0))])
    return {
        "strides": list(layer.strides),
        "crop": crops,
        "dilation": list(layer.dilation_rate),
        "groups": 1,
    }


def zero_padding(layer: Any) -> Any:
    """Return a ZeroPadding layer's numbers of zeros, (before, behind) by axis; else None."""
    if getattr(layer, "data_format", None) == "channels_first" or is_users(layer):
        return None
    if isinstance(layer, L.ZeroPadding2D | L.ZeroPadding3D):
        return [list(p) for p in layer.padding]
    if isinstance(layer, L.ZeroPadding1D):
        return [list(layer.padding)]
    return None


def augments(layer: Any) -> bool:
    """Return whether a layer changes images at random, in training alone."""
    is_known = hasattr(layer, "get_random_transformation")
    return is_known and not isinstance(layer, L.Resizing | L.CenterCrop)


_FAMILIES = [
    ("globalaverage", "mean"), ("globalmax", "amax"), ("average", "avgpool"), ("max", "maxpool"),
    ("concat", "concat"), ("add", "add"), ("subtract", "sub"), ("multiply", "mul"), ("mul", "mul"),
    ("leakyrelu", "leaky_relu"), ("relu", "relu"), ("softmax", "softmax"), ("elu", "elu"),
    ("flatten", "reshape"), ("reshape", "reshape"), ("upsampling", "resize"),
    ("resizing", "resize"), ("zeropadding", "pad"), ("sub", "sub"), ("mean", "mean"),
    ("sigmoid", "sigmoid"), ("tanh", "tanh"), ("gelu", "gelu"),
]  # fmt: skip
_SETTINGS = (
    "pool_size", "strides", "padding", "max_value", "negative_slope", "threshold", "axis", "scale",
    "offset", "size", "interpolation", "height", "width", "target_shape", "dims", "alpha",
    "keepdims",
)  # fmt: skip


def describe(op: Any) -> Op:
    """Describe an operation without weights by its class and the settings that matter."""
    if isinstance(op, L.Activation):
        return activation(op.activation)
    name = type(op).__name__
    settings = {}
    for key in _SETTINGS:
        value = getattr(op, key, None)
        if isinstance(value, bool | int | float | str | tuple | list):
            settings[key] = list(value) if isinstance(value, tuple | list) else value
    words = ", ".join(f"{k}={v}" for k, v in settings.items())
    family = next((f for start, f in _FAMILIES if name.lower().startswith(start)), name)
    return Op(family, f"{name}({words})" if words else name, _plain(settings))


def activation(function: Any) -> Op:
    """Describe an activation function."""
    if isinstance(function, keras.layers.Layer):
        return describe(function)
    name = getattr(function, "__name__", type(function).__name__)
    return Op({"swish": "silu", "hard_swish": "hard_silu"}.get(name, name), name)


def raw_operation(name: str) -> Op:
    """Describe an operation of the backend by the backend's word."""
    low = name.lower()
    words = {"addv2": "add", "biasadd": "add", "realdiv": "div", "sub": "sub", "mul": "mul"}
    family = words.get(low) or next((f for start, f in _FAMILIES if low.startswith(start)), low)
    return Op(family, name)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v
        for k, v in settings.items()
        if not isinstance(v, list)
        or all(isinstance(i, bool | int | float | str | list | tuple) for i in v)
    }


def regularised(layers: list[keras.Layer]) -> list[str]:
    """Return the regularisers and constraints of layers, as `layer: L2`."""
    return [
        f"{layer.name}: {type(value).__name__}"
        for layer in layers
        for name, value in sorted(vars(layer).items())
        if name.endswith(("_regularizer", "_constraint")) and value is not None
    ]
