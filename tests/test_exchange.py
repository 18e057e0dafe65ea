import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save

from ladder import arrays
from ladder.arrays import read_arrays, write_arrays
from ladder.exchange import Question, Trace, read_question, read_trace, write_question, write_trace

ARRAYS = {
    "weights.a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "images": np.eye(2, dtype="u1"),
}
SETTINGS = {"recipe": {"seed": 1, "rates": [0.5]}, "data_dir": "a ü/b"}
QUESTION = Question(("layers", "logits"), SETTINGS, ARRAYS)
TRACE = Trace("toy", QUESTION.identity, {"layers": [{"name": "a"}], "loss": 0.1}, ARRAYS)


def assert_same_arrays(left, right):
    assert set(left) == set(right)
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], strict=True)


@pytest.mark.parametrize("question", [QUESTION, Question(("layers",))], ids=["full", "bare"])
def test_a_question_comes_back_as_it_was(question, tmp_path):
    write_question(tmp_path / "q", question)
    read = read_question(tmp_path / "q")
    assert (read.asks, read.settings) == (question.asks, question.settings)
    assert_same_arrays(read.arrays, question.arrays)
    assert read.identity == question.identity


def with_array(name, array):
    return Question(QUESTION.asks, SETTINGS, {**ARRAYS, name: array})


OTHERS = {
    "an ask less": Question(("layers",), SETTINGS, ARRAYS),
    "another order of asks": Question(("logits", "layers"), SETTINGS, ARRAYS),
    "a setting": Question(QUESTION.asks, {**SETTINGS, "data_dir": "c"}, ARRAYS),
    "a nested setting": Question(QUESTION.asks, {**SETTINGS, "recipe": {"seed": 2}}, ARRAYS),
    "a setting more": Question(QUESTION.asks, {**SETTINGS, "plain": False}, ARRAYS),
    "no arrays": Question(QUESTION.asks, SETTINGS),
    "an array more": with_array("more", np.zeros(1)),
    "a value": with_array("images", np.eye(2, dtype="u1") * 2),
    "a dtype": with_array("images", np.eye(2, dtype="i1")),
    "a shape": with_array("images", np.eye(2, dtype="u1").reshape(4)),
    "a name": Question(QUESTION.asks, SETTINGS, {**ARRAYS, "Images": ARRAYS["images"]}),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_the_answer_to_another_question_is_refused(other, tmp_path):
    assert other.identity != QUESTION.identity
    write_trace(tmp_path / "t", TRACE)
    with pytest.raises(ValueError, match="/t answers another question"):
        read_trace(tmp_path / "t", other)


def test_equal_questions_have_equal_identities():
    turned = dict(reversed(list(ARRAYS.items())))
    strided = {**turned, "weights.a": np.asfortranarray(ARRAYS["weights.a"])}
    settings = dict(reversed(list(SETTINGS.items())))
    settings["recipe"] = {"rates": (0.5,), "seed": 1}
    assert Question(["layers", "logits"], settings, strided).identity == QUESTION.identity


def test_nan_cannot_be_asked():
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = Question((), {"rate": float("nan")}).identity


def test_questions_and_traces_are_not_mistaken_for_each_other(tmp_path):
    write_question(tmp_path / "q", QUESTION)
    write_trace(tmp_path / "t", TRACE)
    with pytest.raises(ValueError, match="/t is not a question"):
        read_question(tmp_path / "t")
    with pytest.raises(ValueError, match="/q is not a trace"):
        read_trace(tmp_path / "q", QUESTION)


def enveloped(words):
    return save(dict(ARRAYS), metadata={"portproof": words})


def words(**changes):
    return json.dumps({"kind": "question", "schema": 1, "asks": [], "settings": {}, **changes})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(ARRAYS), "cannot read .* as safetensors"),
        (save(dict(ARRAYS)), "is not a question"),
        (enveloped("[]"), "is not a question"),
        (enveloped('{"kind": "question", "schema": 1}'), "is not a question"),
        (enveloped(words(kind="trace")), "is not a question"),
        (enveloped(words(schema=2)), "has schema 2; this version reads 1"),
        (enveloped(words(schema=None)), "has schema None; this version reads 1"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_damaged_and_foreign_files_are_refused(content, message, tmp_path):
    (tmp_path / "q").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_question(tmp_path / "q")


def test_missing_oversized_and_folders_are_refused(tmp_path, monkeypatch):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"cannot read {path} as safetensors"):
            read_arrays(path)
    write_arrays(tmp_path / "a", ARRAYS)
    with pytest.raises(ValueError, match="larger than the 10 bytes allowed"):
        read_arrays(tmp_path / "a", max_bytes=10)
    assert arrays.MAX_BYTES < 2**40


@pytest.mark.parametrize(
    "array",
    [np.float32(3), np.zeros((0, 2)), np.arange(12).reshape(3, 4).T, np.ones((2, 2), bool)],
    ids=["scalar", "empty", "strided", "bool"],
)
def test_arrays_of_any_shape_come_back(array, tmp_path):
    write_arrays(tmp_path / "a", {"x": array}, {"word": "ü"})
    arrays, metadata = read_arrays(tmp_path / "a")
    np.testing.assert_array_equal(arrays["x"], np.asarray(array), strict=True)
    assert metadata == {"word": "ü"}
