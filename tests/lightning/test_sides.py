"""The LightningModule as a subject of the ladder."""

import numpy as np
import pytest

from lightning_impl.trace import ImplementationSubject, built_subject
from pipeline.execution import Execution
from pipeline.recipe import preset
from tests.both.sides import (  # noqa: F401
    IMAGES,
    POINTS,
    RECIPE,
    check_segments,
    test_gradients_are_the_losss_slope,
    test_points_and_segments_are_the_models_own,
    test_the_loss_is_the_mean_over_all_images,
)


@pytest.fixture(params=[False, True], ids=["fast", "plain"])
def subject(request):
    return built_subject(RECIPE, Execution(device="cpu", plain=request.param))


def test_points_of_both_paths_are_the_same():
    fast, plain = (built_subject(RECIPE, Execution(device="cpu", plain=p)) for p in (False, True))
    points = [check_segments(each) for each in (fast, plain)]
    for name in POINTS:
        np.testing.assert_allclose(*(found[name] for found in points), atol=1e-12)
    with pytest.raises(ValueError, match="`pool1` runs before `act1` is reached"):
        fast.points(IMAGES, ["act1"])


def test_the_table_is_read_off_the_network():
    subject = built_subject(preset("dropout"), Execution(device="cpu"))
    network = subject.model.network
    rows = {row["name"]: row for row in subject.layer_table()}
    assert list(rows) == [name for name, _ in network.named_children()]
    assert rows["act1"]["output_shape"] == [28, 28, 32]  # though the fast path pools first
    assert rows["conv2"]["parameters"] == 18_496
    assert rows["pool3"] == {
        "name": "pool3", "kind": "max_pool", "output_shape": [4, 4, 128], "parameters": 0,
    }  # fmt: skip
    network.pool3.ceil_mode = False
    broken = ImplementationSubject(subject.model, subject.recipe, Execution(device="cpu"))
    changed = {row["name"]: row for row in broken.layer_table()}
    assert changed["pool3"]["output_shape"] == [3, 3, 128]
    assert changed["logits"]["output_shape"] is None  # never reached: `hidden` does not fit
