"""Every tolerance of this pipeline's parity tests: its name, its reason, what was measured."""

from ladder.compare import Tolerance

LOGITS_FLOAT32 = Tolerance(
    "LOGITS_FLOAT32",
    absolute=1e-5,
    reason="float32 sums of up to 2,048 products taken in different orders; logits are of order 1",
    measured="0",
)

EPOCH_BASE_FLOAT32 = Tolerance(
    "EPOCH_BASE_FLOAT32",
    absolute=0.02,
    reason="the same weights, batches and formulas; 750 float32 steps let rounding grow",
    measured="0.0097 at most, in validation loss (seed 0, Keras-TensorFlow and Lightning)",
)

EPOCH_DROPOUT = Tolerance(
    "EPOCH_DROPOUT",
    absolute=0.06,
    reason="each framework draws its own dropout masks, so the runs agree in distribution only",
    measured="0.024 at most, in validation loss (seed 0, Keras-TensorFlow and Lightning)",
)
