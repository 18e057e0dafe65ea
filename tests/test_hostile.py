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
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edits import EDITS, HYPOTHESIS, edited
from tests.fuzzing import PARSER_NAMES, WITH_TORCH
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
@settings(HYPOTHESIS, max_examples=20)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(name, content, tmp_path):
    tried(PARSERS[name], content, tmp_path)


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
}


@pytest.mark.parametrize("case", REGRESSIONS)
def test_what_was_found_once_is_refused(case, tmp_path):
    name, content = REGRESSIONS[case]
    assert tried(PARSERS[name], content, tmp_path) == "refused"


def test_the_fuzzer_knows_every_parser():
    assert [*PARSERS, WITH_TORCH] == list(PARSER_NAMES)


# No loader that runs code

UNSAFE_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "unsafe_load", "full_load", "load_checkpoint", "load_all"}
UNSAFE_CALLS |= {"read_pickle", "extractall", "load_from_checkpoint"}
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
NEEDED |= {"numpy.load": ("allow_pickle", False), "fit": ("weights_only", True)}
NEEDED |= {"read_array": ("allow_pickle", False)}
"""Calls that are safe with this argument only; `fit` where it goes on from a checkpoint."""
READS_WHAT_IT_WROTE = ("keras_impl/deploy.py", "lightning_impl/deploy.py")
"""Run the `.keras` file, or the program of `torch.export`, just exported; no other place does."""
SOURCES = (
    "ladder",
    "portproof",
    "pipeline",
    "keras_impl",
    "lightning_impl",
    "parity_tests",
    "reporting",
    "trained",
    "benchmark",
    "scripts",
)


def unsafe(code, path="code"):
    """Return the places in `code` that load something which may run code."""
    tree = ast.parse(code, path)
    aliases = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = []
    for node in ast.walk(tree):
        words = _unsafe_import(node) or _unsafe_call(node, aliases, path)
        if words:
            found.append(f"{path}:{node.lineno} {words}")
    return found


def _unsafe_import(node):
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    else:
        return ""
    bad = UNSAFE_IMPORTS & {module.partition(".")[0] for module in modules}
    return f"imports {bad.pop()}" if bad else ""


def _unsafe_call(node, aliases, path):
    if not isinstance(node, ast.Call):
        return ""
    written = ast.unparse(node.func)
    called = aliases.get(written, written)
    last = called.rpartition(".")[2]
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if last in UNSAFE_CALLS and not (last == "eval" and "." in called):
        return f"calls {called}"
    is_its_own = path.endswith(READS_WHAT_IT_WROTE)
    if (written.endswith("export.load") and not is_its_own) or (
        last == "load_model" and not (is_its_own and given.get("safe_mode") == "True")
    ):
        return f"calls {called}"
    if called == "yaml.load":
        loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        return "" if loader.endswith(("SafeLoader", "LoaderWithoutAliases")) else "calls yaml.load"
    needs = NEEDED.get(called) or (NEEDED.get(last) if last == "read_array" else None)
    if last == "fit" and "ckpt_path" in given:
        needs = NEEDED["fit"]
    if needs and given.get(needs[0]) != str(needs[1]):
        return f"calls {called} without {needs[0]}={needs[1]}"
    return ""


def test_no_loader_in_the_source_can_run_code():
    paths = [path for room in SOURCES for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(paths) > 50
    found = [place for path in paths for place in unsafe(path.read_text(), str(path))]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load\nload(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(stream)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.UnsafeLoader)",
        "yaml.unsafe_load(text)",
        "keras.models.load_model(path)",
        "keras.saving.load_model(path, safe_mode=True)",
        "torch.export.load(path)",
        "Classifier.load_from_checkpoint(path)",
        "trainer.fit(module, ckpt_path=path)",
        "archive.extractall(folder)",
        "eval(text)",
    ],
)
def test_an_unsafe_loader_would_be_seen(code):
    assert len(unsafe(code)) == 1


def test_what_was_exported_is_read_in_safe_mode_only():
    safe = "keras.saving.load_model(path, safe_mode=True)"
    for path in READS_WHAT_IT_WROTE:
        assert unsafe(safe, f"/x/{path}") == []
        assert unsafe(safe.replace("True", "False"), f"/x/{path}")


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.load(text, _LoaderWithoutAliases)",
        "yaml.safe_load(text)",
        "json.load(file)",
        "model.eval()",
        "model.fit(x)",
        "trainer.fit(module, ckpt_path=path, weights_only=True)",
    ],
)
def test_a_safe_loader_is_let_through(code):
    assert unsafe(code) == []
