"""Check a pair of your own: name two functions, give weights and batches, read the verdict.

    python docs/examples/own_pair.py [KERAS_MODULE:FUNCTION LIGHTNING_MODULE:FUNCTION]

Copy this file and put in your own weights, batches and points: those here are of the second pair in
`proof/pairs`, whose two functions are the defaults.
"""

import sys

import numpy as np

from portproof.pair import check_pair, keras_engine, lightning_engine
from portproof.verdict import verdict_lines

PAIR = ("proof.pairs.strided_keras:build", "proof.pairs.strided_lightning:build")
if len(sys.argv) not in (1, 3):
    sys.exit(__doc__)
keras_function, lightning_function = sys.argv[1:] or PAIR
random = np.random.default_rng(0)
weights = {
    "conv1.kernel": random.normal(0, 0.2, (3, 3, 3, 16)),  # height, width, in, out
    "conv2.kernel": random.normal(0, 0.2, (3, 3, 16, 24)),
    "logits.kernel": random.normal(0, 0.2, (96, 10)),  # rows in height, width, channel order
    "logits.bias": random.normal(0, 0.2, 10),
}
for norm, size in {"norm1": 16, "norm2": 24}.items():
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        weights[f"{norm}.{name}"] = random.uniform(0.5, 1.5, size)
batches = [(random.uniform(size=(n, 16, 16, 3)), random.integers(10, size=n)) for n in (16, 16, 6)]
points = ["conv1", "norm1", "act1", "conv2", "norm2", "act2", "pool", "flatten", "logits"]

verdict = check_pair(
    keras_engine(keras_function), lightning_engine(lightning_function), weights, batches, points
)
print("\n".join(verdict_lines(verdict)))
sys.exit(0 if verdict.passed else 1)
