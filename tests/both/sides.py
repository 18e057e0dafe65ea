"""A small network as a subject of the ladder: the tests that both implementations pass.

tests/keras/test_sides.py and tests/lightning/test_sides.py import them, and make the `subject`.
"""

import numpy as np
import pytest

from pipeline.network import shared_first_weights
from pipeline.recipe import preset

RECIPE = preset("base", conv_filters=(2, 3, 4), hidden_units=5, precision="64")
DRAW = np.random.default_rng(0)
IMAGES, CLASSES = DRAW.random((6, 28, 28, 1)), np.array([0, 1, 2, 9, 1, 2])
POINTS = ["conv1", "pool1", "conv2", "pool2", "pool3", "flatten", "hidden_act", "logits"]


def check_segments(subject):
    """Check that each segment computes what the whole model does, and from what it is handed."""
    subject.load_weights(shared_first_weights(RECIPE))
    points = subject.points(IMAGES, POINTS)
    np.testing.assert_allclose(points["logits"], subject.predict(IMAGES), atol=1e-12)
    inputs = dict(zip(POINTS, [IMAGES, *(points[name] for name in POINTS)], strict=False))
    forced = subject.forced(inputs, POINTS)
    for name in POINTS:
        np.testing.assert_allclose(forced[name], points[name], atol=1e-12)
    np.testing.assert_array_equal(points["flatten"], points["pool3"].reshape(6, -1))
    doubled = subject.forced({"logits": 2 * points["hidden_act"]}, POINTS)
    assert list(doubled) == ["logits"]
    assert not np.allclose(doubled["logits"], points["logits"])
    return points


def test_points_and_segments_are_the_models_own(subject):
    check_segments(subject)


def test_the_loss_is_the_mean_over_all_images(subject):
    parts = [float(subject.loss(IMAGES[i : i + 1], CLASSES[i : i + 1])) for i in range(6)]
    assert float(subject.loss(IMAGES, CLASSES)) == pytest.approx(np.mean(parts), rel=1e-12)
    many = np.tile(IMAGES, (100, 1, 1, 1))
    assert float(subject.loss(many, np.tile(CLASSES, 100))) == pytest.approx(np.mean(parts))


def test_gradients_are_the_losss_slope(subject):
    weights = shared_first_weights(RECIPE)
    subject.load_weights(weights)
    gradients, loss = subject.gradients(IMAGES, CLASSES)
    assert set(gradients) == {"input", *weights}
    assert gradients["input"].shape == IMAGES.shape
    for name, place in (("conv1.kernel", (1, 1, 0, 1)), ("hidden.kernel", (17, 1))):
        moved = {**weights, name: weights[name].astype(np.float64)}
        moved[name][place] += 1e-6
        subject.load_weights(moved)
        slope = (subject.gradients(IMAGES, CLASSES)[1] - loss) / 1e-6
        assert slope == pytest.approx(gradients[name][place], rel=1e-3)
