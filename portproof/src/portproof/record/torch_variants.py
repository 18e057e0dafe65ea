"""Other ways to compute a torch function: what a cause is tried with.

A variant that gives the other side's own numbers is what the two differ by. Each is a function of
the replaced one and its arguments, with a text that says what it is.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from portproof.record.torch_calls import bind, signature_of

Variant = Callable[..., Any]
AVERAGES_OWN = ("count_include_pad", "divisor_override")
"""Arguments of an average pool that a max pool has not."""
AVERAGES, MAXIMA = (tuple(f"{kind}_pool{rank}d" for rank in (1, 2, 3)) for kind in ("avg", "max"))
VARIANTS: dict[str, dict[str, Variant]] = {}
_TEXTS: dict[tuple[str, str], tuple[str, bool, str]] = {}
"""What a variant is; whether it rounds a constant to float32; of which variant, if not of the
function as it was called."""


def _single(value: float) -> float:
    return float(np.float32(value))


def variant(
    *names: str, text: str, constant: bool = False, base: str = ""
) -> Callable[[Variant], Variant]:
    """Let the function below be a way to compute those of `names`, which gives what `text` says."""

    def register(function: Variant) -> Variant:
        key = function.__name__.strip("_")
        for name in names:
            VARIANTS.setdefault(name, {})[key] = function
            _TEXTS[name, key] = (text, constant, base)
        return function

    return register


def described() -> dict[str, dict[str, tuple[str, bool, str]]]:
    """Return, by function and variant, what it is, whether it rounds a constant, and of what."""
    return {
        name: {key: _TEXTS[name, key] for key in variants} for name, variants in VARIANTS.items()
    }


@variant("leaky_relu", constant=True, text="Leaky ReLU with its slope rounded to float32")
def _single_slope(
    func: Any, x: torch.Tensor, slope: float = 0.01, *_: Any, **kwargs: Any
) -> torch.Tensor:
    return F.leaky_relu(x, _single(kwargs.get("negative_slope", slope)))


_ONE_FOR_ONE: dict[str, dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]]] = {
    "gelu": {
        "by_erf": ("GELU by erf", F.gelu),
        "by_tanh": ("GELU by the tanh formula", lambda x: F.gelu(x, approximate="tanh")),
    },
    "relu": {"as_relu": ("ReLU", torch.relu)},
    "relu6 hardtanh": {"up_to_six": ("ReLU up to 6", lambda x: x.clamp(0, 6))},
    "leaky_relu": {
        f"slope_{of(value)}": (
            f"Leaky ReLU with slope {value:g}{words}",
            partial(F.leaky_relu, negative_slope=of(value)),
        )
        for value in (0.01, 0.1, 0.2, 0.3)
        for of, words in ((float, ""), (_single, ", rounded to float32,"))
    },
    "elu": {"as_elu": ("ELU", F.elu)},
    "selu": {"as_selu": ("SELU", F.selu)},
    "silu": {"as_silu": ("SiLU (swish)", F.silu)},
    "mish": {"as_mish": ("Mish", F.mish)},
    "hardswish": {"as_hard_swish": ("The hard swish", F.hardswish)},
    "sigmoid": {"as_sigmoid": ("The sigmoid", torch.sigmoid)},
    "hardsigmoid": {"as_hard_sigmoid": ("The hard sigmoid", F.hardsigmoid)},
    "tanh": {"as_tanh": ("tanh", torch.tanh)},
    "softplus": {"as_softplus": ("Softplus", F.softplus)},
    "softsign": {"as_softsign": ("Softsign", F.softsign)},
}
"""Activations by the functions that compute them; each is tried for every other."""
_ACTIVATIONS = " ".join(_ONE_FOR_ONE).split()


def _in_place_of_another(
    key: str, text: str, activation: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    def run(func: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return activation(x)

    run.__name__ = key
    variant(*_ACTIVATIONS, text=text)(run)


@variant(*_ACTIVATIONS, text="An input that is not overwritten in place")
def _not_in_place(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(x.clone(), *args, **kwargs)


for _key, (_text, _activation) in (it for made in _ONE_FOR_ONE.values() for it in made.items()):
    _in_place_of_another(_key, _text, _activation)
_in_place_of_another("as_nothing", "No activation", lambda x: x)


@variant(*_ACTIVATIONS, constant=True, text="GELU by erf with √2 rounded to float32", base="by_erf")
def _single_root(func: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / _single(math.sqrt(2))))


@variant(
    *_ACTIVATIONS, constant=True, text="GELU by erf with 1/√2 rounded to float32", base="by_erf"
)
def _single_inverse_root(func: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x * _single(math.sqrt(0.5))))


@variant(
    *_ACTIVATIONS,
    constant=True,
    text="GELU by the tanh formula with 0.044715 rounded to float32",
    base="by_tanh",
)
def _single_tanh(func: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + _single(0.044715) * x**3)))


@variant(
    "hardsigmoid",
    constant=True,
    text="A hard sigmoid whose gradient has 1/6 in float64, where torch's has it in float32,",
)
def _exact_gradient(func: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return F.relu6(x + 3) / 6


@variant("softmax", text="Softmax over the last axis")
def _over_last(func: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.softmax(x, -1)


@variant("log_softmax", text="Softmax without the logarithm")
def _without_logarithm(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(x, *args, **kwargs).exp()


@variant("mul", "rmul", "div", "truediv", constant=True, text="A factor rounded to float32")
def _single_factor(func: Any, x: Any, other: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(*(_single(v) if isinstance(v, float) else v for v in (x, other)), *args, **kwargs)


@variant("div", "truediv", constant=True, text="A factor, one over the divisor, rounded to float32")
def _single_reciprocal(func: Any, x: Any, other: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return x * _single(1 / other) if isinstance(other, int | float) else func(x, other)


def _one_single_factor(value: float) -> Variant:
    """Return a product in which this factor alone is rounded to float32."""

    def run(func: Any, x: Any, other: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        given = (_single(v) if isinstance(v, float) and v == value else v for v in (x, other))
        return func(*given, *args, **kwargs)

    return run


def _scaled(q: torch.Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


@variant(
    "scaled_dot_product_attention", constant=True, text="The attention's scale rounded to float32"
)
def _single_scale(func: Any, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(q, *args, **{**kwargs, "scale": _single(_scaled(q, kwargs.get("scale")))})


@variant("scaled_dot_product_attention", text="Attention scaled by 1/√d")
def _root_scale(func: Any, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(q, *args, **{**kwargs, "scale": 1 / math.sqrt(q.shape[-1])})


@variant("scaled_dot_product_attention", text="Attention without a scale")
def _without_scale(func: Any, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(q, *args, **{**kwargs, "scale": 1.0})


def _causal(is_causal: bool, single: bool, name: str, text: str, base: str = "") -> None:
    def run(
        func: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        names = ("attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs, "is_causal": is_causal}
        if is_causal:
            given.pop("attn_mask", None)
        if single:
            given["scale"] = _single(_scaled(q, given.get("scale")))
        return func(q, k, v, **given)

    run.__name__ = name
    variant("scaled_dot_product_attention", text=text, constant=single, base=base)(run)


for _is_causal, _key, _text in (
    (True, "causal", "Attention with a causal mask"),
    (False, "not_causal", "Attention without a causal mask"),
):
    _causal(_is_causal, False, _key, _text)
    _causal(_is_causal, True, f"{_key}_single", f"{_text} and its scale in float32", _key)


@variant("interpolate", text="Resizing with half-pixel centres (align_corners=False)")
def _half_pixel(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(x, *args, **{**kwargs, "align_corners": False})


@variant("interpolate", text="Resizing with aligned corners")
def _aligned_corners(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(x, *args, **{**kwargs, "align_corners": True})


def _resized(func: Any, x: torch.Tensor, corners: bool | None, args: Any, kwargs: Any) -> Any:
    """Resize as TensorFlow's kernel does, whose arithmetic is float32 whatever it is fed."""
    kwargs = {**kwargs, "align_corners": corners} if corners is not None else kwargs
    if x.ndim != 4 or kwargs.get("mode") != "bilinear" or kwargs.get("align_corners"):
        return func(x, *args, **kwargs)
    height, width = func(x, *args, **kwargs).shape[2:]
    rows = _neighbours(x.shape[2], height)
    columns = _neighbours(x.shape[3], width)
    made: torch.Tensor = _SingleBilinear.apply(x, rows, columns)
    return made.to(x.dtype)


class _SingleBilinear(torch.autograd.Function):
    """TensorFlow's bilinear kernel; its gradient multiplies in float32 and adds in float64."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: Any, columns: Any) -> torch.Tensor:
        ctx.rows, ctx.columns, ctx.shape = rows, columns, x.shape
        top, bottom = (_between(x[:, :, r].float(), columns) for r in rows[:2])
        return top + (bottom - top) * rows[2][:, None]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (top, bottom, y), (left, right, x) = ctx.rows, ctx.columns
        found = torch.zeros(ctx.shape, dtype=torch.float64).flatten(2)
        for row, by_row in ((top, 1 - y), (bottom, y)):
            for column, by_column in ((left, 1 - x), (right, x)):
                share = grad.float() * by_row[:, None] * by_column
                places = row[:, None] * ctx.shape[3] + column
                found.index_add_(2, places.reshape(-1), share.double().flatten(2))
        return found.reshape(ctx.shape), None, None


def _neighbours(size: int, wanted: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scale = np.float32(size) / np.float32(wanted)
    places = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    low = np.floor(places)
    share = torch.from_numpy((places - low).astype(np.float32))
    first = torch.from_numpy(np.maximum(low, 0).astype(np.int64))
    second = torch.from_numpy(np.minimum(np.ceil(places), size - 1).astype(np.int64))
    return first, second, share


def _between(x: torch.Tensor, columns: Any) -> torch.Tensor:
    left, right, share = columns
    return x[..., left] + (x[..., right] - x[..., left]) * share


@variant("interpolate", constant=True, text="Resizing computed in float32")
def _in_single(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return _resized(func, x, None, args, kwargs)


@variant(
    "interpolate",
    text="Resizing with half-pixel centres (align_corners=False), computed in float32",
)
def _half_pixel_in_single(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return _resized(func, x, False, args, kwargs)


@variant(*AVERAGES, text="An average that leaves padding out of the count")
def _without_padding(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return _pool(func, x, args, kwargs, count_include_pad=False)


@variant(*AVERAGES, text="An average that counts padding")
def _with_padding(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return _pool(func, x, args, kwargs, count_include_pad=True)


@variant(*AVERAGES, text="The maximum in place of an average")
def _as_maximum(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    bound = bind("input kernel_size stride padding ceil_mode", (x, *args), kwargs)
    bound = {name: bound[name] for name in bound if name not in AVERAGES_OWN}
    return getattr(F, func.__name__.replace("avg", "max"))(**bound)


def _reduced(name: str, text: str, reduce: Callable[..., Any]) -> None:
    def run(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        bound = bind("input dim keepdim", (x, *args), kwargs)
        dim = bound.get("dim", bound.get("axis"))
        found = reduce(x, tuple(range(x.ndim)) if dim is None else dim, bound.get("keepdim", False))
        if func.__name__ in ("max", "min") and dim is not None:  # with the places, as torch has it
            there = func(x, *args, **kwargs)
            return type(there)((found, there.indices))
        return found

    run.__name__ = f"as_{name}"
    variant(*_REDUCTIONS, "max", "min", text=text)(run)


_REDUCTIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "mean": ("A mean", torch.mean),
    "sum": ("A sum", torch.sum),
    "amax": ("The maximum", torch.amax),
    "amin": ("The minimum", torch.amin),
}
for _name, (_text, _reduce) in _REDUCTIONS.items():
    _reduced(_name, _text, _reduce)


@variant(*MAXIMA, text="An average in place of the maximum")
def _as_average(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    bound = bind("input kernel_size stride padding dilation ceil_mode", (x, *args), kwargs)
    bound = {name: bound[name] for name in bound if name not in ("dilation", "return_indices")}
    pool = getattr(F, func.__name__.replace("max", "avg"))
    return pool(**bound, count_include_pad=False)


@variant(*MAXIMA, text="A maximum over padded zeros, in place of one over what is there,")
def _over_zeros(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    bound = bind("input kernel_size stride padding dilation ceil_mode", (x, *args), kwargs)
    pads = [p for p in _axes(bound["padding"], x.ndim - 2)[::-1] for _ in range(2)]
    if not any(pads):
        raise ValueError("nothing is padded")
    bound = {name: bound[name] for name in bound if name != "return_indices"}
    found: torch.Tensor = getattr(F, func.__name__)(
        **{**bound, "input": F.pad(x, pads), "padding": 0}
    )
    return found


@variant("pad", text="A maximum over what is there, in place of one over padded zeros,")
def _over_nothing(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    bound = bind("input pad mode value", (x, *args), kwargs)
    if bound.get("mode", "constant") != "constant":
        raise ValueError("it pads no constant")
    return F.pad(x, bound["pad"], value=-math.inf)


@variant(
    *(f"adaptive_{kind}_pool{rank}d" for kind in ("avg", "max") for rank in (1, 2, 3)),
    text="The other of average and maximum",
)
def _other_pool(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    is_average = "avg" in func.__name__
    name = func.__name__.replace(*(("avg", "max") if is_average else ("max", "avg")))
    return getattr(F, name)(x, *args, **kwargs)


@variant(
    *MAXIMA,
    *AVERAGES,
    text="A pool that pads behind alone, and only what its last window needs: same",
)
def _padded_behind(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    size, stride, pads = _same(x, args, kwargs)
    name = func.__name__
    if name.startswith("max"):
        return getattr(F, name)(F.pad(x, pads, value=-math.inf), size, stride)
    ones = F.pad(torch.ones_like(x), pads)
    pool = getattr(F, name)
    return pool(F.pad(x, pads), size, stride) / pool(ones, size, stride)


@variant(
    *AVERAGES,
    text="A pool that pads behind alone by its outermost values again, as Keras on torch does,",
)
def _repeated_behind(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    size, stride, pads = _same(x, args, kwargs)
    return getattr(F, func.__name__)(F.pad(x, pads, mode="replicate"), size, stride)


def _same(x: torch.Tensor, args: Any, kwargs: Any) -> tuple[list[int], list[int], list[int]]:
    """Return a pool's window, its stride, and what Keras's "same" pads, as `F.pad` takes it."""
    bound = bind("input kernel_size stride padding", (x, *args), kwargs)
    rank = x.ndim - 2
    size = _axes(bound["kernel_size"], rank)
    stride = _axes(bound.get("stride") or size, rank)
    pads: list[int] = []
    for n, k, s in reversed(list(zip(x.shape[2:], size, stride, strict=True))):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return size, stride, pads


def _axes(value: Any, rank: int) -> list[int]:
    return (
        [value] * rank if isinstance(value, int) else list(value) * (rank if len(value) == 1 else 1)
    )


def _pool(func: Any, x: torch.Tensor, args: Any, kwargs: Any, **changed: Any) -> torch.Tensor:
    names = "input kernel_size stride padding ceil_mode count_include_pad"
    bound = {**bind(names, (x, *args), kwargs), **changed}
    return getattr(F, func.__name__)(**bound)


@variant("batch_norm", text="A moving variance of biased variances")
def _biased_variance(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    bound = bind(signature_of(func), args, kwargs)
    mean, variance = bound.get("running_mean"), bound.get("running_var")
    if not bound.get("training") or mean is None or variance is None:
        return func(*args, **kwargs)
    x, momentum = bound["input"], bound.get("momentum", 0.1)
    with torch.no_grad():
        axes = [axis for axis in range(x.ndim) if axis != 1]
        new_variance, new_mean = torch.var_mean(x, dim=axes, correction=0)
        mean.lerp_(new_mean, momentum)
        variance.lerp_(new_variance, momentum)
    return F.batch_norm(
        x, None, None, bound.get("weight"), bound.get("bias"), True, eps=bound.get("eps", 1e-5)
    )


@variant("embedding", text="An embedding whose padding row learns too (no padding_idx)")
def _without_padding_row(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    bound = bind(signature_of(func), args, kwargs)
    return F.embedding(bound["input"], bound["weight"])


@variant("lstm", "gru", "rnn_tanh", "rnn_relu", text="samples first, then steps (batch_first)")
def _exchanged(func: Any, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)  # the recorder itself has exchanged the axes


def variant_of(name: str, key: str, func: Any) -> Callable[..., Any]:
    """Return the replacement of a function.

    Args:
        name: of the function.
        key: of the variant; `factor=0.1` is a product's with this factor rounded to float32,
            `slope=0.1` a leaky ReLU, and `scaled=0.1` the function of so many times its input.
        func: the function.
    """
    if key.startswith("slope="):
        slope = float(key.removeprefix("slope="))
        return lambda input, *_, **__: F.leaky_relu(input, slope)
    if key.startswith("factor="):
        run = _one_single_factor(float(key.removeprefix("factor=")))
    elif key.startswith("scaled="):
        value = float(key.removeprefix("scaled="))

        def scaled(*args: Any, **kwargs: Any) -> Any:
            if args:
                return func(args[0] * value, *args[1:], **kwargs)
            return func(**{**kwargs, "input": kwargs["input"] * value})

        return scaled
    else:
        run = VARIANTS[name][key]
    return lambda *args, **kwargs: run(func, *args, **kwargs)
