"""What a proof hangs into Keras's training."""

import numpy as np
import pytest

from keras_impl.watch import InjectMasks
from tests.both.watch import (  # noqa: F401
    test_each_step_draws_masks_of_its_own,
    test_masks_are_the_same_in_calls_of_several_steps,
    test_weights_are_kept_at_each_seam,
    trained,
)

pytestmark = pytest.mark.filterwarnings(  # Keras's own, on NumPy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def test_a_call_of_the_model_itself_is_a_prediction(trained):  # noqa: F811
    masks = InjectMasks(trained.recipe)
    _, model = trained(masks)
    model(np.zeros((4, 28, 28, 1), np.float32), training=True)
    assert (masks.modes["validation"], masks.modes["predict"]) == ({False}, {True})
