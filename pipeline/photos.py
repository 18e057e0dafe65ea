"""A person's own pictures in the form of the data set: light on black, 28 × 28, grey.

Fashion-MNIST's own images were made so from photographs (Xiao, Rasul and Vollgraf, 2017):
trimmed to the object, its longer side resized to 28 pixels, centred on the canvas, negated, grey.
"""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps, ImageStat, UnidentifiedImageError

from portproof.files import read_limited

Array = np.ndarray[Any, Any]

SIZE = 28
"""Height and width of the data set's images, in pixels."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
"""What is taken from a folder; a file that is named is read whatever it is called."""
BACKGROUNDS = ("auto", "light", "dark")
MAX_FILE_BYTES = 128 * 1024 * 1024
MAX_PIXELS = 64_000_000
"""Of one picture: a quarter of a gigabyte in colour."""
WORKING_SIDE = 1024
"""Pixels of the longer side, to within a factor of two, that a larger picture is reduced to."""
SHOWN_SIDE = 160
"""Longer side of what is kept of the original, to show it, in pixels."""
LIGHT = 128
"""Grey level from which a background is light."""
FAINTEST = 8
"""Grey levels by which an object stands out at least; noise of the border may ask for more."""

NOISE_SPREADS = 4
"""Median distances from the border's median that count as noise: 2.7 standard deviations."""


class PhotoError(ValueError):
    """A file that is no picture or cannot be read as one; says why."""


@dataclass(frozen=True)
class Photo:
    """One picture."""

    path: Path
    original: Array | None
    """A small copy as a person sees it, uint8 (h, w, 3); None where it is not kept."""
    seen: Array
    """What the network is shown, uint8 (28, 28)."""


def find_pictures(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files among `paths`, and in folders, sorted, all that are named like pictures."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            files = (Path(folder, name) for name in sorted(names))
            yield from (file for file in files if file.suffix.lower() in SUFFIXES)


def read_photo(path: Path, background: str = "auto") -> Photo:
    """Read a picture and bring it into the data set's form.

    Raises:
        PhotoError: missing, empty, not a picture, broken, or too large; checked before any pixel
            is decoded.
    """
    picture = _decode(path)
    return Photo(path, _small_copy(picture), data_set_form(_grey(picture), background))


def data_set_form(grey: Array, background: str = "auto") -> Array:
    """Return `grey`, uint8 (H, W), as uint8 (28, 28): the object light, on black, centred.

    A picture of 28 × 28 is taken to be cut already: of it only a light background is changed.
    """
    if background == "light" or (background == "auto" and has_light_background(grey)):
        grey = 255 - grey
    if grey.shape == (SIZE, SIZE):
        return grey
    grey, noise = _black_ground(_reduced(grey))
    return _centred(_trimmed(grey, noise))


def has_light_background(grey: Array) -> bool:
    """Return whether most of the border, of uint8 (H, W), is light."""
    return bool(np.median(_border(grey)) >= LIGHT)


def _border(grey: Array) -> Array:
    return np.concatenate((grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]))


def _reduced(grey: Array) -> Array:
    """Average squares of pixels where there are many more than the data set's form has."""
    factor = max(grey.shape) // WORKING_SIDE
    return grey if factor < 2 else np.asarray(Image.fromarray(grey).reduce(factor))


def _black_ground(grey: Array) -> tuple[Array, int]:
    """Stretch grey levels so that the border's usual one is 0, and what is noise there too.

    Returns the picture, and the level up to which the border is noise.
    """
    border = _border(grey).astype(np.float64)
    level = float(np.median(border))
    noise = int(NOISE_SPREADS * np.median(np.abs(border - level)))
    stretched = (grey.astype(np.float32) - level) * (255 / max(255 - level, 1.0))
    stretched[stretched < noise] = 0
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8), noise


def _trimmed(grey: Array, noise: int) -> Array:
    """Cut off the edges on which nothing stands out; all of it where nothing does."""
    smooth = Image.fromarray(grey).filter(ImageFilter.MedianFilter(5)) if noise else grey
    stands_out = np.asarray(smooth) >= max(FAINTEST, noise)
    rows, columns = (np.flatnonzero(stands_out.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return grey
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centred(grey: Array) -> Array:
    """Resize the longer side to 28 pixels, with antialiasing, and centre it on black."""
    height, width = grey.shape
    scale = SIZE / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = np.asarray(Image.fromarray(grey).resize(fitted, Image.Resampling.LANCZOS))
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    top, left = ((SIZE - side) // 2 for side in resized.shape)
    canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return canvas


def _decode(path: Path) -> Image.Image:
    """Return the first frame, decoded and turned upright."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PhotoError(f"it is larger than the {MAX_FILE_BYTES:,} bytes that are read")
        content = read_limited(path, size)
        if not content:
            raise PhotoError("it is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the size is checked below
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise PhotoError(
                    f"it has {picture.width:,} × {picture.height:,} pixels; "
                    f"at most {MAX_PIXELS:,} are decoded"
                )
            picture.load()
            return ImageOps.exif_transpose(picture)
    except PhotoError:
        raise
    except FileNotFoundError as error:
        raise PhotoError("there is no such file") from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"it is not a picture in {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(f"it has too many pixels; at most {MAX_PIXELS:,} are decoded") from error
    except OSError as error:
        raise PhotoError(f"it cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a broken file makes Pillow raise whatever it met
        raise PhotoError(f"it is broken: {error}") from error


def _grey(picture: Image.Image) -> Array:
    """Return the picture as uint8 (H, W), transparency on a ground that contrasts with the rest."""
    if picture.mode.startswith(("I", "F")):  # 16 bits, or numbers without a range of their own
        return _deep_grey(np.asarray(picture), is_16_bit=picture.mode.startswith("I;16"))
    if not picture.has_transparency_data:
        return np.asarray(_rgb(picture).convert("L"))
    levels, alpha = picture.convert("RGBA").convert("LA").split()
    ground = 255
    if alpha.getbbox():
        ground = 0 if ImageStat.Stat(levels, mask=alpha).mean[0] >= LIGHT else 255
    return np.asarray(Image.composite(levels, Image.new("L", levels.size, ground), alpha))


def _deep_grey(levels: Array, is_16_bit: bool) -> Array:
    """Scale levels (H, W) to uint8; those of no stated range by the usual one that holds them."""
    levels = levels.astype(np.float32)
    low, high = float(levels.min()), float(levels.max())
    if not np.isfinite((low, high)).all():
        raise PhotoError("it holds levels that are not finite")
    if low >= 0:
        usual = [65535.0] if is_16_bit else [1.0, 255.0, 65535.0]
        low, high = 0.0, next((limit for limit in usual if high <= limit), high)
    return np.rint((levels - low) * (255 / ((high - low) or 1))).astype(np.uint8)


def _rgb(picture: Image.Image) -> Image.Image:
    """Return a picture that has a grey version of its own, or its RGB one."""
    if picture.mode == "LAB":  # lightness is grey already
        return picture.getchannel("L")
    return picture if picture.mode in {"1", "L", "RGB"} else picture.convert("RGB")


def _small_copy(picture: Image.Image) -> Array:
    """Return what a person sees, uint8 (h, w, 3), transparency on white."""
    if picture.mode.startswith(("I", "F")) or picture.mode == "LAB":
        picture = Image.fromarray(_grey(picture))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    picture = picture.copy()
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return np.asarray(picture.convert("RGB"))
