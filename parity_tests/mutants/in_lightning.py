"""Plant a porting mistake in the Lightning implementation, then answer; see `ladder.serve`.

A program: it patches its own processes, and production code has no hooks for it. The mutants stand
in `lightning_forward.py` and `lightning_training.py`.
"""

import lightning_impl.trace
import parity_tests.mutants.lightning_forward
import parity_tests.mutants.lightning_training  # noqa: F401 - each registers its mutants
from ladder.serve import serve
from parity_tests.catalogue import PLANTERS

if __name__ == "__main__":
    serve(lambda name: PLANTERS[name](), lightning_impl.trace.main)
