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

from pipeline import photos
from pipeline.datasets import load_dataset
from pipeline.photos import SIZE, PhotoError, data_set_form, find_pictures, read_photo
from tests.edits import HYPOTHESIS
from tests.parsers import plain_png

INK, PAPER = 40, 250


@pytest.fixture
def shoe():
    """A light object on black, touching all four sides, as the data set's are."""
    image = np.zeros((28, 28), np.uint8)
    image[12:28, 0:28] = 90
    image[0:20, 18:26] = 200
    return image


def saved(path, image, mode="L", **options):
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    (picture if picture.mode == mode else picture.convert(mode)).save(path, **options)
    return path


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
    assert np.array_equal(read_photo(path).seen, shoe)


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
    assert close(read_photo(path).seen, wanted, 30 if mode == "1" else 12)


def test_an_object_anywhere_on_a_sheet_is_cut_out(shoe, tmp_path):
    seen = read_photo(saved(tmp_path / "a.png", on_paper(shoe))).seen
    assert close(seen, shoe)
    dark = read_photo(saved(tmp_path / "b.png", 255 - on_paper(shoe))).seen
    assert np.array_equal(seen, dark)


def test_noise_of_the_paper_does_not_hide_the_object(shoe, tmp_path):
    noise = np.random.default_rng(0).normal(0, 6, (300, 300))
    sheet = np.clip(on_paper(shoe) * (225 / 255) + noise, 0, 255).astype(np.uint8)
    assert close(read_photo(saved(tmp_path / "a.jpg", sheet, quality=80)).seen, shoe, 16)


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
    middle = data_set_form(stripes)[5:-5, 5:-5]
    assert (np.abs(middle.astype(int) - 127) < 20).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_picture_is_black(value):
    assert not data_set_form(np.full((50, 70), value, np.uint8)).any()


def test_a_photo_is_turned_upright(shoe, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    lying = np.rot90(on_paper(shoe))
    path = saved(tmp_path / "a.png", np.ascontiguousarray(lying), exif=exif)
    assert np.array_equal(read_photo(path).seen, data_set_form(on_paper(shoe)))


@pytest.mark.parametrize("level", [30, 225])
def test_transparency_lies_on_what_contrasts(level, tmp_path):
    drawn = np.zeros((90, 90, 4), np.uint8)
    drawn[20:70, 30:60] = (level, level, level, 255)
    path = saved(tmp_path / "a.png", Image.fromarray(drawn), "RGBA")
    seen = read_photo(path).seen
    assert seen[14, 14] > 200
    assert seen[14, 1] == 0


def test_a_wholly_transparent_picture_is_black(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGBA", (40, 40), (200, 10, 10, 0)), "RGBA")
    assert not read_photo(path).seen.any()


def test_of_an_animation_the_first_frame_is_taken(shoe, tmp_path):
    frames = [Image.fromarray(shoe), Image.fromarray(255 - shoe)]
    for kind in ("gif", "webp", "png", "tiff"):
        options = {"lossless": True} if kind == "webp" else {}
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(read_photo(tmp_path / f"a.{kind}").seen, shoe)


def png_of(width, height, *data, other_chunks=()):
    """A PNG, 8-bit grey, that says it is `width` × `height`; each chunk has its checksum."""

    def chunk(kind, content):
        word = kind + content
        return struct.pack(">I", len(content)) + word + struct.pack(">I", zlib.crc32(word))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
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
            read_photo(path, "dark")
    else:
        whole = png([*rows, *[bytes(1 + SIZE)] * (SIZE - num_rows)])
        assert np.array_equal(read_photo(path, "dark").seen, plain_png(whole))


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
                assert read_photo(path).seen.shape == (28, 28)
            except PhotoError:
                refused += 1
    assert refused > 50


def test_folders_are_walked_in_order_and_other_files_left(tmp_path, shoe):
    for name in ("b/2.png", "b/1.JPG", "a/x y'.webp", "note.txt", "z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    os.symlink(tmp_path, tmp_path / "b" / "loop")
    names = [str(path.relative_to(tmp_path)) for path in find_pictures([tmp_path])]
    assert names == ["z.png", "a/x y'.webp", "b/1.JPG", "b/2.png"]
    named = tmp_path / "note.txt"
    assert list(find_pictures([named])) == [named]
