"""Train the Fashion-MNIST CNN with Keras; see --help."""

import sys
from functools import partial
from importlib import import_module

from pipeline.command import trainer_main

if __name__ == "__main__":
    sys.exit(trainer_main("keras", partial(import_module, "keras_impl.train")))
