"""Every tolerance of this pipeline's parity tests: its name, its reason, what was measured."""

from portproof.compare import Tolerance

LOGITS_FLOAT32 = Tolerance(
    "LOGITS_FLOAT32",
    absolute=1e-5,
    reason="float32 sums of up to 2,048 products taken in different orders; logits are of order 1",
    measured="0",
)
