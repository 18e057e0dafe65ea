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

from tests.edits import HYPOTHESIS
from tests.parsers import plain_png
from tests.trained.shoes import SHOE, close, data_set_form, on_paper, saved, seen_in
from trained import photos
from trained.cutout import SIZE
from trained.photos import PhotoError, find_pictures, read_photo


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif", "webp"])
def test_an_image_of_the_data_set_keeps_every_bit(kind, tmp_path):
    options = {"lossless": True} if kind == "webp" else {}
    path = saved(tmp_path / f"a.{kind}", SHOE, **options)
    assert np.array_equal(seen_in(path), SHOE)


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
def test_every_mode_of_every_format_is_read(mode, kind, tmp_path):
    sheet = Image.fromarray(on_paper(SHOE))
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
    wanted = data_set_form(on_paper(SHOE))
    assert close(seen_in(path), wanted, 30 if mode == "1" else 12)


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    lying = np.rot90(on_paper(SHOE))
    path = saved(tmp_path / "a.png", np.ascontiguousarray(lying), exif=exif)
    assert np.array_equal(seen_in(path), data_set_form(on_paper(SHOE)))


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
def test_levels_of_fewer_bits_in_a_file_of_16_are_read_as_these(bits, kind, tmp_path):
    sheet = on_paper(SHOE)
    deep = np.rint(sheet / 255.0 * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{kind}")
    photo = read_photo(tmp_path / f"a.{kind}")
    assert close(photo.cutout.seen, data_set_form(sheet), 2)
    said = [f"its 16-bit levels use {bits} bits and are read so"] if bits < 16 else []
    assert [note for note in photo.notes if "16-bit" in note] == said


def test_colours_of_ten_bits_in_a_png_of_16_are_read_as_these(tmp_path):
    sheet = on_paper(SHOE)
    deep = np.rint(sheet / 255.0 * 1023).astype(">u2")
    rows = np.repeat(deep[..., np.newaxis], 3, axis=2).reshape(300, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    (tmp_path / "a.png").write_bytes(png_of(300, 300, zlib.compress(data), depth=16, colour=2))
    photo = read_photo(tmp_path / "a.png")
    assert "its 16-bit levels use 10 bits and are read so" in photo.notes
    assert close(photo.cutout.seen, data_set_form(sheet), 20)  # Pillow keeps 2 of the 10
    assert photo.original.max() > 180


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.fromarray(SHOE), Image.fromarray(255 - SHOE)]
    for kind in ("gif", "webp", "png", "tiff"):
        options = {"lossless": True} if kind == "webp" else {}
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(seen_in(tmp_path / f"a.{kind}"), SHOE)


def png_of(width, height, *data, other_chunks=(), depth=8, colour=0):
    """A PNG, grey, that says it is `width` × `height`; each chunk has its checksum."""

    def chunk(kind, content):
        word = kind + content
        return struct.pack(">I", len(content)) + word + struct.pack(">I", zlib.crc32(word))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *other_chunks, *((b"IDAT", part) for part in data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


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


def test_a_large_file_is_refused_unread(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", SHOE)
    monkeypatch.setattr(photos, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(PhotoError, match="larger than"):
        read_photo(path)


def test_what_is_no_picture_says_why(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(on_paper(SHOE)).save(whole, "PNG")
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


def test_any_damage_is_a_picture_or_a_clear_error(tmp_path):
    random = np.random.default_rng(0)
    path, refused = tmp_path / "a", 0
    for kind in photos.FORMATS:
        content = io.BytesIO()
        Image.fromarray(on_paper(SHOE)).save(content, kind)
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


SMALL = Image.new("L", (64, 64))


@pytest.mark.parametrize(
    ("side", "options", "reason"),
    [
        *((side, None, "at most 64,000,000") for side in (9_000, 30_000, 60_000)),
        *((side, {}, "at most 256,000,000") for side in (16_001, 60_000)),
        (
            8_001,
            {"progressive": True},  # all of it would be in memory
            "^it has 8,001 × 8,001 pixels; at most 64,000,000 are read "
            r"\(of a JPEG that is not progressive 256,000,000\); save it smaller$",
        ),
    ],
)
def test_a_decompression_bomb_is_refused_before_memory_is_taken(side, options, reason, tmp_path):
    """A PNG or, with options, a JPEG."""
    path = tmp_path / "bomb"
    path.write_bytes(
        png_of(side, side, zlib.compress(bytes(200_000)))
        if options is None
        else saying_it_is(side, jpeg(SMALL, **options))
    )
    tracemalloc.start()
    with pytest.raises(PhotoError, match=reason):
        read_photo(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    if side == 60_000:  # Pillow's own limit holds for others
        with pytest.raises(Image.DecompressionBombError):
            Image.open(path)


def heic(image):
    pillow_heif = pytest.importorskip("pillow_heif")
    content = io.BytesIO()
    pillow_heif.from_pillow(image).save(content, quality=90)
    return content.getvalue()


def test_what_is_a_picture_says_its_content_and_not_its_name(tmp_path, monkeypatch):
    sheet = Image.fromarray(on_paper(SHOE)).convert("RGB")
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


def test_a_folders_pictures_are_told_by_content_and_the_rest_is_named(tmp_path):
    png = io.BytesIO()
    Image.fromarray(SHOE).save(png, "PNG")
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
