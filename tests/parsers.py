"""Every parser of the project, each with a second reader, written apart, and with valid files.

A parser that reads a file must find in it what the second reader finds, or raise one of its own
errors; tests/test_hostile.py and tests/fuzzing.py hold it to that.
"""

import ast
import gzip
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import save

from benchmark.difference import read_older
from ladder.arrays import read_arrays
from ladder.checks import Gap, Report
from ladder.compare import Difference
from ladder.exchange import Question, Trace, read_question, read_trace
from ladder.exchange import write_question as write_question_file
from ladder.exchange import write_trace as write_trace_file
from ladder.following import read_rows
from ladder.rungs import RungResult, Verdict
from ladder.verdict import verdict_from_kept, verdict_to_kept
from pipeline import fetch
from pipeline.datasets import named_classes
from pipeline.drawn import draw_images, idx_bytes
from pipeline.errors import RunError, UsageError
from pipeline.fetch import SourceError
from pipeline.forms import NPZ_NAMES, read_csv, read_npz
from pipeline.idx import TEST_IMAGES, TEST_LABELS, read_idx
from pipeline.network import read_weights, shared_first_weights
from pipeline.recipe import preset, recipe_from_dict, recipe_to_dict
from pipeline.recipe_file import read_recipe_fields
from pipeline.record import series
from pipeline.recorded import read_layers, read_predictions, read_record
from pipeline.session import Session, read_kept
from reporting.comparison import comparison_from_json
from tests.fabricated import LAYERS, make_record
from trained.cutout import SIZE
from trained.photos import FORMATS, PhotoError, _decode, _grey, read_photo

ROOT = Path(__file__).parents[1]
ITEM_TYPES = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
    "C64": "<c8",
}  # fmt: skip


@dataclass(frozen=True)
class Parser:
    """One way by which a file comes into the project."""

    name: str
    file: str
    """What the file is called in its folder."""
    read: Callable[[Path], Any]
    """The project's reader."""
    reference: Callable[[bytes], Any]
    """The second reader, of content that the first has read."""
    seeds: tuple[bytes, ...]
    """Valid files."""
    errors: tuple[type[Exception], ...]
    """What may be raised of a file that is not valid."""
    value: Any = None
    """What a valid file says, as JSON, where there is such a thing."""
    built: Callable[[Any], bytes] | None = None
    """Makes a file of such a value."""


def tried(parser, content, folder):
    """Let `parser` read `content`; return `parsed` or `refused`.

    Raises:
        AssertionError: it found something else than the second reader.
        Exception: whatever the parser raised that is none of its errors.
    """
    path = folder / parser.file
    path.write_bytes(content)
    try:
        found = parser.read(path)
    except parser.errors as error:
        text = str(error)
        assert text.strip(), "the error says nothing"
        assert len(text.splitlines()) <= 2, f"an error of many lines: {text}"
        return "refused"
    expected = parser.reference(content)
    assert same(found, expected), f"{parser.name} read {found!r:.300}, not {expected!r:.300}"
    return "parsed"


def same(left, right):
    """Compare by type, keys, lengths and bits; NaN is NaN."""
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and (left.dtype, left.shape) == (right.dtype, right.shape)
            and left.tobytes() == right.tobytes()
        )
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and left.keys() == right.keys()
            and all(same(left[key], right[key]) for key in left)
        )
    if isinstance(left, list | tuple):
        return (
            isinstance(right, list | tuple)
            and len(left) == len(right)
            and all(map(same, left, right))
        )
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right


# IDX


def any_idx(num_dimensions):
    """Read packed or not, by content; labels of type int32 too."""

    def reference(content):
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        if num_dimensions == 1 and content[2] == 0x0C:
            first = 4 + 4 * content[3]
            rows = np.frombuffer(content[first:], ">i4").reshape(
                struct.unpack(f">{content[3]}I", content[4:first])
            )
            column = rows.reshape(len(rows), -1)[:, 0]
            assert ((column >= 0) & (column < 256)).all()
            return column.astype(np.uint8)
        words = struct.unpack(f">{1 + num_dimensions}I", content[: 4 + 4 * num_dimensions])
        assert words[0] == 0x0800 + num_dimensions
        values = np.frombuffer(content[4 + 4 * num_dimensions :], np.uint8)
        return values.reshape(words[1:])

    return reference


IMAGES, LABELS = draw_images(3, np.random.default_rng(0))
IDX_IMAGES = idx_bytes(0x0803, IMAGES[:, :5, :5])
IDX_LABELS = idx_bytes(0x0801, LABELS)
IDX_INTEGERS = struct.pack(">2I", 0x0C01, 3) + LABELS.astype(">i4").tobytes()
IDX_COLUMNS = struct.pack(">3I", 0x0C02, 3, 2) + np.repeat(LABELS, 2).astype(">i4").tobytes()
GZ = gzip.compress(IDX_LABELS, mtime=0)


def streamed(path):
    """Unpack as a download is unpacked."""
    chunks = (path.read_bytes()[at : at + 7] for at in range(0, path.stat().st_size, 7))
    return b"".join(fetch._unpack(chunks, len(IDX_LABELS)))


def first_member(content):
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        return stream.read(len(IDX_LABELS))


# Other forms of a data set


def set_of_npz(path):
    found = read_npz(path)
    return found.train_images, found.train_labels, found.test_images, found.test_labels


def set_npz_reference(content):
    x_train, y_train, x_test, y_test = npz_arrays(content, NPZ_NAMES)
    return tuple(
        array.reshape(array.shape[:-1]) if array.ndim == wanted + 1 else array
        for array, wanted in ((x_train, 3), (y_train, 1), (x_test, 3), (y_test, 1))
    )


def csv_reference(content):
    lines = [line for line in content.decode("latin1").splitlines() if line.strip()]
    if not lines[0].strip()[:1].isdigit():
        del lines[0]
    table = np.array([[int(cell) for cell in line.split(",")] for line in lines])
    assert ((table >= 0) & (table < 256)).all()
    side = math.isqrt(table.shape[1] - 1)
    values = table.astype(np.uint8)
    return values[:, 1:].reshape(-1, side, side), values[:, 0]


def names_reference(content):
    return tuple(line.strip() for line in content.decode().splitlines() if line.strip())


# safetensors


def tensors(content):
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    words = header.pop("__metadata__", {}) or {}
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = np.dtype(ITEM_TYPES[entry["dtype"]])
        arrays[name] = np.frombuffer(data[begin:end], dtype).reshape(entry["shape"])
    return arrays, words


def with_header(header):
    """Return a safetensors file with the data of `ARRAYS` under another header."""
    words = json.dumps(header).encode()
    return struct.pack("<Q", len(words)) + words + bytes(64)


def envelope(content):
    return json.loads(tensors(content)[1]["portproof"])


def enveloped(words):
    return save(ARRAYS, metadata={"portproof": json.dumps(words)})


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.eye(2, dtype=np.uint8)}
HEADER = {
    "__metadata__": {"word": "ü"},
    "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "b": {"dtype": "I64", "shape": [4], "data_offsets": [32, 64]},
}
QUESTION = Question(("layers", "logits"), {"recipe": {"seed": 1}, "rates": [0.5]}, ARRAYS)
TRACE = Trace("toy", QUESTION.identity, {"layers": [{"name": "a"}], "loss": 0.1}, ARRAYS)
QUESTION_WORDS = {"kind": "question", "schema": 1, "asks": ["layers"], "settings": {"seed": 1}}
TRACE_WORDS = {
    "kind": "trace",
    "schema": 1,
    "engine": "toy",
    "question": QUESTION.identity,
    "facts": {"loss": 0.1},
}
TINY = preset("base", conv_filters=(1,), dropout_rates=(0.0, 0.0), hidden_units=1, image_size=4)


def bytes_of(write, value):
    """Return what `write` writes of `value`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path, value)
        return path.read_bytes()


def question_fields(path):
    question = read_question(path)
    assert len(question.identity) == 64
    return list(question.asks), question.settings, question.arrays


def trace_fields(path):
    trace = read_trace(path, QUESTION)
    return trace.engine, trace.question, trace.facts, trace.arrays


def question_reference(content):
    words = envelope(content)
    return words["asks"], words["settings"], tensors(content)[0]


def trace_reference(content):
    words = envelope(content)
    return words["engine"], words["question"], words["facts"], tensors(content)[0]


# JSON, YAML


def as_json(value):
    return json.dumps(value).encode()


def recipe_fields(path):
    fields = read_recipe_fields(path)
    return fields, recipe_to_dict(recipe_from_dict(fields))


def recipe_reference(content):
    fields = yaml.safe_load(content)
    return fields, recipe_to_dict(recipe_from_dict(fields))


def session_parts(path):
    session = Session(path, {"work": 1})
    if not session.was_begun:
        raise ValueError("nothing of use")
    return {name: session.kept(name) for name in json.loads(path.read_bytes())["parts"]}


def record_fields(path):
    record = read_record(path.parent)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "seconds"):
        assert len(series(record, name)) == len(record.history)
    return asdict(record)


def layer_fields(path):
    rows = [asdict(layer) for layer in read_layers(path.parent)]
    return {
        "schema": 1,
        "layers": [{**row, "output_shape": [*row["output_shape"]]} for row in rows],
    }


def verdict_fields(path):
    return verdict_to_kept(verdict_from_kept(read_kept(path)))


def comparison_fields(path):
    return json.loads(json.dumps(asdict(comparison_from_json(read_kept(path)))))


def npz(path):
    return read_predictions(path.parent)


def npz_reference(content):
    return npz_arrays(content, ("logits", "labels"))


def npz_arrays(content, names):
    found = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in names:
            member = archive.read(f"{name}.npy")
            size, start = ("<H", 10) if member[6] == 1 else ("<I", 12)
            (length,) = struct.unpack(size, member[8:start])
            header = ast.literal_eval(member[start : start + length].decode("latin1"))
            dtype, shape = np.dtype(header["descr"]), header["shape"]
            values = np.frombuffer(member[start + length :], dtype, math.prod(shape))
            found.append(values.reshape(shape, order="F" if header["fortran_order"] else "C"))
    return tuple(np.array(array) for array in found)


# Pictures


def plain_png(content):
    """Return the pixels of a PNG of 8 bits of grey; of its data, as much as they need."""
    at, data = 8, b""
    while len(content) - at >= 8:
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, *rest = struct.unpack(">IIBBBBB", body)
            assert rest == [8, 0, 0, 0, 0]
        elif kind == b"IDAT":
            data += body
        elif data:
            break
        at += 12 + length
    stream = zlib.decompressobj().decompress(data, height * (width + 1))
    rows, above = [], np.zeros(width, np.uint8)
    for start in range(0, height * (width + 1), width + 1):
        above = unfiltered(stream[start], stream[start + 1 : start + 1 + width], above)
        rows.append(above)
    return np.stack(rows)


def unfiltered(kind, line, above):
    """Undo a PNG filter, which tells each byte from its left, upper and upper left ones."""
    found = np.zeros(len(line), np.uint8)
    for at, byte in enumerate(line):
        left, up = int(found[at - 1]) if at else 0, int(above[at])
        corner = int(above[at - 1]) if at else 0
        near = min((left, up, corner), key=lambda each: abs(left + up - corner - each))
        found[at] = (byte + (0, left, up, (left + up) // 2, near)[kind]) % 256
    return found


def picture_of(form):
    """Return an image of the data set's size as a file."""
    return bytes_of(lambda path, image: image.save(path, form), Image.fromarray(IMAGES[0]))


def shown(path):
    photo = read_photo(path)
    assert photo.original is not None
    assert (photo.original.dtype, photo.original.ndim) == (np.uint8, 3)
    return photo.cutout.seen.shape, photo.cutout.seen.dtype.str


def save_arrays(path, arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)


ROWS = {"75": {"weight": 1e-16, "adam.m": 0.0}, "150": {"weight": 2e-16, "adam.m": 1e-17}}
OLDER = {
    "conditions": {"epochs": 3, "device": "cpu"},
    "environment": {"cpu": "x", "packages": {"torch": "2"}},
    "arms": [{"arm": "a", "faster_than": {"b": {"median": 1.5, "low": 1.2, "high": 1.9}}}],
}
PASSED = Report(1, Difference("a", 1.0, 1.0, "", 0.0, 0.0), (), (Gap("a", 0.0, 1e-9),))
KEPT_VERDICT = verdict_to_kept(
    Verdict("lightning", "keras-jax", "float64", "", (RungResult(1, "data", "passed", PASSED),))
)
SESSION = {"identity": {"work": 1}, "parts": {"a": {"seconds": 1.5}, "b": None}}
RECORD = asdict(make_record())
TABLE = {
    "schema": 1,
    "layers": [{**asdict(row), "output_shape": [*row.output_shape]} for row in LAYERS],
}
SET_NPZ = bytes_of(
    save_arrays,
    {"x_train": IMAGES[:, :2, :2], "y_train": LABELS,
     "x_test": IMAGES[..., None], "y_test": LABELS.astype(np.int64)[:, None]},
)  # fmt: skip
TRACED = bytes_of(write_trace_file, TRACE)
ASKED = bytes_of(write_question_file, QUESTION)
RECIPE = yaml.safe_dump(recipe_to_dict(TINY), sort_keys=False).encode()
PREDICTIONS = bytes_of(save_arrays, {"logits": np.eye(3, 10), "labels": np.arange(3)})
CLEAR = (UsageError, RunError)

PARSERS = {
    parser.name: parser
    for parser in (
        Parser("idx-images", "t10k-images-idx3-ubyte", lambda path: read_idx(path, TEST_IMAGES)[0],
               any_idx(3), (IDX_IMAGES,), CLEAR),
        Parser("idx-labels", "t10k-labels-idx1-ubyte", lambda path: read_idx(path, TEST_LABELS)[0],
               any_idx(1), (IDX_LABELS, IDX_INTEGERS, IDX_COLUMNS), CLEAR),
        Parser("idx-gz", "t10k-labels-idx1-ubyte.gz", lambda path: read_idx(path, TEST_LABELS)[0],
               any_idx(1), (GZ, gzip.compress(IDX_INTEGERS, mtime=0)), CLEAR),
        Parser("set-npz", "mnist.npz", set_of_npz, set_npz_reference, (SET_NPZ,), CLEAR),
        Parser("set-csv", "train.csv", read_csv, csv_reference,
               (b"label,a,b,c,d\n3,0,1,2,255\n0,4,5,6,7\n", b"1,2\n"), CLEAR),
        Parser("class-names", "class_names.txt", lambda path: named_classes(path.parent),
               names_reference, (b"ring\ncircle\n", "ü\n".encode()), CLEAR),
        Parser("download-gz", "download.gz", streamed, first_member, (GZ,), (SourceError,)),
        # For callers, `ladder` has no error but ValueError.
        Parser("safetensors", "a.safetensors", read_arrays, tensors,
               (save(ARRAYS, metadata={"word": "ü"}),), (ValueError,), HEADER, with_header),
        Parser("weights", "w.safetensors", lambda path: read_weights(path, TINY),
               lambda content: tensors(content)[0], (save(shared_first_weights(TINY)),),
               (ValueError,)),
        Parser("question", "question", question_fields, question_reference, (ASKED,),
               (ValueError,), QUESTION_WORDS, enveloped),
        Parser("trace", "trace", trace_fields, trace_reference, (TRACED,), (ValueError,),
               TRACE_WORDS, enveloped),
        Parser("record", "record.json", record_fields, json.loads, (as_json(RECORD),), CLEAR,
               RECORD, as_json),
        Parser("layers", "layers.json", layer_fields, json.loads, (as_json(TABLE),), CLEAR,
               TABLE, as_json),
        Parser("predictions", "predictions.npz", npz, npz_reference, (PREDICTIONS,), CLEAR),
        Parser("recipe", "recipe.yaml", recipe_fields, recipe_reference, (RECIPE,), CLEAR,
               recipe_to_dict(TINY), as_json),
        Parser("older-benchmark", "benchmark.json", read_older, json.loads, (as_json(OLDER),),
               CLEAR, OLDER, as_json),
        Parser("work-so-far", "so-far.json", session_parts,
               lambda content: json.loads(content)["parts"], (as_json(SESSION),), (ValueError,),
               SESSION, as_json),
        Parser("kept-results", "result.json", read_kept, json.loads,
               (as_json({"stage": {"steps": [1, 2.5, None, "ü"]}}),), CLEAR,
               {"stage": {"steps": [1, 2.5, None, "ü"]}}, as_json),
        Parser("kept-verdict", "verdict.json", verdict_fields, json.loads,
               (as_json(KEPT_VERDICT),), (*CLEAR, ValueError), KEPT_VERDICT, as_json),
        Parser("followed-steps", "steps.json", read_rows, json.loads, (as_json(ROWS),),
               (ValueError,), ROWS, as_json),
        Parser("comparison", "comparison.json", comparison_fields, json.loads,
               ((ROOT / "results" / "compare-20-epochs" / "comparison.json").read_bytes(),), CLEAR),
        Parser("picture-png", "a.png", lambda path: _grey(*_decode(path))[0], plain_png,
               (picture_of("PNG"),), (PhotoError,)),
        # What Pillow decodes of the others is Pillow's; here it is a picture or refused.
        Parser("picture", "a", shown, lambda content: ((SIZE, SIZE), "|u1"),
               tuple(map(picture_of, FORMATS)), (PhotoError,)),
    )
}  # fmt: skip
