"""A shoe in the data set's form, and pictures of it."""

import numpy as np
from PIL import Image

from trained.cutout import cut_out
from trained.photos import read_photo

SHOE = np.zeros((28, 28), np.uint8)
"""A light object on black, touching all four sides and stretched, as the data set's are."""
SHOE[12:28, 0:28] = 115
SHOE[0:20, 18:26] = 255
SHOE.setflags(write=False)


def saved(path, image, mode="L", **options):
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    (picture if picture.mode == mode else picture.convert(mode)).save(path, **options)
    return path


def data_set_form(grey, background="auto"):
    return cut_out(grey, background).seen


def seen_in(path, background="auto"):
    return read_photo(path, background).cutout.seen


def on_paper(image, side=300, scale=7):
    """The object dark, enlarged, on a larger white sheet, away from its middle."""
    large = Image.fromarray(image).resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC)
    sheet = Image.new("L", (side, side), 0)
    sheet.paste(large, (20, 60))
    return 255 - np.asarray(sheet)


def close(seen, wanted, most=12):
    return np.abs(seen.astype(int) - wanted).mean() < most
