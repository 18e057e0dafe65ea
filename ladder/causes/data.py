"""Causes in the data: what the digests, classes and means of the batches fed tell."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ladder.arrays import Array
from ladder.causes.fits import number
from ladder.causes.registry import Diagnosis, Evidence, Rank, UnexaminableError, detects
from ladder.exchange import Trace

RUNGS = ("data", "training")
Row = Mapping[str, Any]
MEAN_ROUNDING = 2e-6
"""Means are stored with six digits."""


@dataclass(frozen=True)
class Stage:
    """The batches of one stage on both sides, split into epochs."""

    name: str
    left: list[list[Row]]
    right: list[list[Row]]


def stages(evidence: Evidence) -> list[Stage]:
    """Return the stages that both sides were fed.

    Raises:
        UnexaminableError: a side has no batches.
    """
    left, right = (_epochs(trace) for trace in (evidence.left, evidence.right))
    return [Stage(name, left[name], right[name]) for name in left if name in right]


def _epochs(trace: Trace) -> dict[str, list[list[Row]]]:
    """Return each stage's batches; a stretch of one stage is an epoch."""
    rows = trace.facts.get("batches")
    if not rows:
        raise UnexaminableError("no batches")
    found: dict[str, list[list[Row]]] = {}
    before = None
    for row in rows:
        epochs = found.setdefault(row["stage"], [])
        if row["stage"] != before:
            epochs.append([])
        epochs[-1].append(row)
        before = row["stage"]
    return found


def _members(rows: Sequence[Row]) -> list[str]:
    return list(chain.from_iterable(row["members"] for row in rows))


def _classes(rows: Sequence[Row]) -> list[int]:
    return list(chain.from_iterable(row["classes"] for row in rows))


@detects("last-batch-dropped", on=RUNGS)
def last_batch(evidence: Evidence) -> list[Diagnosis]:
    """Recognise epochs without their last, smaller batch."""
    found = []
    for stage in stages(evidence):
        left, right = stage.left[0], stage.right[0]
        sizes = [row["size"] for row in left], [row["size"] for row in right]
        if sizes[0][-1] < sizes[0][0] and sizes[1] == sizes[0][:-1]:
            words = f"{stage.name}: the last batch, of {sizes[0][-1]} images, is not fed"
            found.append(Diagnosis("last-batch-dropped", stage.name, words))
    return found


@detects("batches-repeated", on=RUNGS)
def repeated_batches(evidence: Evidence) -> list[Diagnosis]:
    """Recognise images that an epoch feeds again."""
    found = []
    for stage in stages(evidence):
        left, right = ([row["images"] for row in side[0]] for side in (stage.left, stage.right))
        again = len(right) - len(set(right))
        members = _members(stage.right[0])
        if len(set(members)) == 1:
            continue  # blank images are alike
        spare = len(members) - len(_members(stage.left[0]))
        if again and len(left) == len(set(left)):
            words = f"{stage.name}: {again} of {len(right)} batches of an epoch are fed again"
        elif spare > 0 and set(members) == set(_members(stage.left[0])):
            words = f"{stage.name}: {spare} images more are fed in an epoch: some of them again"
        else:
            continue
        found.append(Diagnosis("batches-repeated", stage.name, words))
    return found


@detects("order-same-each-epoch", "order-not-shuffled", "order-differs", on=RUNGS)
def order(evidence: Evidence) -> list[Diagnosis]:
    """Recognise the same images in another order."""
    own = list(evidence.right.facts.get("set_order") or [])
    return [found for stage in stages(evidence) if (found := _order_of(stage, own)) is not None]


def _order_of(stage: Stage, own: list[str]) -> Diagnosis | None:
    """Name another order; `own` is that in which the suspect's training set lies."""
    left = [_members(rows) for rows in stage.left]
    right = [_members(rows) for rows in stage.right]
    if left == right or sorted(left[0]) != sorted(right[0]) or len(set(left[0])) < 2:
        return None
    name = stage.name
    is_fixed = len(right) > 1 and all(order == right[0] for order in right)
    is_left_fixed = all(order == left[0] for order in left)
    if is_fixed and right[0] == left[0]:
        words = f"{name}: every epoch has the order of the first"
        return Diagnosis("order-same-each-epoch", name, words)
    if is_fixed and not is_left_fixed:
        words = f"{name}: every epoch has one order, which is "
        words += (
            f"the reference's of epoch {left.index(right[0]) + 1}"
            if right[0] in left
            else ("none of the reference's")
        )
        if right[0] != own:
            return Diagnosis("order-same-each-epoch", name, words)
        words += ": the set's own, as where nothing is shuffled"
        return Diagnosis("order-not-shuffled", name, words)
    classes = _classes(stage.right[0])
    if classes == sorted(classes) and len(set(classes)) > 1:
        words = f"{name}: the images come class by class"
        return Diagnosis("order-not-shuffled", name, words)
    return Diagnosis("order-differs", name, f"{name}: {_how_ordered(stage, left, right)}")


def _how_ordered(stage: Stage, left: list[list[str]], right: list[list[str]]) -> str:
    batches = [sorted(row["images"] for row in side[0]) for side in (stage.left, stage.right)]
    if batches[0] == batches[1]:
        return "the same batches in another order: whole batches are shuffled"
    if right[0] == left[0][::-1]:
        return "the reference's order, backwards"
    if right[0] in left:
        return f"epoch 1 has the reference's order of epoch {left.index(right[0]) + 1}"
    if left[0] in right:
        return f"epoch {right.index(left[0]) + 1} has the reference's order of epoch 1"
    if left[0] == right[0]:
        first = next(i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
        return f"the same images in another order from epoch {first + 1} on"
    return "the same images in another order"


@detects("validation-trained-on", "training-images-validated", "other-split", on=RUNGS)
def foreign_images(evidence: Evidence) -> list[Diagnosis]:
    """Recognise images that the reference feeds in another stage."""
    left, right = (
        {name: set(_members(epochs[0])) for name, epochs in _epochs(trace).items()}
        for trace in (evidence.left, evidence.right)
    )
    strange = {
        (at, home): len(right[at] & left[home] - left[at])
        for at in right
        for home in left
        if at != home and at in left
    }
    found = {places: count for places, count in strange.items() if count}
    both = [("train", "validation"), ("validation", "train")]
    if all(places in found for places in both):
        words = f"{found[both[0]]} validation images are trained on and {found[both[1]]} training "
        words += "images validate: the set is split otherwise"
        return [Diagnosis("other-split", "train, validation", words)]
    return [_foreign(at, home, count) for (at, home), count in found.items()]


def _foreign(at: str, home: str, count: int) -> Diagnosis:
    words = f"{at}: {count} images are fed that the reference feeds in {home} only"
    named = {
        ("train", "validation"): "validation-trained-on",
        ("validation", "train"): "training-images-validated",
    }
    return Diagnosis(named.get((at, home), "other-split"), at, words)


@detects("labels-shifted", "labels-permuted", on=RUNGS)
def labels(evidence: Evidence) -> list[Diagnosis]:
    """Recognise other classes for the same images in the same order."""
    return [found for stage in stages(evidence) if (found := _labels_of(stage)) is not None]


def _labels_of(stage: Stage) -> Diagnosis | None:
    left, right = stage.left[0], stage.right[0]
    if [row["members"] for row in left] != [row["members"] for row in right]:
        return None
    one, two = np.array(_classes(left)), np.array(_classes(right))
    if one.shape != two.shape or np.array_equal(one, two):
        return None
    count = int(max(one.max(), two.max())) + 1
    shifts = set(((two - one) % count).tolist())
    if len(shifts) == 1:
        shift = min(shifts)
        shift = shift - count if shift > count / 2 else shift
        words = f"{stage.name}: every label is class {shift:+d}, counted around {count}"
        return Diagnosis("labels-shifted", stage.name, words)
    pairs = set(zip(one.tolist(), two.tolist(), strict=True))
    if len(pairs) == len(set(one.tolist())) == len(set(two.tolist())):
        words = ", ".join(f"{a} → {b}" for a, b in sorted(pairs) if a != b)
        return Diagnosis("labels-permuted", stage.name, f"{stage.name}: classes renamed: {words}")
    how = _how_labelled(left, right)
    return Diagnosis("labels-permuted", stage.name, f"{stage.name}: {how}") if how else None


def _how_labelled(left: Sequence[Row], right: Sequence[Row]) -> str | None:
    """Say how the same labels stand at other images, None where they are other labels."""
    one, two = np.array(_classes(left)), np.array(_classes(right))
    received = [list(row["classes"]) for row in right]
    for by, word in ((1, "before"), (-1, "after")):
        rolled = [np.roll(row["classes"], by).tolist() for row in left]
        if rolled == received or np.array_equal(np.roll(one, by), two):
            return f"every label is that of the image {word}"
    if sorted(one.tolist()) == sorted(two.tolist()):
        return f"{(one != two).mean():.0%} of the images have another's label"
    return None


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@detects("float32-inside-float64", on=RUNGS)
def coarse_images(evidence: Evidence) -> list[Diagnosis]:
    """Recognise images fed as float32 where the reference's are float64."""
    found = []
    for stage in stages(evidence):
        dtypes = [side[0][0]["dtype"] for side in (stage.left, stage.right)]
        if dtypes == ["float64", "float32"]:
            words = f"{stage.name}: images are fed as float32 in a float64 run"
            found.append(Diagnosis("float32-inside-float64", stage.name, words))
    return found


@detects(
    "images-unscaled", "images-scaled-twice", "images-standardised", "images-inverted",
    "images-rescaled", on=RUNGS, rank=Rank.FITTED,
)  # fmt: skip
def pixel_values(evidence: Evidence) -> list[Diagnosis]:
    """Recognise images whose values are a·x + b of the reference's, from the batches' means."""
    found = []
    for stage in stages(evidence):
        pairs = list(_same_labels(stage))
        left, right = (np.array([pair[side]["mean"] for pair in pairs]) for side in (0, 1))
        if not pairs or np.abs(left - right).max() <= MEAN_ROUNDING:
            continue
        # All alike, as blank images are, they show nothing but their own value.
        is_blank = len({member for _, two in pairs for member in two["members"]}) == 1
        named = None if is_blank else _name_values(left, right)
        if named:
            found.append(Diagnosis(named[0], stage.name, f"{stage.name}: {named[1]}"))
    return found


def _same_labels(stage: Stage) -> Iterator[tuple[Row, Row]]:
    """Yield the batches that hold the same labels in the same order."""
    for one, two in zip(stage.left[0], stage.right[0], strict=False):
        if one["classes"] == two["classes"] and one["images"] != two["images"]:
            yield one, two


def _name_values(left: Array, right: Array) -> tuple[str, str] | None:
    for factor, cause, words in (
        (255.0, "images-unscaled", "pixels reach from 0 to 255: not divided by 255"),
        (1 / 255, "images-scaled-twice", "pixels are divided by 255 twice"),
        (255 / 256, "images-rescaled", "pixels are divided by 256, not 255"),
    ):
        if _is_line(left, right, factor, 0.0):
            return cause, f"{words}; means are {number(factor)} times the reference's"
    if _is_line(left, right, -1.0, 1.0):
        return "images-inverted", "pixels are 1 − x: light and dark are exchanged"
    if _is_line(left, right, -255.0, 255.0):
        return "images-inverted", "pixels are 255 − 255·x: light and dark are exchanged"
    if _is_line(left, right, 2.0, -1.0):
        return "images-standardised", "pixels reach from −1 to 1: 2·x − 1"
    if np.abs(right).max() <= MEAN_ROUNDING and np.abs(left).min() > 1e-3:
        words = "every batch has mean 0: centred or standardised, batch- or imagewise"
        return "images-standardised", words
    return _fitted_line(left, right)


def _is_line(left: Array, right: Array, factor: float, offset: float) -> bool:
    allowed = MEAN_ROUNDING * (1 + abs(factor))
    return bool(np.abs(factor * left + offset - right).max() <= allowed)


def _fitted_line(left: Array, right: Array) -> tuple[str, str] | None:
    if len(left) < 4 or np.ptp(left) < 100 * MEAN_ROUNDING:
        return None
    factor, offset = np.polyfit(left, right, 1)
    if not _is_line(left, right, factor, offset) or factor <= 0:
        return None
    if abs(offset) <= MEAN_ROUNDING * (1 + factor) / np.ptp(left):
        return "images-rescaled", f"pixels are {number(factor)} times the reference's"
    if offset > 0:
        return "images-rescaled", f"pixels are {factor:.4g}·x + {offset:.4g}"
    words = f"pixels are standardised with mean {-offset / factor:.4g} and standard deviation "
    return "images-standardised", f"{words}{1 / factor:.4g}"


CHANGES: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
    ("images-transposed", "height and width are exchanged", lambda x: x.swapaxes(0, 1)),
    ("images-flipped", "images are flipped left to right", lambda x: x[:, ::-1]),
    ("images-flipped", "images are flipped top to bottom", lambda x: x[::-1]),
    ("images-flipped", "images are turned by 180°", lambda x: x[::-1, ::-1]),
    ("images-transposed", "images are turned by 90°", np.rot90),
    ("images-transposed", "images are turned by −90°", lambda x: np.rot90(x, -1)),
    ("images-inverted", "pixels are 1 − x", lambda x: 1 - x),
    ("images-unscaled", "pixels reach from 0 to 255", lambda x: np.rint(x * 255)),
    ("images-scaled-twice", "pixels are divided by 255 twice", lambda x: x / 255),
    ("images-standardised", "pixels are 2·x − 1", lambda x: 2 * x - 1),
    ("float32-inside-float64", "pixels were float32", lambda x: x.astype(np.float32)),
)  # fmt: skip


@detects(*dict.fromkeys(cause for cause, _, _ in CHANGES), on=RUNGS)
def changed_images(evidence: Evidence) -> list[Diagnosis]:
    """Recognise a change of images by digest, for images that the question itself holds.

    An image of the question that the reference was fed is changed and looked for in the suspect's
    batch at the same place.
    """
    both = stages(evidence)
    known = _known_images(evidence)
    found: list[Diagnosis] = []
    for stage in both:
        places = [
            (known[member], right["members"][i], right["dtype"])
            for left, right in zip(stage.left[0], stage.right[0], strict=False)
            for i, member in enumerate(left["members"])
            if member in known and i < len(right["members"])
        ]
        found += _changes(stage.name, places[:8])
    return found


def _changes(stage: str, places: Sequence[tuple[Array, str, str]]) -> Iterator[Diagnosis]:
    for cause, words, change in CHANGES:
        is_met = [
            _digest(change(image).astype(dtype))[:16] == member != _digest(image.astype(dtype))[:16]
            for image, member, dtype in places
        ]
        if is_met and all(is_met):
            yield Diagnosis(
                cause, stage, f"{stage}: {words}; found by digest in {len(is_met)} images"
            )
            return


def _known_images(evidence: Evidence) -> dict[str, Array]:
    """Return images (H, W, C) that the question holds, by the digest they are fed under."""
    dtype = next(iter(evidence.left.facts["batches"]))["dtype"]
    known: dict[str, Array] = {}
    arrays = {**evidence.question.arrays, **evidence.left.arrays}
    for name, images in arrays.items():
        is_fed = name == "images" or name.startswith(("images.", "fed."))
        if not is_fed or images.ndim != 4:
            continue
        values = images.astype(dtype)
        if images.dtype == np.uint8:
            values /= 255
        known |= {_digest(image)[:16]: image for image in values[:256]}
    return known


@detects("images-rearranged", "images-transposed", on=RUNGS, rank=Rank.REMAINDER)
def rearranged_images(evidence: Evidence) -> list[Diagnosis]:
    """Recognise batches of the same labels and the same pixels, which stand elsewhere."""
    found = []
    for stage in stages(evidence):
        pairs = list(_same_labels(stage))
        is_all = len(pairs) == len(stage.left[0]) == len(stage.right[0])
        dtypes = {row["dtype"] for pair in pairs for row in pair}
        if (
            not is_all
            or len(dtypes) > 1
            or set(_members(stage.left[0])) & set(_members(stage.right[0]))
        ):
            continue
        if any(one.get("pixels", "") != two.get("pixels") for one, two in pairs):
            continue
        shapes = [pair["shape"] for pair in pairs[0]]
        cause = "images-rearranged" if shapes[0] == shapes[1] else "images-transposed"
        words = "batches have the same labels and the same pixels, which stand elsewhere"
        words += "" if shapes[0] == shapes[1] else f": {shapes[1]} for {shapes[0]}"
        found.append(Diagnosis(cause, stage.name, f"{stage.name}: {words}"))
    return found
