"""A person's own pictures, read from files and brought into the form of the data set.

What a file holds says its content, not its name.
"""

import importlib.util
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

from ladder.files import read_limited
from trained.cutout import Cutout, NothingStandsOutError, cut_out

Array = np.ndarray[Any, Any]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of what is read everywhere; AVIF and HEIC are where their decoders are."""
SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8",
    "BMP": rb"BM....\0\0\0\0",
    "TIFF": rb"II\*\0|MM\0\*",
    "AVIF": rb"....ftypavi[fs]",
    "HEIC": rb"....ftyp(hei|hev|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
}
"""How the content of a file begins, by format."""
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".heic", ".heif", ".avif", ".jxl",
)  # fmt: skip
"""A file in a folder that is named so is tried, whatever its content is."""
MAX_FILE_BYTES = 128 * 1024 * 1024
MAX_PIXELS = 64_000_000
"""Of one picture, as decoded: a quarter of a gigabyte in colour."""
MAX_JPEG_PIXELS = 256_000_000
"""Of a JPEG that is reduced while it is decoded."""
DRAFT_SIDE = 1024
"""Longer side, in pixels, that a JPEG is reduced to at most."""
SHOWN_SIDE = 160
"""Longer side of what is kept of the original, to show it, in pixels."""
LIGHT = 128
"""Grey level from which what is not transparent is light."""
BIT_DEPTHS = (8, 10, 12, 14, 16)


class PhotoError(ValueError):
    """A file that is no picture or cannot be read as one; says why."""


@dataclass(frozen=True)
class Photo:
    """One picture."""

    path: Path
    original: Array | None
    """A small copy as a person sees it, uint8 (h, w, 3); None where it is not kept."""
    cutout: Cutout
    """What the network is shown, and where in the picture it is."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read and cut out."""


def find_pictures(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the pictures that `paths` name, and the other files of their folders, sorted.

    A file that is named is taken for a picture. In a folder, content decides; hidden files and
    folders are passed over.
    """
    pictures: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if not path.is_dir():
            pictures.append(path)
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for file in (Path(folder, name) for name in sorted(names) if name[0] != "."):
                if file.is_file():  # opening a pipe would wait for its other end
                    (pictures if _is_picture(file) else others).append(file)
    return pictures, others


def read_photo(path: Path, background: str = "auto") -> Photo:
    """Read a picture and bring it into the data set's form.

    Raises:
        PhotoError: missing, empty, not a picture, broken, too large (checked before any pixel is
            decoded), or with nothing in it.
    """
    picture, is_deep = _decode(path)
    grey, notes = _grey(picture, is_deep)
    try:
        cutout = cut_out(grey, background)
    except NothingStandsOutError as error:
        raise PhotoError(
            "nothing stands out from the background; try --background"
            if background == "auto"
            else f"nothing stands out from a {background} background"
        ) from error
    shown = Image.fromarray(grey) if notes else picture
    return Photo(path, _small_copy(shown), cutout, (*notes, *cutout.notes))


def format_of(content: bytes) -> str:
    """Return the name of the picture format that a file's first bytes show; empty for none."""
    return next(
        (name for name, start in SIGNATURES.items() if re.match(start, content, re.DOTALL)), ""
    )


def _is_picture(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return bool(format_of(file.read(16)))
    except OSError:
        return False


def _decode(path: Path) -> tuple[Image.Image, bool]:
    """Return the first frame, decoded and turned upright, a large JPEG reduced.

    The second value says whether its file holds 16 bits of each colour.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PhotoError(f"it is larger than the {MAX_FILE_BYTES:,} bytes that are read")
        content = read_limited(path, size)
        if not content:
            raise PhotoError("it is empty")
        with warnings.catch_warnings(), _own_limits():
            warnings.simplefilter("ignore")  # of odd metadata; the size is checked below
            found = format_of(content)
            picture = Image.open(io.BytesIO(content), formats=_formats(found))
            _check_size(
                picture, MAX_JPEG_PIXELS if _is_decoded_by_rows(picture, content) else MAX_PIXELS
            )
            picture.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
            _check_size(picture, MAX_PIXELS)
            is_deep = any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))
            picture.load()
            return ImageOps.exif_transpose(picture), is_deep
    except PhotoError:
        raise
    except FileNotFoundError as error:
        raise PhotoError("there is no such file") from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"it is not a picture in {', '.join(FORMATS)}") from error
    except OSError as error:
        raise PhotoError(f"it cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a broken file makes Pillow raise whatever it met
        raise PhotoError(f"it is broken: {error}") from error


def _formats(found: str) -> tuple[str, ...]:
    """Return Pillow's names of the formats that may be read, given what the content shows.

    Raises:
        PhotoError: a known format without a decoder here; says where one is to be had.
    """
    if found == "HEIC":
        if importlib.util.find_spec("pillow_heif") is None:
            raise PhotoError(
                "it is HEIC, which needs pip install 'keras-lightning-parity[heic]'; "
                "or save it as JPEG"
            )
        import pillow_heif

        pillow_heif.register_heif_opener()
        return ("HEIF",)
    if found == "AVIF" and features.check("avif"):
        return ("AVIF",)
    if found in {"AVIF", "JPEG XL"}:
        raise PhotoError(f"it is {found}, which is not read here; save it as JPEG or PNG")
    return FORMATS


@contextmanager
def _own_limits() -> Iterator[None]:
    """Let Pillow open what `_check_size` allows; its own limit is below a telephone's pictures."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _is_decoded_by_rows(picture: Image.Image, content: bytes) -> bool:
    """Return whether a picture is a JPEG of one scan; of more, all coefficients are in memory."""
    if not isinstance(picture, JpegImageFile) or picture.info.get("progressive"):
        return False
    place = 2
    while content[place : place + 1] == b"\xff":
        if content[place + 1 : place + 2] == b"\xda":  # the scan, and how many colours it holds
            return content[place + 4 : place + 5] == bytes([picture.layers])
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return False


def _check_size(picture: Image.Image, most: int) -> None:
    if picture.width * picture.height > most:
        raise PhotoError(
            f"it has {picture.width:,} × {picture.height:,} pixels; at most {most:,} are read "
            f"(of a JPEG that is not progressive {MAX_JPEG_PIXELS:,}); save it smaller"
        )


def _grey(picture: Image.Image, is_deep: bool) -> tuple[Array, tuple[str, ...]]:
    """Return the picture as uint8 (H, W), transparency on a ground that contrasts with the rest.

    `is_deep` says that its file has 16 bits a colour. The second value is what to know of that.
    """
    if picture.mode.startswith(("I", "F")):  # 16 bits, or numbers without a range of their own
        return _scaled(np.asarray(picture), picture.mode.startswith("I;16"))
    if picture.has_transparency_data:
        levels, alpha = picture.convert("RGBA").convert("LA").split()
        ground = 255
        if alpha.getbbox():
            ground = 0 if ImageStat.Stat(levels, mask=alpha).mean[0] >= LIGHT else 255
        return np.asarray(Image.composite(levels, Image.new("L", levels.size, ground), alpha)), ()
    if picture.mode == "LAB":  # lightness is grey already
        picture = picture.getchannel("L")
    elif picture.mode not in {"1", "L", "RGB"}:  # without a grey version of its own
        picture = picture.convert("RGB")
    grey = np.asarray(picture.convert("L"))
    return _scaled(grey * 257.0, True) if is_deep else (grey, ())  # Pillow keeps the upper 8 bits


def _scaled(levels: Array, is_16_bit: bool) -> tuple[Array, tuple[str, ...]]:
    """Scale levels (H, W) to uint8, by the fewest bits of `BIT_DEPTHS` that hold the largest.

    Many cameras write 10 or 12 bits into files of 16, which don't say so. Where no range is stated
    at all, levels up to 1 are shares of white.
    """
    levels = levels.astype(np.float32)
    low, high = float(levels.min()), float(levels.max())
    if not np.isfinite((low, high)).all():
        raise PhotoError("it holds levels that are not finite")
    bits = next((bits for bits in BIT_DEPTHS if high < 2**bits), None)
    notes: tuple[str, ...] = ()
    if low < 0 or bits is None:
        black, white = low, high
    elif high <= 1 and not is_16_bit:
        black, white = 0.0, 1.0
    else:
        black, white = 0.0, 2.0**bits - 1
        if is_16_bit and bits < 16:
            notes = (f"its 16-bit levels use {bits} bits and are read so",)
    return np.rint((levels - black) * (255 / ((white - black) or 1))).astype(np.uint8), notes


def _small_copy(picture: Image.Image) -> Array:
    """Return what a person sees, uint8 (h, w, 3), transparency on white."""
    if picture.mode.startswith(("I", "F")) or picture.mode == "LAB":
        picture = Image.fromarray(_grey(picture, False)[0])
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    picture = picture.copy()
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return np.asarray(picture.convert("RGB"))
