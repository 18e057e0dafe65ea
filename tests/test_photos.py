import io
import os
import struct
import tracemalloc
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets import load_dataset
from tests.edits import HYPOTHESIS
from tests.parsers import plain_png
from trained import photos
from trained.cutout import SIZE, NothingStandsOutError, cut_out
from trained.photos import PhotoError, find_pictures, read_photo

INK, PAPER = 40, 250


@pytest.fixture
def shoe():
    """A light object on black, touching all four sides and stretched, as the data set's are."""
    image = np.zeros((28, 28), np.uint8)
    image[12:28, 0:28] = 115
    image[0:20, 18:26] = 255
    return image


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


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif", "webp"])
def test_an_image_of_the_data_set_keeps_every_bit(kind, shoe, tmp_path):
    options = {"lossless": True} if kind == "webp" else {}
    path = saved(tmp_path / f"a.{kind}", shoe, **options)
    assert np.array_equal(seen_in(path), shoe)


def test_every_test_image_keeps_every_bit_and_comes_back_from_its_negative(real_data):
    images = load_dataset(real_data).test_images
    forms = zip(images, map(data_set_form, images), (data_set_form(255 - x) for x in images),
                strict=True)  # fmt: skip
    assert all(np.array_equal(x, a) and np.array_equal(x, b) for x, a, b in forms)


def test_what_is_asked_for_overrules_the_border(shoe):
    assert np.array_equal(data_set_form(shoe, "light"), 255 - shoe)
    assert np.array_equal(data_set_form(255 - shoe, "dark"), 255 - shoe)


# What Pillow writes; 16 bits only where it keeps them.
MODES = {
    "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "jpeg": ["1", "L", "RGB", "CMYK", "YCbCr"],
    "webp": ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"],
    "gif": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "bmp": ["1", "L", "P", "RGB", "RGBA"],
    "tiff": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "LAB"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in MODES for mode in MODES[kind]])
def test_every_mode_of_every_format_is_read(mode, kind, shoe, tmp_path):
    sheet = Image.fromarray(on_paper(shoe))
    if mode == "LAB":
        flat = Image.new("L", sheet.size, 128)
        picture = Image.merge("LAB", [sheet, flat, flat])
    elif mode == "I;16":
        picture = Image.fromarray(np.asarray(sheet).astype(np.uint16) * 257)
    elif mode in {"CMYK", "YCbCr"}:
        picture = sheet.convert("RGB").convert(mode)
    else:
        picture = sheet.convert("P").convert("PA") if mode == "PA" else sheet.convert(mode)
    path = tmp_path / f"a.{kind}"
    picture.save(path, kind.upper())
    wanted = data_set_form(on_paper(shoe))
    assert close(seen_in(path), wanted, 30 if mode == "1" else 12)


def test_an_object_anywhere_on_a_sheet_is_cut_out(shoe, tmp_path):
    seen = seen_in(saved(tmp_path / "a.png", on_paper(shoe)))
    assert close(seen, shoe)
    dark = seen_in(saved(tmp_path / "b.png", 255 - on_paper(shoe)))
    assert np.array_equal(seen, dark)


def test_noise_of_the_paper_does_not_hide_the_object(shoe, tmp_path):
    noise = np.random.default_rng(0).normal(0, 6, (300, 300))
    sheet = np.clip(on_paper(shoe) * (225 / 255) + noise, 0, 255).astype(np.uint8)
    assert close(seen_in(saved(tmp_path / "a.jpg", sheet, quality=80)), shoe, 16)


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
def test_any_object_that_differs_from_its_ground_is_light_on_black(texture, contrast, most, shoe):
    gaps = {}
    for ground in GROUNDS:
        sheet = grain(ground, 8) if texture == "wood" else np.full((300, 300), ground)
        for level in GREYS:
            if abs(level - ground) >= contrast:
                seen = data_set_form(laid_on(sheet, shoe, level)).astype(int)
                gaps[level, ground] = np.abs(seen - shoe).mean()
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
def test_where_nothing_stands_out_there_is_no_object(what, shoe, tmp_path):
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


def test_a_photo_is_turned_upright(shoe, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    lying = np.rot90(on_paper(shoe))
    path = saved(tmp_path / "a.png", np.ascontiguousarray(lying), exif=exif)
    assert np.array_equal(seen_in(path), data_set_form(on_paper(shoe)))


@pytest.mark.parametrize("level", [30, 225])
def test_transparency_lies_on_what_contrasts(level, tmp_path):
    drawn = np.zeros((90, 90, 4), np.uint8)
    drawn[20:70, 30:60] = (level, level, level, 255)
    path = saved(tmp_path / "a.png", Image.fromarray(drawn), "RGBA")
    seen = seen_in(path)
    assert seen[14, 14] > 200
    assert seen[14, 1] == 0


def test_in_a_wholly_transparent_picture_nothing_stands_out(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGBA", (40, 40), (200, 10, 10, 0)), "RGBA")
    with pytest.raises(PhotoError, match="nothing stands out"):
        read_photo(path)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_levels_of_fewer_bits_in_a_file_of_16_are_read_as_these(bits, kind, shoe, tmp_path):
    sheet = on_paper(shoe)
    deep = np.rint(sheet / 255.0 * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{kind}")
    photo = read_photo(tmp_path / f"a.{kind}")
    assert close(photo.cutout.seen, data_set_form(sheet), 2)
    said = [f"its 16-bit levels use {bits} bits and are read so"] if bits < 16 else []
    assert [note for note in photo.notes if "16-bit" in note] == said


def test_colours_of_ten_bits_in_a_png_of_16_are_read_as_these(shoe, tmp_path):
    sheet = on_paper(shoe)
    deep = np.rint(sheet / 255.0 * 1023).astype(">u2")
    rows = np.repeat(deep[..., np.newaxis], 3, axis=2).reshape(300, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    (tmp_path / "a.png").write_bytes(png_of(300, 300, zlib.compress(data), depth=16, colour=2))
    photo = read_photo(tmp_path / "a.png")
    assert "its 16-bit levels use 10 bits and are read so" in photo.notes
    assert close(photo.cutout.seen, data_set_form(sheet), 20)  # Pillow keeps 2 of the 10
    assert photo.original.max() > 180


def test_of_an_animation_the_first_frame_is_taken(shoe, tmp_path):
    frames = [Image.fromarray(shoe), Image.fromarray(255 - shoe)]
    for kind in ("gif", "webp", "png", "tiff"):
        options = {"lossless": True} if kind == "webp" else {}
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(seen_in(tmp_path / f"a.{kind}"), shoe)


def png_of(width, height, *data, other_chunks=(), depth=8, colour=0):
    """A PNG, grey, that says it is `width` × `height`; each chunk has its checksum."""

    def chunk(kind, content):
        word = kind + content
        return struct.pack(">I", len(content)) + word + struct.pack(">I", zlib.crc32(word))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *other_chunks, *((b"IDAT", part) for part in data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize("side", [9_000, 30_000, 60_000])
def test_a_decompression_bomb_is_refused_before_memory_is_taken(side, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(side, side, zlib.compress(bytes(200_000))))
    tracemalloc.start()
    with pytest.raises(PhotoError, match="at most 64,000,000"):
        read_photo(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@HYPOTHESIS
@given(
    filters=st.lists(st.integers(0, 4), min_size=SIZE, max_size=SIZE),
    unknown=st.none() | st.integers(0, SIZE - 3),
    seed=st.integers(0, 2**32 - 1),
    level=st.integers(0, 9),
    cuts=st.lists(st.integers(0, 900), max_size=3),
    comment=st.binary(max_size=20),
    num_rows=st.integers(SIZE - 2, SIZE + 2),
)
def test_a_png_made_by_another_hand_is_what_it_says_or_refused(
    filters, unknown, seed, level, cuts, comment, num_rows, tmp_path
):
    """Rows with filters of their own, `unknown` with one that there is not; data in any chunks.

    Pillow leaves rows that are missing black.
    """
    random = np.random.default_rng(seed)
    kinds = filters[:num_rows] + [0] * (num_rows - SIZE)
    if unknown is not None:
        kinds[unknown] = 5
    rows = [bytes([kind]) + random.bytes(SIZE) for kind in kinds]

    def png(rows):
        packed = zlib.compress(b"".join(rows), level)
        starts = sorted(min(cut, len(packed)) for cut in cuts)
        parts = [packed[start:end] for start, end in pairwise([0, *starts, len(packed)])]
        return png_of(SIZE, SIZE, *parts, other_chunks=[(b"tEXt", b"Comment\0" + comment)])

    path = tmp_path / "a.png"
    path.write_bytes(png(rows))
    if unknown is not None:
        with pytest.raises(PhotoError, match=r"broken|cannot be read"):
            photos._decode(path)
    else:
        whole = png([*rows, *[bytes(1 + SIZE)] * (SIZE - num_rows)])
        assert np.array_equal(photos._grey(*photos._decode(path))[0], plain_png(whole))


def test_a_large_file_is_refused_unread(tmp_path, monkeypatch, shoe):
    path = saved(tmp_path / "a.png", shoe)
    monkeypatch.setattr(photos, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(PhotoError, match="larger than"):
        read_photo(path)


def test_what_is_no_picture_says_why(tmp_path, shoe):
    whole = io.BytesIO()
    Image.fromarray(on_paper(shoe)).save(whole, "PNG")
    contents = {
        "empty": (b"", "empty"),
        "text": (b"hello", "not a picture"),
        "cut": (whole.getvalue()[:400], "cannot be read|broken"),
        "zeros": (bytes(5000), "not a picture"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PhotoError, match=reason):
            read_photo(tmp_path / name)
    with pytest.raises(PhotoError, match="no such file"):
        read_photo(tmp_path / "nowhere")


def test_any_damage_is_a_picture_or_a_clear_error(tmp_path, shoe):
    random = np.random.default_rng(0)
    path, refused = tmp_path / "a", 0
    for kind in photos.FORMATS:
        content = io.BytesIO()
        Image.fromarray(on_paper(shoe)).save(content, kind)
        for _ in range(60):
            damaged = bytearray(content.getvalue())
            for place in random.integers(len(damaged), size=random.integers(1, 20)):
                damaged[place] = random.integers(256)
            path.write_bytes(damaged[: random.integers(1, len(damaged) + 1)])
            try:
                assert seen_in(path).shape == (28, 28)
            except PhotoError:
                refused += 1
    assert refused > 50


def jpeg(image, **options):
    content = io.BytesIO()
    image.save(content, "JPEG", **options)
    return content.getvalue()


def saying_it_is(side, content):
    """A JPEG whose frame header says that it is `side` pixels high and wide."""
    place = next(
        at for at in range(len(content)) if content[at : at + 2] in (b"\xff\xc0", b"\xff\xc2")
    )
    return content[: place + 5] + struct.pack(">HH", side, side) + content[place + 9 :]


def test_a_photo_of_85_megapixels_is_reduced_while_it_is_decoded(tmp_path):
    large = Image.new("L", (9_220, 9_220), 245)
    large.paste(40, (3000, 2000, 6000, 8000))
    large.paste(245, (3000, 2000, 4000, 6000))
    (tmp_path / "a.jpg").write_bytes(jpeg(large))
    tracemalloc.start()
    seen = seen_in(tmp_path / "a.jpg")
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()
    assert (seen[20, 14], seen[5, 8]) == (255, 0)
    assert close(seen_in(saved(tmp_path / "a.png", large.reduce(10))), seen, 4)


@pytest.mark.parametrize(
    ("side", "options", "reason"),
    [
        (16_001, {}, "at most 256,000,000"),
        (60_000, {}, "at most 256,000,000"),
        (
            8_001,
            {"progressive": True},  # all of it would be in memory
            "^it has 8,001 × 8,001 pixels; at most 64,000,000 are read "
            r"\(of a JPEG that is not progressive 256,000,000\); save it smaller$",
        ),
    ],
)
def test_a_jpeg_that_would_take_too_much_is_refused(side, options, reason, tmp_path):
    path = tmp_path / "bomb.jpg"
    path.write_bytes(saying_it_is(side, jpeg(Image.new("L", (64, 64)), **options)))
    tracemalloc.start()
    with pytest.raises(PhotoError, match=reason):
        read_photo(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_pillows_own_limit_holds_for_others(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of(60_000, 60_000, b""))
    with pytest.raises(PhotoError, match="pixels"):
        read_photo(tmp_path / "a.png")
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")


def heic(image):
    pillow_heif = pytest.importorskip("pillow_heif")
    content = io.BytesIO()
    pillow_heif.from_pillow(image).save(content, quality=90)
    return content.getvalue()


def test_what_is_a_picture_says_its_content_and_not_its_name(shoe, tmp_path, monkeypatch):
    sheet = Image.fromarray(on_paper(shoe)).convert("RGB")
    wanted = seen_in(saved(tmp_path / "a.jpg", sheet, "RGB", quality=95))
    content = io.BytesIO()
    sheet.save(content, "AVIF", quality=95)
    files = {
        "a.HEIC": jpeg(sheet),
        "b.jfif": jpeg(sheet),
        "c": heic(sheet),
        "d.png": content.getvalue(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert close(seen_in(tmp_path / name), wanted, 6), name
    monkeypatch.setattr(photos.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PhotoError, match=r"it is HEIC, which needs pip install .*\[heic\]"):
        read_photo(tmp_path / "c")
    monkeypatch.setattr(photos.features, "check", lambda name: False)
    with pytest.raises(PhotoError, match="it is AVIF, which is not read here; save it as"):
        read_photo(tmp_path / "d.png")


def test_a_folders_pictures_are_told_by_content_and_the_rest_is_named(shoe, tmp_path):
    png = io.BytesIO()
    Image.fromarray(shoe).save(png, "PNG")
    jxl = b"\0\0\0\x0cJXL \r\n\x87\n"
    files = {
        "b/2.png": b"", "b/1": png.getvalue(), "a/x y'.HEIC": b"", "a/._x y'.HEIC": b"",
        "a/3.jxl": jxl,
        "note.txt": b"BMs", "z.txt": png.getvalue(), ".DS_Store": b"",
        ".hidden/1.png": png.getvalue(),
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    os.symlink(tmp_path, tmp_path / "b" / "loop")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    found, others = find_pictures([tmp_path])
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["z.txt", "a/3.jxl", "a/x y'.HEIC", "b/1", "b/2.png"]
    assert others == [tmp_path / "note.txt"]
    with pytest.raises(PhotoError, match="it is JPEG XL, which is not read here"):
        read_photo(tmp_path / "a" / "3.jxl")
    named = [tmp_path / "note.txt", tmp_path / ".hidden" / "1.png"]
    assert find_pictures(named) == (named, [])


def test_what_was_taken_as_the_object_is_told_and_its_doubts_said(shoe):
    sheet = on_paper(shoe)
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
