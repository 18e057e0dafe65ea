"""Train the Fashion-MNIST CNN with Lightning; see --help."""

import sys
from functools import partial
from importlib import import_module

from pipeline.command import trainer_main

if __name__ == "__main__":
    sys.exit(trainer_main("lightning", partial(import_module, "lightning_impl.train")))
