"""Plant a porting mistake in the Keras implementation, then answer; see `ladder.serve`.

A program: it patches its own processes, and production code has no hooks for it. The mutants stand
in `keras_forward.py` and `keras_training.py`.
"""

import keras_impl.trace
import parity_tests.mutants.keras_forward
import parity_tests.mutants.keras_training  # noqa: F401 - each registers its mutants
from ladder.serve import serve
from parity_tests.catalogue import PLANTERS

if __name__ == "__main__":
    serve(lambda name: PLANTERS[name](), keras_impl.trace.main)
