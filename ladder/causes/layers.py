"""Causes inside a layer: each is computed anew with one thing changed, and must give its output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ladder.causes.fits import Fit, agree, fit, is_near, nice, number, size_of
from ladder.causes.formulas import run
from ladder.causes.reading import Segment, join, segments, under
from ladder.causes.registry import (
    Diagnosis,
    Evidence,
    Rank,
    UnexaminableError,
    recognises,
)
from ladder.exchange import Array, Arrays

RUNGS = ("layers", "logits")
KNOWN_SLOPES = (0.01, 0.1, 0.2, 0.3, 0.0)
KNOWN_EPSILONS = (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-4, 1e-2)
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
        def recogniser(evidence: Evidence) -> list[Diagnosis]:
            return _explained(evidence, causes[0], kinds, editor)

        recognises(*causes, on=RUNGS, rank=rank)(recogniser)
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
        fitted = _fit(segment, edit)
        if fitted is not None:
            fitting.append((places, edit, fitted))
    # Where several fit, the first does: a change with a known number comes before a fitted one.
    return fitting[0] if fitting else None


def _fit(segment: Segment, edit: Edit) -> Fit | None:
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


def _with_weights(segment: Segment, words: str, changes: Arrays) -> Edit:
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


@edits("activation-order", kinds=(*ACTIVATIONS, "batch_norm", "average_pool"))
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
            yield _with_weights(segment, words, {name: kernel.swapaxes(a, b)})


@edits("kernel-flipped", kinds=("convolution",))
def flipped_kernel(segment: Segment, place: int) -> Iterator[Edit]:
    """Turn a kernel about, which makes a correlation a convolution."""
    name, kernel = _kernel(segment, place)
    if max(kernel.shape[:2]) > 1:
        words = "the kernel is flipped in height and width: a true convolution, not a correlation"
        yield _with_weights(segment, words, {name: kernel[::-1, ::-1]})


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
            yield _with_weights(segment, words, {name: kernel[taken]})
        else:
            yield _with_weights(segment, words, {name: kernel[np.argsort(taken)]})


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


@edits("pool-edge-repeated", kinds=("average_pool",))
def edge_pool(segment: Segment, place: int) -> Iterator[Edit]:
    """Average over a border that repeats the outermost pixels, as Keras does on torch."""
    words = "the average takes the outermost pixels again where it pads"
    yield _with_row(segment, place, words, is_edge=True)


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


@edits("batchnorm-epsilon", kinds=("batch_norm",))
def batchnorm_epsilon(segment: Segment, place: int) -> Iterator[Edit]:
    """Take another ε: a framework's default, or the one that the output shows."""
    own = float(segment.rows[place]["epsilon"])
    others = [epsilon for epsilon in KNOWN_EPSILONS if not is_near(epsilon, own, 1e-3)]
    for epsilon in others:
        words = f"ε is {number(epsilon)} against {number(own)}"
        yield _with_row(segment, place, words, epsilon=epsilon)


@edits("batchnorm-batch-statistics", kinds=("batch_norm",))
def batch_statistics(segment: Segment, place: int) -> Iterator[Edit]:
    """Normalise with the batch's own statistics in evaluation, as if still in training mode."""
    words = "it normalises with the batch's own statistics, as in training mode"
    yield _with_row(segment, place, words, uses_batch=True)


@edits("weights-swapped", kinds=("convolution", "dense", "batch_norm"))
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
                yield _with_weights(segment, words, pair)
    for one, two in ((a, b) for a in own for b in own if a < b):
        if segment.weights[one].shape == segment.weights[two].shape:
            words = f"{one} and {two} are exchanged"
            pair = {one: segment.weights[two], two: segment.weights[one]}
            yield _with_weights(segment, words, pair)


@recognises("dropout-at-evaluation", "dropout-not-scaled", on=RUNGS)
def dropout_in_evaluation(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a dropout layer that is not the identity in evaluation."""
    found = []
    for segment in segments(evidence):
        rates = [float(row["rate"]) for row in segment.rows if row["kind"] == "dropout"]
        if len(rates) != 1 or segment.left.shape != segment.right.shape:
            continue
        name = next(row["name"] for row in segment.rows if row["kind"] == "dropout")
        left, right = segment.left, segment.right
        is_out = (right == 0) & (left != 0)
        share = float(is_out.sum()) / max(int((left != 0).sum()), 1)
        # Of either sign: an activation that makes zeros of what is negative drops one alone.
        is_drawn = all(
            is_near(share, is_out[one].sum() / one.sum(), 0.5)
            for one in (left > 0, left < 0)
            if one.sum() > 100
        )
        for factor in (1 / (1 - rates[0]), 1.0):
            fitted = fit([(np.where(is_out, 0, left * factor), left, right)])
            if fitted and is_drawn and 0 < share < 1:
                words = f"{share:.0%} of its values are dropped"
                sentence = f"{name}: dropout is on in evaluation: {words}"
                found.append(Diagnosis("dropout-at-evaluation", name, sentence))
                break
        fitted = fit([(left * (1 - rates[0]), left, right)])
        if fitted:
            sentence = f"{name}: values are scaled by {number(1 - rates[0])} in evaluation instead "
            sentence += f"of by {number(1 / (1 - rates[0]))} in training; {fitted}"
            found.append(Diagnosis("dropout-not-scaled", name, sentence))
    return found


OWN_ARRAYS = {
    "layers": ("forced.", "point."),
    "logits": ("logits.",),
    "gradients": ("gradient.",),
    "optimizer": ("step.",),
    "training": ("seam.", "trained"),
}
"""Prefixes of what a rung compares: arrays of another rung explain nothing on it."""


def is_bfloat16_at_heart(values: Array) -> bool:
    """Return whether values are bfloat16 ones, float32 whose last 16 bits are zero."""
    if values.size < 8 or not np.isfinite(values).all() or not values.any():
        return False
    # A bias taken away again leaves rounding, so the nearest bfloat16 is looked for.
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64) + 0x8000
    nearest = ((bits >> 16) << 16).astype(np.uint32).view(np.float32)
    share = 1e-15 if values.dtype == np.float64 else 3e-7
    return bool(np.abs(values - nearest).max() <= share * size_of(values))


def is_float32_at_heart(values: Array) -> bool:
    """Return whether float64 values are float32 ones to far below float32's own rounding."""
    if values.dtype != np.float64 or values.size == 0 or not np.isfinite(values).all():
        return False
    rest = np.abs(values - values.astype(np.float32)).max()
    return bool(rest <= 1e-15 * size_of(values)) and bool(values.any())


@recognises(
    "float32-inside-float64", on=(*RUNGS, "gradients", "optimizer", "training"), rank=Rank.PATTERN
)
def float32_values(evidence: Evidence) -> Diagnosis | None:
    """Recognise values that went through float32 where the reference's did not."""
    left, right = evidence.left.arrays, evidence.right.arrays
    for name in right:
        if (
            not name.startswith(OWN_ARRAYS[evidence.rung])
            or name not in left
            or left[name].size < 2
        ):
            continue
        one, two = left[name], right[name]
        if one.dtype != np.float64 or one.shape != two.shape or is_float32_at_heart(one):
            continue
        gap = float(np.abs(one - two).max())
        is_float32 = two.dtype == np.float32 or is_float32_at_heart(two)
        if is_float32 and 0 < gap <= 1e-4 * size_of(one):
            sentence = f"{name} holds float32 values in a float64 run; gap {gap:.1e}"
            return Diagnosis("float32-inside-float64", name, sentence)
    return None


@recognises("half-precision", on=RUNGS, rank=Rank.PATTERN)
def bfloat16_values(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a layer's product, before its bias, that is a bfloat16 number."""
    found = []
    for segment in segments(evidence):
        if segment.left.shape != segment.right.shape:
            continue
        bias = segment.weights.get(f"{segment.name}.bias", np.zeros(1))
        for offset in (np.zeros(1), bias):
            one, two = segment.left - offset, segment.right - offset
            is_near = np.abs(one - two).max() <= 0.05 * size_of(one)
            if is_near and is_bfloat16_at_heart(two) and not is_bfloat16_at_heart(one):
                words = f"{segment.name}: its values are bfloat16 numbers: it computes in half "
                found.append(Diagnosis("half-precision", segment.name, f"{words}precision"))
                break
    return found


@recognises("float32-inside-float64", on=RUNGS, rank=Rank.PATTERN)
def float32_before_the_bias(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a product taken in float32 to which a float64 bias was added."""
    found = []
    for segment in segments(evidence):
        bias = segment.weights.get(f"{segment.name}.bias")
        if bias is None or segment.left.shape != segment.right.shape:
            continue
        one, two = segment.left - bias, segment.right - bias
        if is_float32_at_heart(two) and not is_float32_at_heart(one) and bias.any():
            words = "the product is computed in float32 in a float64 run"
            found.append(
                Diagnosis("float32-inside-float64", segment.name, f"{segment.name}: {words}")
            )
    return found


@recognises("weights-not-loaded", on=RUNGS)
def zeros_for_a_bias(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a layer that computes with the bias it holds: zeros, and not the one given."""
    found = []
    held = under("carried", evidence.right.arrays)
    for segment in reproduced(evidence):
        names = [f"{row['name']}.bias" for row in segment.rows]
        lost = [name for name in names if _is_lost(segment.weights.get(name), held.get(name))]
        zeros = {name: held[name] for name in lost}
        fitted = _fit(segment, _with_weights(segment, "", zeros)) if lost else None
        if fitted:
            where = join(lost, most=8)
            words = "it holds zeros, not the values that it was given"
            found.append(Diagnosis("weights-not-loaded", where, f"{where}: {words}; {fitted}"))
    return found


def _is_lost(given: Array | None, held: Array | None) -> bool:
    return given is not None and held is not None and bool(given.any()) and not held.any()


@recognises("weights-not-loaded", on=("layers",), rank=Rank.REMAINDER)
def other_weights(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a layer that computes the right operation with a kernel it was not given.

    That is the kernel that the suspect holds, where it says so, or else the one that its output
    shows. A kernel that is like the one given was loaded, and changed, as was one of the same
    values in another order: that is another mistake.
    """
    found = []
    held = under("carried", evidence.right.arrays)
    for segment in reproduced(evidence):
        weighted = [row for row in segment.rows if row["kind"] in ("convolution", "dense")]
        others = [row for row in segment.rows if row["kind"] not in ("flatten", *ACTIVATIONS)]
        if len(weighted) != 1 or others != weighted:
            continue
        name = f"{weighted[0]['name']}.kernel"
        kernel, solved = segment.weights[name], held.get(name)
        if solved is None or not _fit(segment, Edit("", segment.rows, held)):
            solved = _solve(segment, kernel)
        if solved is None or solved.shape != kernel.shape:
            continue
        if agree(*(np.sort(each, axis=None) for each in (kernel, solved))):
            continue
        similarity = float(np.corrcoef(kernel.ravel(), solved.ravel())[0, 1])
        if abs(similarity) < MOST_ALIKE:
            sentence = f"{segment.name}: its output is that of another kernel and bias than those "
            sentence += f"it was given (correlation of the kernels {similarity:.2f})"
            found.append(Diagnosis("weights-not-loaded", segment.name, sentence))
    return found


def _solve(segment: Segment, kernel: Array) -> Array | None:
    """Return the kernel that explains the output without rest, or None.

    The operation is linear: its outputs for each kernel place alone make up the patches.
    """
    unknowns = int(np.prod(kernel.shape[:-1]))
    if any(row["kind"] in ACTIVATIONS for row in segment.rows):
        return None  # not linear
    if unknowns > MAX_UNKNOWNS or segment.left.shape != segment.right.shape:
        return None
    basis = np.eye(unknowns).reshape(*kernel.shape[:-1], unknowns)
    name = next(row["name"] for row in segment.rows if row["kind"] != "flatten")
    patches = run(segment.rows, {f"{name}.kernel": basis}, segment.fed).last.reshape(-1, unknowns)
    outputs = np.asarray(segment.right, np.float64).reshape(len(patches), -1)
    chosen = np.random.default_rng(0).permutation(len(patches))[: 2 * unknowns + 200]
    known = np.hstack([patches[chosen], np.ones((len(chosen), 1))])
    if len(chosen) < unknowns + 20:
        return None
    solved, *_ = np.linalg.lstsq(known, outputs[chosen], rcond=None)
    computed = np.hstack([patches, np.ones((len(patches), 1))]) @ solved
    sides = [side.reshape(outputs.shape) for side in (segment.left, segment.right)]
    is_explained = fit([(computed, *sides)])
    return solved[:-1].reshape(kernel.shape) if is_explained else None
