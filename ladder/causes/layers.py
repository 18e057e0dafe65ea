"""Causes inside a layer: each is computed anew with one thing changed, and must give its output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ladder.causes.fits import Fit, agree, fit, is_near, nice, number
from ladder.causes.formulas import run
from ladder.causes.reading import Segment, join, segments, under
from ladder.causes.registry import (
    Diagnosis,
    Evidence,
    Rank,
    UnexaminableError,
    detects,
)
from ladder.exchange import Array, Arrays

RUNGS = ("layers", "logits")
KNOWN_SLOPES = (0.01, 0.1, 0.2, 0.3, 0.0)
ACTIVATIONS = ("leaky_relu", "relu", "softmax")
MAX_UNKNOWNS = 1200
"""Largest number of weights per output that is solved for."""
MOST_ALIKE = 0.3
"""Correlation at which a kernel may still be another draw than the one that was given."""
FIRST_TRIED = 8
"""Samples, those that part most, that a change is tried on before all the others."""


@dataclass(frozen=True)
class Edit:
    """One thing changed in a network."""

    words: str
    rows: Sequence[Mapping[str, Any]]
    weights: Arrays


Editor = Callable[[Segment, int], Iterator[Edit]]
"""Yields the network changed at one layer, in a fixed order of changes."""


def edits(
    *causes: str, kinds: Sequence[str], rank: Rank = Rank.FORMULA
) -> Callable[[Editor], Editor]:
    """Register an editor of layers of `kinds`; its causes are named by the changes that fit."""

    def register(editor: Editor) -> Editor:
        def detector(evidence: Evidence) -> list[Diagnosis]:
            return _explained(evidence, causes[0], kinds, editor)

        detects(*causes, on=RUNGS, rank=rank)(detector)
        return editor

    return register


def _explained(
    evidence: Evidence, cause: str, kinds: Sequence[str], editor: Editor
) -> list[Diagnosis]:
    found = []
    for segment in reproduced(evidence):
        places = [i for i, row in enumerate(segment.rows) if row["kind"] in kinds]
        tried = [([place], edit) for place in places for edit in _safely(editor, segment, place)]
        if len(places) > 1:
            tried += [(places, edit) for edit in _everywhere(segment, places, editor)]
        best = _best(segment, tried)
        if best is not None and not (
            cause == "missing-bias" and _holds_no_bias(evidence, segment, best[0])
        ):
            where = join([segment.rows[place]["name"] for place in best[0]], most=8)
            found.append(Diagnosis(cause, where, f"{where}: {best[1].words}; {best[2]}"))
    return found


def _holds_no_bias(evidence: Evidence, segment: Segment, places: Sequence[int]) -> bool:
    """Return whether the suspect holds zeros for the biases at `places`: it may well add them."""
    held = under("carried", evidence.right.arrays)
    names = [f"{segment.rows[place]['name']}.bias" for place in places]
    return all(name in held and not held[name].any() for name in names)


def reproduced(evidence: Evidence) -> list[Segment]:
    """Return the differing segments whose formulas give the reference's own output.

    Where they do not, what they give when one thing is changed says nothing of the suspect.
    """
    if "reproduced" not in evidence.readings:
        evidence.readings["reproduced"] = [
            segment for segment in segments(evidence) if _is_reproduced(segment)
        ]
    found: list[Segment] = evidence.readings["reproduced"]
    return found


def _is_reproduced(segment: Segment) -> bool:
    few = slice(FIRST_TRIED)
    try:
        output = run(segment.rows, segment.weights, segment.fed[few]).last
    except (LookupError, ValueError):
        return False
    return agree(output.astype(segment.left.dtype), segment.left[few])


def _best(
    segment: Segment, tried: Sequence[tuple[list[int], Edit]]
) -> tuple[list[int], Edit, Fit] | None:
    fitting = []
    for places, edit in tried:
        fitted = fit_edit(segment, edit)
        if fitted is not None:
            fitting.append((places, edit, fitted))
    # Where several fit, the first does: a change with a known number comes before a fitted one.
    return fitting[0] if fitting else None


def fit_edit(segment: Segment, edit: Edit) -> Fit | None:
    """Return how well a change of a segment gives the suspect's values, or None."""
    left, right, fed = segment.left, segment.right, segment.fed
    tried: list[Array | slice] = [slice(None)]
    uses_whole_batch = any(row.get("uses_batch") for row in edit.rows)
    if left.shape == right.shape and len(left) == len(fed) > FIRST_TRIED and not uses_whole_batch:
        gaps = np.abs(left - right).reshape(len(left), -1).max(axis=1)
        tried.insert(0, np.argsort(-gaps)[:FIRST_TRIED])  # NaN comes last, and in the second round
    fitted = None
    for samples in tried:
        try:
            output = run(edit.rows, edit.weights, fed[samples]).last
        except (LookupError, ValueError):  # a changed layer may not take what the next one gives
            return None
        fitted = fit([(output, left[samples], right[samples])])
        if fitted is None:
            return None
    return fitted


def _safely(editor: Editor, segment: Segment, place: int) -> list[Edit]:
    try:
        return list(editor(segment, place))
    except (UnexaminableError, LookupError):
        return []


def _everywhere(segment: Segment, places: list[int], editor: Editor) -> Iterator[Edit]:
    """Yield each change made at all of `places`."""
    counts = {len(_safely(editor, segment, place)) for place in places}
    for index in range(min(counts)):
        changed, words = segment, ""
        for place in reversed(places):
            edit = _safely(editor, changed, place)[index]
            words = edit.words
            changed = Segment(
                segment.name, [dict(row) for row in edit.rows], segment.table,
                edit.weights, segment.fed, segment.left, segment.right,
            )  # fmt: skip
        yield Edit(words, changed.rows, changed.weights)


def _with_row(segment: Segment, place: int, words: str, **changes: Any) -> Edit:
    rows: list[Mapping[str, Any]] = list(segment.rows)
    rows[place] = {**rows[place], **changes}
    return Edit(words, rows, segment.weights)


def with_weights(segment: Segment, words: str, changes: Arrays) -> Edit:
    """Return the change of some of a segment's weights."""
    return Edit(words, segment.rows, {**segment.weights, **changes})


def _kernel(segment: Segment, place: int) -> tuple[str, Array]:
    name = f"{segment.rows[place]['name']}.kernel"
    if name not in segment.weights:
        raise UnexaminableError(f"{name} is not known")
    return name, segment.weights[name]


@edits("leaky-slope", kinds=("leaky_relu",))
def other_slope(segment: Segment, place: int) -> Iterator[Edit]:
    """Take another slope below zero: a framework's default, or the one that the output shows."""
    own = float(segment.rows[place]["negative_slope"])
    slopes = [slope for slope in KNOWN_SLOPES if not is_near(slope, own, 1e-6)]
    for slope in [*slopes, *_fitted_slopes(segment, own)]:
        words = f"the slope below zero is {number(slope)} against {number(own)}"
        yield _with_row(segment, place, words, negative_slope=slope)


def _fitted_slopes(segment: Segment, own: float) -> list[float]:
    """Return the slope by which negative outputs differ, with few digits and as found."""
    left, right = segment.left, segment.right
    if left.shape != right.shape or not (left < 0).any() or own == 0:
        return [own, own]
    slope = own * float(np.median((right / left)[left < 0]))
    if is_near(slope, 1, 1e-5) or is_near(slope, float(np.float32(own)), 1e-12):
        return [own, own]  # no activation at all, and the slope stored as float32, are other causes
    typed = nice(slope, 1e-5)
    return [slope if typed is None else typed, slope]


@edits("float32-inside-float64", kinds=("leaky_relu",))
def slope_as_float32(segment: Segment, place: int) -> Iterator[Edit]:
    """Store the slope as float32, as TensorFlow's operation does."""
    own = float(segment.rows[place]["negative_slope"])
    stored = float(np.float32(own))
    if stored != own:
        words = f"the slope {own!r} is stored as float32, {stored!r}"
        yield _with_row(segment, place, words, negative_slope=stored)


@edits("activation-missing", kinds=ACTIVATIONS)
def no_activation(segment: Segment, place: int) -> Iterator[Edit]:
    """Leave an activation out."""
    rows = [*segment.rows[:place], *segment.rows[place + 1 :]]
    yield Edit("the activation is missing", rows, segment.weights)


@edits("activation-missing", kinds=("convolution", "dense"))
def no_own_activation(segment: Segment, place: int) -> Iterator[Edit]:
    """Leave out the activation that a layer has built in."""
    if segment.rows[place].get("activation", "linear") != "linear":
        words = f"its activation, {segment.rows[place]['activation']}, is missing"
        yield _with_row(segment, place, words, activation="linear")


@edits("activation-order", kinds=(*ACTIVATIONS, "average_pool"))
def other_order(segment: Segment, place: int) -> Iterator[Edit]:
    """Exchange a layer with the one after it."""
    rows = list(segment.rows)
    if place + 1 < len(rows):
        first, second = rows[place], rows[place + 1]
        rows[place : place + 2] = [second, first]
        yield Edit(f"it runs after {second['name']}, not before", rows, segment.weights)


@edits("missing-bias", kinds=("convolution", "dense"))
def no_bias(segment: Segment, place: int) -> Iterator[Edit]:
    """Leave a bias out."""
    name = f"{segment.rows[place]['name']}.bias"
    if name in segment.weights:
        kept = {key: value for key, value in segment.weights.items() if key != name}
        yield Edit("the bias is not added", segment.rows, kept)


@edits("kernel-transposed", kinds=("convolution", "dense"))
def transposed_kernel(segment: Segment, place: int) -> Iterator[Edit]:
    """Exchange two axes of a kernel that are equally long."""
    name, kernel = _kernel(segment, place)
    names = ("height", "width", "input", "output") if kernel.ndim == 4 else ("input", "output")
    for a, b in ((0, 1), (2, 3))[: kernel.ndim // 2]:
        if kernel.shape[a] == kernel.shape[b] > 1:
            words = f"the kernel's {names[a]} and {names[b]} axes are exchanged"
            yield with_weights(segment, words, {name: kernel.swapaxes(a, b)})


@edits("kernel-flipped", kinds=("convolution",))
def flipped_kernel(segment: Segment, place: int) -> Iterator[Edit]:
    """Turn a kernel about, which makes a correlation a convolution."""
    name, kernel = _kernel(segment, place)
    if max(kernel.shape[:2]) > 1:
        words = "the kernel is flipped in height and width: a true convolution, not a correlation"
        yield with_weights(segment, words, {name: kernel[::-1, ::-1]})


@edits("flatten-order", kinds=("dense",))
def permuted_rows(segment: Segment, place: int) -> Iterator[Edit]:
    """Read the rows of the first dense kernel in another order of the map's axes."""
    name, kernel = _kernel(segment, place)
    shape = _map_before(segment, place)
    if int(np.prod(shape)) != len(kernel):
        return
    for order, letters in (((2, 0, 1), "C, H, W"), ((1, 2, 0), ""), ((2, 1, 0), "C, W, H"),
                           ((1, 0, 2), "W, H, C")):  # fmt: skip
        taken = np.arange(len(kernel)).reshape(shape).transpose(order).ravel()
        words = f"the map is flattened as {letters}, and the kernel's rows are for H, W, C"
        if order == (1, 2, 0):
            # The rows were put from (C, H, W) to (H, W, C) though they were so already.
            taken = np.arange(len(kernel)).reshape(shape[2], *shape[:2]).transpose(order).ravel()
            words = "the kernel's rows, in H, W, C order, were permuted as if they were C, H, W"
            yield with_weights(segment, words, {name: kernel[taken]})
        else:
            yield with_weights(segment, words, {name: kernel[np.argsort(taken)]})


def _map_before(segment: Segment, place: int) -> tuple[int, ...]:
    """Return (H, W, C) of the map that the flatten before a dense layer reads."""
    names = [row["name"] for row in segment.table]
    index = names.index(segment.rows[place]["name"]) - 1
    if index < 1 or segment.table[index]["kind"] != "flatten":
        raise UnexaminableError("no flatten before")
    if segment.fed.ndim == 4 and segment.rows[0]["kind"] == "flatten":
        return segment.fed.shape[1:]
    return tuple(segment.table[index - 1]["output_shape"])


@edits("flatten-order", kinds=("flatten",))
def other_flatten(segment: Segment, place: int) -> Iterator[Edit]:
    """Flatten in another order of the axes."""
    for order, words in (
        ((2, 0, 1), "the map is flattened as C, H, W"),
        ((1, 0, 2), "the map is flattened as W, H, C"),
        ((1, 2, 0), "the map, in H, W, C order, is permuted as if it were C, H, W"),
    ):
        yield _with_row(segment, place, words, order=order)


@edits("pool-padding", kinds=("max_pool", "average_pool"))
def padded_pool(segment: Segment, place: int) -> Iterator[Edit]:
    """Pad a pool otherwise: on both sides, at the start, or counting the padding."""
    row = segment.rows[place]
    for padding, words in (
        ("explicit 1", "the pool pads one pixel on each side"),
        ("same-first", "the pool pads at the top and left, not the bottom and right"),
        ("explicit 2", "the pool pads two pixels on each side"),
    ):
        yield _with_row(segment, place, words, padding=padding)
    if row["kind"] == "average_pool":
        for padding in (row.get("padding", "valid"), "explicit 1"):
            words = "the average counts the padding"
            yield _with_row(segment, place, words, padding=padding, counts_padding=True)


@edits("pool-valid", kinds=("max_pool", "average_pool"))
def valid_pool(segment: Segment, place: int) -> Iterator[Edit]:
    """Pool without padding."""
    yield _with_row(segment, place, "the pool does not pad", padding="valid")


@edits("pool-average", kinds=("max_pool", "average_pool"))
def other_pool(segment: Segment, place: int) -> Iterator[Edit]:
    """Take the mean for the largest value, or the reverse."""
    if segment.rows[place]["kind"] == "max_pool":
        words = "the pool takes the mean, not the largest value"
        yield _with_row(segment, place, words, kind="average_pool")
        yield _with_row(segment, place, words, kind="average_pool", counts_padding=True)
        yield from _pooled_first(segment, place, f"{words}, before the activation")
    else:
        words = "the pool takes the largest value, not the mean"
        yield _with_row(segment, place, words, kind="max_pool")


def _pooled_first(segment: Segment, place: int, words: str) -> Iterator[Edit]:
    """Take the mean before the activation, where a largest value may be taken as well."""
    if place and segment.rows[place - 1]["kind"] in ACTIVATIONS:
        rows: list[Mapping[str, Any]] = list(segment.rows)
        pool = {**rows[place], "kind": "average_pool"}
        rows[place - 1 : place + 1] = [pool, rows[place - 1]]
        yield Edit(words, rows, segment.weights)


@edits("pool-stride", kinds=("max_pool", "average_pool"))
def pool_stride(segment: Segment, place: int) -> Iterator[Edit]:
    """Move a pool by other strides."""
    for stride in (1, 2, 3):
        words = f"the pool moves by {stride}"
        yield _with_row(segment, place, words, strides=[stride, stride])


@edits("conv-padding", kinds=("convolution",))
def padded_convolution(segment: Segment, place: int) -> Iterator[Edit]:
    """Pad a convolution otherwise."""
    half = int(_kernel(segment, place)[1].shape[0]) // 2
    for padding, words in (
        ("valid", "the convolution does not pad"),
        ("same", "the convolution pads as 'same', the odd pixel at the bottom and right"),
        (f"explicit {half}", f"the convolution pads {half} on each side"),
        ("same-first", "the convolution pads the odd pixel at the top and left"),
    ):
        yield _with_row(segment, place, words, padding=padding)


@edits("conv-stride", kinds=("convolution",))
def conv_stride(segment: Segment, place: int) -> Iterator[Edit]:
    """Move a convolution by other strides."""
    for stride in (1, 2, 3):
        for padding in dict.fromkeys((segment.rows[place].get("padding", "valid"), "explicit 1")):
            words = f"the convolution moves by {stride}"
            yield _with_row(segment, place, words, strides=[stride, stride], padding=padding)


@edits("softmax-output", kinds=("dense",))
def softmax_output(segment: Segment, place: int) -> Iterator[Edit]:
    """End the network in a softmax."""
    if segment.rows[place]["name"] == segment.table[-1]["name"]:
        for kind in ("softmax", "log_softmax"):
            rows = [*segment.rows, {"name": "", "kind": kind}]
            words = f"the output is the {kind.replace('_', ' ')} of what the reference gives"
            yield Edit(words, rows, segment.weights)


@edits("weights-swapped", kinds=("convolution", "dense"))
def swapped_weights(segment: Segment, place: int) -> Iterator[Edit]:
    """Exchange a parameter with another layer's of the same shape."""
    layer = segment.rows[place]["name"]
    own = [name for name in segment.weights if name.rpartition(".")[0] == layer]
    for name in own:
        for other, value in segment.weights.items():
            is_kin = other not in own and value.shape == segment.weights[name].shape
            if is_kin and not np.array_equal(value, segment.weights[name]):
                words = f"{name} holds what {other} should"
                pair = {name: value, other: segment.weights[name]}
                yield with_weights(segment, words, pair)
    for one, two in ((a, b) for a in own for b in own if a < b):
        if segment.weights[one].shape == segment.weights[two].shape:
            words = f"{one} and {two} are exchanged"
            pair = {one: segment.weights[two], two: segment.weights[one]}
            yield with_weights(segment, words, pair)
