"""Causes shown by values: a lower precision, weights not loaded, dropout left on."""

import numpy as np

from ladder.causes.fits import agree, fit, is_near, number, size_of
from ladder.causes.formulas import run
from ladder.causes.gradients import are_gradients, recompute, shared_names
from ladder.causes.layers import (
    ACTIVATIONS,
    MAX_UNKNOWNS,
    MOST_ALIKE,
    RUNGS,
    Edit,
    fit_edit,
    reproduced,
    with_weights,
)
from ladder.causes.loss import cross_entropy
from ladder.causes.reading import Segment, join, segments, under
from ladder.causes.registry import (
    Diagnosis,
    Evidence,
    Rank,
    detects,
)
from ladder.exchange import Array


@detects("dropout-at-evaluation", "dropout-not-scaled", on=RUNGS)
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


@detects("float32-inside-float64", on=("gradients",))
def float32_on_the_way_back(evidence: Evidence) -> Diagnosis | None:
    """Recognise gradients that went through float32 on their way back, behind one layer."""
    known = sorted(recompute(evidence), key=lambda one: len(one.targets))[:2]
    if any(array.dtype != np.float64 for one in known for array in one.case.right.values()):
        return None
    if not are_gradients(known):
        return None
    for row in known[0].rows:
        triples = []
        for one in known:
            _, gradient = cross_entropy(one.ran.last, one.targets)
            values = one.ran.gradients(gradient, float32_behind=row["name"])
            triples += [
                (values[name], one.case.left[name], one.case.right[name])
                for name in shared_names(one.case)
                if name in values and name != "input"
            ]
        fitted = fit(triples)
        if fitted:
            words = f"behind {row['name']} the gradient goes through float32 on its way back"
            return Diagnosis("float32-inside-float64", row["name"], f"{words}; {fitted}")
    return None


@detects(
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


@detects("half-precision", on=RUNGS, rank=Rank.PATTERN)
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


@detects("float32-inside-float64", on=RUNGS, rank=Rank.PATTERN)
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


@detects("weights-not-loaded", on=RUNGS)
def zeros_for_a_bias(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a layer that computes with the bias it holds: zeros, and not the one given."""
    found = []
    held = under("carried", evidence.right.arrays)
    for segment in reproduced(evidence):
        names = [f"{row['name']}.bias" for row in segment.rows]
        lost = [name for name in names if _is_lost(segment.weights.get(name), held.get(name))]
        zeros = {name: held[name] for name in lost}
        fitted = fit_edit(segment, with_weights(segment, "", zeros)) if lost else None
        if fitted:
            where = join(lost, most=8)
            words = "it holds zeros, not the values that it was given"
            found.append(Diagnosis("weights-not-loaded", where, f"{where}: {words}; {fitted}"))
    return found


def _is_lost(given: Array | None, held: Array | None) -> bool:
    return given is not None and held is not None and bool(given.any()) and not held.any()


@detects("weights-not-loaded", on=("layers",), rank=Rank.REMAINDER)
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
        if solved is None or not fit_edit(segment, Edit("", segment.rows, held)):
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
