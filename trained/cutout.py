"""What stands out in a picture, cut out in the form of the data set: light on black, 28 × 28, grey.

Fashion-MNIST's own images were made so from photographs (Xiao, Rasul and Vollgraf, 2017):
trimmed to the object, its longer side resized to 28 pixels, centred on the canvas, negated, grey,
and stretched: each of the 70,000 has a pixel of 254 or 255.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

Array = np.ndarray[Any, Any]

SIZE = 28
"""Height and width of the data set's images, in pixels."""
WORKING_SIDE = 512
"""Pixels of the longer side, to within a factor of two, that a larger picture is reduced to."""
FAINTEST = 8
"""Grey levels by which an object stands out at least; noise of the border may ask for more."""
NOISE_SPREADS = 4
"""Median distances from the border's median that count as noise: 2.7 standard deviations."""
CUT_ALREADY = 1 / 8
"""Least share of the border that is black, or white, where 28 × 28 pixels are a cut image.

Of the data set's 70,000 images the least is 0.139 black, the most 0.120 white.
"""
SPECK = 1 / 50
"""A thing that is smaller than this share of the largest is left out."""
PATCH = 1 / 100
"""On a ground with noise, what stands out faintly must be at least this share of the picture."""
NEAR = 1 / 100
"""Things that are this share of the longer side apart are one."""
AT_EDGE = 1 / 50
"""Least share of the picture's border that an object reaching the edge covers."""
FILLED = 0.95
"""Least share of the box's outline that a rectangle covers."""


class NothingStandsOutError(ValueError):
    """A picture in which nothing differs from its background."""


@dataclass(frozen=True)
class Cutout:
    """An object in the data set's form, and where in the picture it was found."""

    seen: Array
    """uint8 (28, 28)."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of what was taken as the object, as shares of the picture."""
    notes: tuple[str, ...] = ()
    """What may be wrong with it."""


@dataclass(frozen=True)
class _Ground:
    """The background, as the picture's border shows it."""

    level: float
    noise: float
    """Distance from the level up to which a pixel may be background; 0 is an even ground."""


def cut_out(grey: Array, background: str = "auto") -> Cutout:
    """Return what stands out from the background of `grey`, uint8 (H, W).

    `background` is `light`, `dark`, or `auto`: the object is lighter or darker than the border's
    usual level, whichever more of the picture is. 28 × 28 pixels with a black or a white
    ground are taken to be cut already: of them only a light background is changed.

    Raises:
        NothingStandsOutError: nothing does.
    """
    if grey.shape == (SIZE, SIZE) and (is_light := _ground_of_cut(grey)) is not None:
        if background != "auto":
            is_light = background == "light"
        return Cutout(255 - grey if is_light else grey, (0.0, 0.0, 1.0, 1.0))
    levels = _reduced(grey)
    if _noise_of(_border(levels)):
        levels = np.asarray(Image.fromarray(levels).filter(ImageFilter.MedianFilter(5)))
    ground = _ground_of(levels, background)
    heights = levels.astype(np.float32) - ground.level
    if background == "light" or (background == "auto" and _is_darker(heights, ground)):
        heights = -heights
    labels, kept = _things(heights, ground)
    mask = np.isin(labels, kept)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    crop = np.where(mask, heights, 0)[top:bottom, left:right]
    height, width = mask.shape
    return Cutout(
        _centred(crop),
        (float(left / width), float(top / height), float(right / width), float(bottom / height)),
        _notes(mask, mask[top:bottom, left:right], len(kept)),
    )


def _ground_of_cut(grey: Array) -> bool | None:
    """Return whether an image of 28 × 28 lies on white, not on black; None where on neither."""
    if np.ptp(grey) < FAINTEST:
        return None
    border = _border(grey)
    black, white = np.mean(border <= FAINTEST), np.mean(border >= 255 - FAINTEST)
    return None if max(black, white) < CUT_ALREADY else bool(white > black)


def _border(grey: Array) -> Array:
    return np.concatenate((grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1])).astype(np.float64)


def _reduced(grey: Array) -> Array:
    """Average squares of pixels where there are many more than the data set's form has."""
    factor = max(grey.shape) // WORKING_SIDE
    return grey if factor < 2 else np.asarray(Image.fromarray(grey).reduce(factor))


def _noise_of(border: Array) -> float:
    return NOISE_SPREADS * float(np.median(np.abs(border - np.median(border))))


def _ground_of(levels: Array, background: str) -> _Ground:
    """Take the border for background; where this is stated to be light or dark, that part of it.

    So an object that covers half of the border can be cut out once its background is stated.
    """
    border = _border(levels)
    if background != "auto":
        middle = (float(levels.min()) + float(levels.max())) / 2
        stated = border[border >= middle if background == "light" else border <= middle]
        if len(stated) >= len(border) / 10:
            border = stated
    return _Ground(float(np.median(border)), _noise_of(border))


def _is_darker(heights: Array, ground: _Ground) -> bool:
    """Return whether more stands out below the ground's level than above it."""
    faintest = max(FAINTEST, ground.noise)
    above, below = heights[heights >= faintest].sum(), -heights[heights <= -faintest].sum()
    return bool(below > above)


def _things(heights: Array, ground: _Ground) -> tuple[Array, Array]:
    """Return a number (H, W) for each pixel of a thing that stands out, and the things' numbers.

    Raises:
        NothingStandsOutError: there is none.
    """
    strong = heights[heights >= max(FAINTEST, ground.noise)]
    if not len(strong):
        raise NothingStandsOutError
    # Once something stands out, so do its parts that are as faint as the data set's are.
    mask = heights >= max(ground.noise, FAINTEST * float(np.quantile(strong, 0.99)) / 255, 1)
    joined = ndimage.maximum_filter(mask, 2 * round(NEAR * max(mask.shape)) + 1)
    labels = np.where(mask, ndimage.label(joined)[0], 0)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    is_thing = sizes > 0
    if ground.noise:  # texture has its own outliers
        peaks = ndimage.maximum(heights, labels, np.arange(len(sizes)))
        is_thing &= (sizes >= PATCH * mask.size) | (peaks >= 2 * max(FAINTEST, ground.noise))
    if not is_thing.any():
        raise NothingStandsOutError
    return labels, np.flatnonzero(is_thing & (sizes >= SPECK * np.max(sizes[is_thing])))


def _centred(heights: Array) -> Array:
    """Resize the longer side to 28 pixels, with antialiasing, centre it, and stretch it to 255."""
    height, width = heights.shape
    scale = SIZE / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    positive = Image.fromarray(np.maximum(heights, 0).astype(np.float32))
    resized = np.asarray(positive.resize(fitted, Image.Resampling.LANCZOS))
    resized = np.clip(resized, 0, heights.max())  # at an edge it swings beyond both sides
    canvas = np.zeros((SIZE, SIZE), np.float32)
    top, left = ((SIZE - side) // 2 for side in resized.shape)
    canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return np.rint(canvas * (255 / np.max(canvas))).astype(np.uint8)


def _notes(mask: Array, inside: Array, num_things: int) -> tuple[str, ...]:
    """Say what makes doubtful that the object alone was cut out."""
    notes = []
    if _border(inside).mean() >= FILLED:
        notes.append("a whole rectangle stands out, as of a frame or a screen")
    elif _border(mask).mean() >= AT_EDGE:
        notes.append("what stands out reaches the picture's edge")
    if num_things > 1:
        notes.append(f"{num_things} separate things stand out and are taken as one")
    return tuple(notes)
