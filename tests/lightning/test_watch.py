"""What a proof hangs into Lightning's training."""

import pytest

from lightning_impl.fast import CAPTURED_STEPS_PER_BATCH
from parity_tests.questions import CAPTURED_CALL
from tests.both.watch import (  # noqa: F401
    test_each_step_draws_masks_of_its_own,
    test_masks_are_the_same_in_calls_of_several_steps,
    test_weights_are_kept_at_each_seam,
    trained,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own


def test_a_proof_counts_captured_calls_as_the_fast_path_does():
    assert CAPTURED_CALL == CAPTURED_STEPS_PER_BATCH
