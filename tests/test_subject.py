"""Asking any model: what is answered, and what is noted as failed."""

import numpy as np
import pytest

from ladder.exchange import Question
from ladder.subject import answer_subject, scaled, segment

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
TABLE = ["double", "negate"]


class Doubler:
    """Doubles, then negates; `broken` names methods and layers that raise."""

    def __init__(self, broken=()):
        self.broken = set(broken)
        self.factor = np.float64(2)

    def layer_table(self):
        return [{"name": name, "parameters": 1 - place} for place, name in enumerate(TABLE)]

    def weights(self):
        return {"double.kernel": np.array([self.factor])}

    def load_weights(self, weights):
        self._check("load_weights")
        self.factor = weights["double.kernel"][0]

    def points(self, images, names):
        found = {}
        for name in TABLE[: TABLE.index(names[-1]) + 1]:
            images = self._run(name, images)
            found[name] = images
        return {name: found[name] for name in names}

    def forced(self, inputs, names):
        return {name: self._run(name, inputs[name]) for name in names if name in inputs}

    def predict(self, images):
        self._check("predict")
        return self.points(images, TABLE)["negate"]

    def loss(self, images, classes):
        return np.asarray(float(len(classes)))

    def gradients(self, images, classes, training=True):
        self._check("gradients")
        return {"double.kernel": np.ones(1), "input": images}, np.asarray(1.0)

    def _run(self, layer, values):
        self._check(layer)
        return values * (self.factor if layer == "double" else -1)

    def _check(self, what):
        if what in self.broken:
            raise ValueError(f"{what} is broken")


def question(*asks, weights=True, **settings):
    arrays = {
        "images": IMAGES,
        "input.double": IMAGES,
        "input.negate": IMAGES / 255,
        "images.one": IMAGES[:1],
        "labels.one": np.array([3]),
        **({"weights.double.kernel": np.array([3.0])} if weights else {}),
    }
    settings = {"points": TABLE, "cases": ["one"], "gradient_cases": ["one"], **settings}
    return Question(asks, settings, arrays)


ALL = ("layers", "points", "forced", "cases", "gradients")


def test_every_ask_is_answered_with_the_questions_weights():
    facts, arrays = answer_subject(question(*ALL, "own_weights"), Doubler())
    assert facts["parameters"] == 1
    assert set(facts) == {"layers", "parameters"}
    assert set(arrays) == {
        "point.double", "point.negate", "forced.double", "forced.negate", "logits.one",
        "loss.one", "gradient.one.double.kernel", "gradient.one.input", "gradient.one.loss",
    }  # fmt: skip
    np.testing.assert_array_equal(arrays["point.negate"], IMAGES / np.float64(255) * -3)
    np.testing.assert_array_equal(arrays["forced.negate"], IMAGES / -255)


@pytest.mark.parametrize(
    ("broken", "failed", "missing"),
    [
        ("predict", {"logits.one"}, {"logits.one"}),
        ("gradients", {"gradient.one"}, {"gradient.one.loss", "gradient.one.input"}),
        (
            "negate",
            {"point.negate", "forced.negate", "logits.one"},
            {"point.negate", "forced.negate", "logits.one"},
        ),
    ],
)
def test_what_raises_is_noted_and_the_rest_answered(broken, failed, missing):
    _, whole = answer_subject(question(*ALL), Doubler())
    facts, arrays = answer_subject(question(*ALL), Doubler([broken]))
    assert set(facts["failed"]) == failed
    assert set(facts["failed"].values()) == {f"ValueError: {broken} is broken"}
    assert missing <= set(whole)
    assert set(whole) - set(arrays) == missing | (
        {"gradient.one.double.kernel"} if broken == "gradients" else set()
    )


def test_a_model_that_refuses_the_weights_is_only_described():
    facts, arrays = answer_subject(question(*ALL), Doubler(["load_weights"]))
    assert arrays == {}
    assert {"layers", "parameters"} < set(facts)
    assert set(facts["failed"]) == {"points", "forced", "cases", "gradients"}


def test_pixels_are_scaled_as_float32_division_does():
    pixels = np.arange(256, dtype=np.uint8)
    single = pixels.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(scaled(pixels).astype(np.float32), single)
    floats = np.array([0.5], np.float32)
    assert scaled(floats) is floats


def test_a_segment_is_what_lies_behind_the_point_before():
    table = ["a", "b", "c", "d"]
    assert segment(table, ["b", "d"], "b") == ["a", "b"]
    assert segment(table, ["b", "d"], "d") == ["c", "d"]
    with pytest.raises(ValueError, match="`x` is no layer; there are a, b, c, d"):
        segment(table, ["x"], "x")
    with pytest.raises(ValueError, match="must follow the layers' order; received d, b"):
        segment(table, ["d", "b"], "d")
