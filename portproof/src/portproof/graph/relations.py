"""What one array is of another, where only one side does something: tried, never assumed."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import erf, log_softmax, softmax

from portproof.graph.align import BENDING
from portproof.graph.calls import Op
from portproof.graph.gaps import CALL, gap


def _leaky(slope: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda a: np.where(a > 0, a, slope * a)


_STEPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ReLU": lambda a: np.maximum(a, 0),
    "the sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softmax": lambda a: softmax(a, -1),
    "tanh": np.tanh,
    "SiLU (swish)": lambda a: a / (1 + np.exp(-a)),
    "the absolute value": np.abs,
    "the logarithm of a softmax": lambda a: log_softmax(a, -1),
    "ELU": lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))),
    "softplus": lambda a: np.logaddexp(a, 0),
    "GELU": lambda a: 0.5 * a * (1 + erf(a / np.sqrt(2))),
    **{
        f"a leaky ReLU of slope {slope:g}{words}": _leaky(of(slope))
        for slope in (0.01, 0.1, 0.2, 0.3)
        for of, words in ((float, ""), (lambda s: float(np.float32(s)), " in float32"))
    },
}
COMPUTING = BENDING | {
    "where", "logsumexp", "log_softmax", "log", "sub", "rsub", "mul", "rmul", "div", "truediv",
    "pow", "abs", "clamp", "clip", "max", "maximum", "min", "minimum", "sqrt", "rsqrt", "erf",
    "sign",
}  # fmt: skip
"""Operations that may do by hand what one on the other side does."""
REORDERED = "the same channels in another order"
_LARGEST = 100_000
"""Numbers up to which shifts are tried by fitting."""
_FEWEST = 4
"""Values that a channel must take: two fit any factor and shift."""


def are_alone(left: Sequence[Op], right: Sequence[Op]) -> tuple[bool, bool]:
    """Return for each side whether the other computes nothing there that this one does not."""
    ours, theirs = ({op.name for op in ops} for ops in (left, right))
    return not (theirs - ours) & COMPUTING, not (ours - theirs) & COMPUTING


def relation(
    reference: np.ndarray, suspect: np.ndarray, is_alone: Sequence[bool] = (True, True)
) -> str | None:
    """Return the operation that makes one array from the other, to rounding; None: not found.

    Args:
        reference: what one side gives.
        suspect: what the other gives.
        is_alone: as `are_alone` says.
    """
    if np.iscomplexobj(reference) or np.iscomplexobj(suspect):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        for name, step in _STEPS.items():
            if reference.shape == suspect.shape and reference.ndim > 1:
                if gap(reference, step(suspect)).within(CALL):
                    return _said(name, "reference", "suspect", is_alone[0])
                if gap(step(reference), suspect).within(CALL):
                    return _said(name, "suspect", "reference", is_alone[1])
    return (
        _exchanged(reference, suspect)
        or reordered(reference, suspect)
        or _scaled(reference, suspect)
    )


def _said(name: str, side: str, other: str, is_alone: bool) -> str:
    if is_alone:
        return f"{name} in the {side} alone"
    return f"{name} of the {other}'s numbers gives the {side}'s"


def _exchanged(a: np.ndarray, b: np.ndarray) -> str | None:
    """Try axes in another order, and axes read backwards."""
    if a.ndim != b.ndim or a.ndim < 2:
        return None
    for first in range(a.ndim):
        for second in range(first + 1, a.ndim):
            turned = b.swapaxes(first, second)
            if turned.shape == a.shape and gap(a, turned).within(CALL):
                return f"axes {first} and {second} exchanged"
    if a.shape == b.shape:
        for axis in range(1, a.ndim):
            if gap(a, np.flip(b, axis)).within(CALL):
                return f"axis {axis} read backwards"
    return None


def reordered(a: np.ndarray, b: np.ndarray) -> str | None:
    """Try channels in another order, and maps cut out of features with their channels first."""
    if a.shape != b.shape or a.ndim < 2 or a.shape[-1] == 1:
        return None
    x, y = (array.reshape(-1, array.shape[-1]) for array in (a, b))
    # Two orders that sort the same sums over the rows bring equal channels to equal places.
    factors = np.random.default_rng(0).normal(size=len(x))
    if gap(x[:, np.argsort(factors @ x)], y[:, np.argsort(factors @ y)]).within(CALL):
        return REORDERED
    for cut, other, side in ((b, a, "suspect"), (a, b, "reference")):
        if a.ndim > 2 and gap(other.ravel(), np.moveaxis(cut, -1, 1).ravel()).within(CALL):
            return f"the same numbers in a row, cut into maps with channels first in the {side}"
    return None


def _has_shape(u: np.ndarray) -> bool:
    """Return whether numbers take more values than a factor and a shift fit by themselves."""
    return len(np.unique((u / np.abs(u).max()).round(9))) >= _FEWEST


def _scaled(a: np.ndarray, b: np.ndarray) -> str | None:
    """Try a factor and a shift, the same everywhere or for each channel."""
    if a.shape != b.shape or a.ndim < 2 or a.size > _LARGEST or len(a) * a[0].size < 8:
        return None
    x, y = b.reshape(-1, b.shape[-1]), a.reshape(-1, a.shape[-1])
    for by_channel in (False, True):
        us, vs = (x, y) if by_channel else (x.reshape(-1, 1), y.reshape(-1, 1))
        center = us - us.mean(0)
        spread = (center**2).sum(0)
        if not spread.all() or not all(_has_shape(u) for u in us.T):
            continue
        factor = (center * vs).sum(0) / spread
        shift = vs.mean(0) - factor * us.mean(0)
        if gap(vs, us * factor + shift).within(CALL):
            if by_channel:
                return "each channel times a factor and shifted, in one of the two alone"
            moved = abs(float(shift[0])) > CALL * float(np.abs(a).max())
            return f"{factor[0]:.9g} × the suspect's{f' + {shift[0]:.6g}' if moved else ''}"
    return None
