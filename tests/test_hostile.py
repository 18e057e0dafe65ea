"""Files of any bytes: read as a second reader reads them, or refused with a clear error."""

import ast
import copy
import gzip
import io
import struct
import time
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.recipe_file import MAX_RECIPE_BYTES
from tests.edits import EDITS, HYPOTHESIS, edited
from tests.parsers import PARSERS, QUESTION_WORDS, RECORD, as_json, enveloped, tried, with_header

ROOT = Path(__file__).parents[1]
MOST_MEMORY = 32 * 1024 * 1024
"""Bytes that reading a small file may take at its peak."""
MOST_SECONDS = 10.0
"""Of processor time."""

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, 10**308, 10**309, -1, 0, 1]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["\ud800", "\n\n\n", "a\u2028b", "1e-3", "F64", "BF16", "F8_E4M3", "own"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)


def nodes(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from nodes(item, (*path, key))
        else:
            yield (*path, key)


def replaced(value, path, new):
    """Return `value` with `new` at `path`."""
    if not path:
        return new
    value = copy.deepcopy(value)
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return value


BY_NAME = pytest.mark.parametrize("name", PARSERS)


@BY_NAME
def test_valid_files_are_read_as_the_second_reader_reads_them(name, tmp_path):
    parser = PARSERS[name]
    for content in parser.seeds:
        assert tried(parser, content, tmp_path) == "parsed"
    if parser.built:
        assert tried(parser, parser.built(parser.value), tmp_path) == "parsed"


@BY_NAME
@HYPOTHESIS
@given(data=st.data())
def test_a_changed_file_is_read_right_or_refused(name, data, tmp_path):
    parser = PARSERS[name]
    seed = data.draw(st.sampled_from(parser.seeds))
    tried(parser, edited(seed, data.draw(EDITS)), tmp_path)


@pytest.mark.parametrize("name", [name for name, parser in PARSERS.items() if parser.built])
@HYPOTHESIS
@given(data=st.data())
def test_a_file_that_says_something_else_is_read_right_or_refused(name, data, tmp_path):
    parser = PARSERS[name]
    place = data.draw(st.sampled_from(list(nodes(parser.value))))
    tried(parser, parser.built(replaced(parser.value, place, data.draw(ODD))), tmp_path)


@BY_NAME
def test_every_beginning_of_a_valid_file_is_refused_or_read_right(name, tmp_path):
    parser = PARSERS[name]
    seed = parser.seeds[0]
    found = {
        tried(parser, seed[:end], tmp_path) for end in range(0, len(seed), 1 + len(seed) // 90)
    }
    assert "refused" in found


# The twins: a parser that reads wrongly, raises what nobody expects, or rambles, is caught.


def raises(error):
    def read(_path):
        raise error

    return read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"read": lambda path: {"another": "value"}}, "not"),
        ({"read": raises(RuntimeError("a bug"))}, "a bug"),
        ({"read": raises(ValueError(""))}, "says nothing"),
        ({"read": raises(ValueError("a\nb\nc"))}, "many lines"),
    ],
)
def test_a_parser_that_errs_is_caught(change, message, tmp_path):
    parser = replace(PARSERS["kept-results"], errors=(ValueError,), **change)
    with pytest.raises((AssertionError, RuntimeError), match=message):
        tried(parser, parser.seeds[0], tmp_path)


# Bombs


def stored(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(f"{name}.npy", member)
    return content.getvalue()


def npy(shape, size=0, descr="<f8"):
    words = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words + bytes(size)


def zeros_deflated(num_bytes):
    """Return a zip whose member unpacks to so many zeros."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("logits.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(num_bytes >> 20):
            member.write(bytes(1 << 20))
    return content.getvalue()


HUGE = {"dtype": "F64", "shape": [2**30, 2**30], "data_offsets": [0, 2**63]}
BOMBS = {
    "idx of 2^32 images": ("idx-images", struct.pack(">4I", 0x0803, 2**32 - 1, 1024, 1024)),
    "idx of 2^30 labels": ("idx-labels", struct.pack(">2I", 0x0801, 2**30)),
    "gz of 2^30 labels": ("idx-gz", gzip.compress(struct.pack(">2I", 0x0801, 2**30))),
    "gz of zeros": (
        "idx-gz",
        gzip.compress(struct.pack(">2I", 0x0801, 9) + bytes(9) + bytes(10**8), 1),
    ),
    "download of zeros": ("download-gz", gzip.compress(bytes(10**8), 1)),
    "safetensors of 2^63 bytes": ("safetensors", with_header({"a": HUGE})),
    "safetensors header of 2^60 bytes": ("safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "question of deep words": ("question", enveloped({"kind": "question"})[:-1] + b"["),
    "predictions of 2^60 values": (
        "predictions",
        stored(logits=npy((2**30, 2**27)), labels=npy((2**30,), descr="<i8")),
    ),
    "predictions of 2^24 values and none there": (
        "predictions",
        stored(logits=npy((2**21, 8)), labels=npy((2**21,), descr="<i8")),
    ),
    "predictions that unpack to 300 MB": ("predictions", zeros_deflated(300 << 20)),
    "deep record": ("record", b"[" * 100_000),
    "deep objects": ("kept-results", b'{"a":' * 100_000),
    "record of a number of 10^6 digits": ("record", b'{"schema": ' + b"9" * 10**6 + b"}"),
    "deep recipe": ("recipe", b"[" * 20_000),
    "recipe of aliases": (
        "recipe",
        b"a: &a [1, 1]\n" + b"".join(b"b: &b [*a, *a]\n" for _ in range(50)),
    ),
    "recipe of a number of 60,000 digits": ("recipe", b"seed: 0x" + b"f" * 60_000),
    "deep work so far": ("work-so-far", b'{"identity":' * 100_000),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory_or_time(case, tmp_path):
    name, content = BOMBS[case]
    began = time.process_time()
    tracemalloc.start()
    try:
        assert tried(PARSERS[name], content, tmp_path) == "refused"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY, f"{peak:,} bytes for {len(content):,}"
    assert time.process_time() - began < MOST_SECONDS


def test_a_bomb_that_goes_off_would_be_seen(tmp_path):
    careless = replace(
        PARSERS["predictions"],
        read=lambda path: np.load(path, allow_pickle=False)["logits"],
        errors=(Exception,),
    )
    tracemalloc.start()
    try:
        tried(careless, BOMBS["predictions of 2^24 values and none there"][1], tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak > MOST_MEMORY


# What was found, by these tests and by `make fuzz`

REGRESSIONS = {
    "a schema that is true": ("record", as_json({**RECORD, "schema": True})),
    "no data set": ("record", as_json({**RECORD, "dataset": {}})),
    "a loss that no double holds": ("record", as_json({**RECORD, "test": {"loss": 10**400}})),
    "a loss of NaN": ("record", as_json({**RECORD, "test": {"loss": float("nan")}})),
    "a field twice": ("record", b'{"schema": 1, "schema": 1}'),
    "half a character": ("kept-results", b'{"a": "\\ud800"}'),
    "asks that are a number": ("question", enveloped({**QUESTION_WORDS, "asks": 3})),
    "asks of numbers": ("question", enveloped({**QUESTION_WORDS, "asks": [3]})),
    "settings that are a word": ("question", enveloped({**QUESTION_WORDS, "settings": "a"})),
    "a time that is none": ("recipe", b"seed: !!timestamp tomorrow"),
    "a truth that is none": ("recipe", b"seed: !!bool perhaps"),
    "a number without digits": ("recipe", b"seed: !!int ''"),
    "a recipe's field twice": ("recipe", b"seed: 1\nseed: 2"),
    "a recipe that calls": ("recipe", b"seed: !!python/object/apply:os.system [id]"),
    "a recipe above its limit": ("recipe", b"#" * (MAX_RECIPE_BYTES + 1)),
    "a recipe that is no mapping": ("recipe", b"- 1"),
}


@pytest.mark.parametrize("case", REGRESSIONS)
def test_what_was_found_once_is_refused(case, tmp_path):
    name, content = REGRESSIONS[case]
    assert tried(PARSERS[name], content, tmp_path) == "refused"


# No loader that runs code; ruff's S rules see pickle, marshal, eval, unsafe YAML and archives.

NEEDED = {
    "torch.load": "weights_only=True",
    "np.load": "allow_pickle=False",
    "read_array": "allow_pickle=False",
    "fit": "weights_only=True",  # where it goes on from a checkpoint
    "load_model": "safe_mode=True",
    "export.load": None,
    "load_from_checkpoint": None,
}
"""What a call must be given, None where no argument makes it safe."""
OWN = {
    "keras_impl/deploy.py": "load_model",
    "lightning_impl/deploy.py": "export.load",
}
"""Run the `.keras` file, or the program of `torch.export`, just exported; no other place does."""
ROOMS = (
    "ladder", "portproof", "pipeline", "keras_impl", "lightning_impl", "parity_tests", "reporting",
    "trained", "benchmark", "scripts",
)  # fmt: skip


def unsafe(code, path=""):
    """Return the calls in `code` that may run what they load."""
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        name, _, given = call.partition("(")
        for end, needed in NEEDED.items():
            if f".{name}".endswith(f".{end}") and (end != "fit" or "ckpt_path=" in given):
                is_its_own = OWN.get(path) == end
                is_safe = is_its_own if needed is None else needed in given
                if not is_safe or (end == "load_model" and not is_its_own):
                    found.append(call)
    return found


def test_no_loader_in_the_source_can_run_code():
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(paths) > 50
    for path in paths:
        assert unsafe(path.read_text(), path.relative_to(ROOT).as_posix()) == [], path


@pytest.mark.parametrize(
    ("code", "path", "is_seen"),
    [
        ("torch.load(path)", "", True),
        ("torch.load(path, weights_only=True)", "", False),
        ("np.load(path, allow_pickle=True)", "", True),
        ("np.load(path, allow_pickle=False)", "", False),
        ("np.lib.format.read_array(stream)", "", True),
        ("trainer.fit(module, ckpt_path=path)", "", True),
        ("trainer.fit(module, ckpt_path=path, weights_only=True)", "", False),
        ("model.fit(x)", "", False),
        ("keras.saving.load_model(path, safe_mode=True)", "", True),
        ("keras.saving.load_model(path, safe_mode=True)", "keras_impl/deploy.py", False),
        ("keras.saving.load_model(path, safe_mode=False)", "keras_impl/deploy.py", True),
        ("torch.export.load(path)", "", True),
        ("torch.export.load(path)", "lightning_impl/deploy.py", False),
    ],
)
def test_an_unsafe_loader_would_be_seen(code, path, is_seen):
    assert bool(unsafe(code, path)) == is_seen
