"""What stands out in a picture, cut out and in the data set's form."""

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import load_dataset
from tests.trained.shoes import SHOE, close, data_set_form, on_paper, saved, seen_in
from trained.cutout import NothingStandsOutError, cut_out
from trained.photos import PhotoError, read_photo

INK = 40


def test_every_test_image_keeps_every_bit_and_comes_back_from_its_negative(real_data):
    images = load_dataset(real_data).test_images
    forms = zip(images, map(data_set_form, images), (data_set_form(255 - x) for x in images),
                strict=True)  # fmt: skip
    assert all(np.array_equal(x, a) and np.array_equal(x, b) for x, a, b in forms)


def test_what_is_asked_for_overrules_the_border():
    assert np.array_equal(data_set_form(SHOE, "light"), 255 - SHOE)
    assert np.array_equal(data_set_form(255 - SHOE, "dark"), 255 - SHOE)


def test_an_object_anywhere_on_a_sheet_is_cut_out(tmp_path):
    seen = seen_in(saved(tmp_path / "a.png", on_paper(SHOE)))
    assert close(seen, SHOE)
    dark = seen_in(saved(tmp_path / "b.png", 255 - on_paper(SHOE)))
    assert np.array_equal(seen, dark)


def test_noise_of_the_paper_does_not_hide_the_object(tmp_path):
    noise = np.random.default_rng(0).normal(0, 6, (300, 300))
    sheet = np.clip(on_paper(SHOE) * (225 / 255) + noise, 0, 255).astype(np.uint8)
    assert close(seen_in(saved(tmp_path / "a.jpg", sheet, quality=80)), SHOE, 16)


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (1, 300), (300, 1), (1, 1)])
def test_proportions_are_kept_and_the_object_is_in_the_middle(height, width):
    sheet = np.full((500, 500), 255, np.uint8)
    sheet[30 : 30 + height, 40 : 40 + width] = INK
    seen = data_set_form(sheet)
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    longer = max(height, width)
    assert len(rows) == max(1, round(28 * height / longer))
    assert len(columns) == max(1, round(28 * width / longer))
    for places in (rows, columns):
        assert abs(places[0] - (27 - places[-1])) <= 1


def test_a_resize_without_antialiasing_would_be_seen():
    stripes = np.full((560, 560), 255, np.uint8)
    stripes[20:540, 20:540:2] = 0  # every second column dark: grey when averaged
    stripes[20:60, 20:540] = 0
    middle = data_set_form(stripes)[5:-5, 5:-5]
    assert (np.abs(middle.astype(int) - 127) < 20).all()


def grain(level, spread, shape=(300, 300), seed=0):
    """A ground of wood: stripes that wander, and noise."""
    random = np.random.default_rng(seed)
    low = Image.fromarray(random.normal(0, 1, (5, 40)).astype(np.float32))
    low = np.asarray(low.resize(shape[::-1], Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    stripes = np.sin(2 * np.pi * (columns / 23 + 0.6 * low + rows / 900)) + 0.6 * low
    return level + spread * (stripes + random.normal(0, 0.4, shape))


def laid_on(ground, shoe, level):
    """The object on a ground (300, 300): `level` where it is lightest in the data set's form."""
    large = Image.fromarray(shoe).resize((196, 196), Image.Resampling.BICUBIC)
    share = np.asarray(large, np.float32) / 255
    sheet = np.array(ground, np.float32)
    part = sheet[60:256, 40:236]
    part += share * (level - np.median(ground))
    return np.clip(np.rint(sheet), 0, 255).astype(np.uint8)


GREYS = (0, 36, 73, 109, 146, 182, 219, 255)
GROUNDS = (20, 56, 92, 128, 164, 200, 236)


@pytest.mark.parametrize(("texture", "contrast", "most"), [("even", 8, 6), ("wood", 60, 20)])
def test_any_object_that_differs_from_its_ground_is_light_on_black(texture, contrast, most):
    gaps = {}
    for ground in GROUNDS:
        sheet = grain(ground, 8) if texture == "wood" else np.full((300, 300), ground)
        for level in GREYS:
            if abs(level - ground) >= contrast:
                seen = data_set_form(laid_on(sheet, SHOE, level)).astype(int)
                gaps[level, ground] = np.abs(seen - SHOE).mean()
    assert len(gaps) >= 30
    assert max(gaps.values()) < most, gaps


NOTHING = {
    "black": np.zeros((50, 70)),
    "white, in the data set's size": np.full((28, 28), 255.0),
    "five levels": np.pad(np.full((90, 90), 250.0), 50, constant_values=255),
    "noise": np.random.default_rng(0).normal(200, 9, (300, 300)),
    "wood": grain(120, 12),
}


@pytest.mark.parametrize("what", NOTHING)
def test_where_nothing_stands_out_there_is_no_object(what, tmp_path):
    blank = np.clip(NOTHING[what], 0, 255).astype(np.uint8)
    with pytest.raises(NothingStandsOutError):
        cut_out(blank)
    path = saved(tmp_path / "a.png", blank)
    with pytest.raises(PhotoError, match="from the background; try --background"):
        read_photo(path)
    blank[10:20, 5:25] = 255 - blank[10:20, 5:25]
    if min(blank.shape) > 28 and what != "five levels":
        blank[50:90, 10:60] = 255 - blank[50:90, 10:60] if blank.mean() < 100 else 0
    assert cut_out(blank).seen.max() == 255


def test_an_object_on_half_of_the_border_needs_its_background_stated(tmp_path):
    shirt = np.full((200, 200), 240, np.uint8)
    shirt[60:140] = 60
    shirt[30:170, 60:140] = 60  # 160 of 796 pixels of the border
    shirt[:, :40] = 60  # and a wall, 240 more, which is as dark
    path = saved(tmp_path / "a.png", shirt)
    light = seen_in(path, "light")
    assert light[14, 14] == 255
    assert light[1, 26] == 0
    with pytest.raises(PhotoError, match="nothing stands out from a light background"):
        read_photo(saved(tmp_path / "b.png", np.full((50, 50), 255, np.uint8)), "light")


def test_what_was_taken_as_the_object_is_told_and_its_doubts_said():
    sheet = on_paper(SHOE)
    plain = cut_out(sheet)
    assert plain.notes == ()
    assert plain.box == pytest.approx((20 / 300, 60 / 300, 216 / 300, 256 / 300), abs=0.02)
    stamped = sheet.copy()
    stamped[280:295, 230:290] = 0
    assert cut_out(stamped).notes == ("2 separate things stand out and are taken as one",)
    assert cut_out(stamped).box[2:] == pytest.approx((290 / 300, 295 / 300), abs=0.01)
    framed = np.pad(sheet, 20, constant_values=30)
    assert cut_out(framed).notes == ("a whole rectangle stands out, as of a frame or a screen",)
    assert cut_out(sheet[:, 40:]).notes == ("what stands out reaches the picture's edge",)
    dusty = sheet.copy()
    dusty[5:8, 5:8] = dusty[290:293, 290:293] = 0
    assert np.array_equal(cut_out(dusty).seen, plain.seen)
