"""Train the Fashion-MNIST CNN with Keras; see --help."""

import sys
from types import ModuleType

from pipeline.command import trainer_main


def load_implementation() -> ModuleType:
    """Import the implementation, and with it the framework, once the call has been found right."""
    from keras_impl import train

    return train


if __name__ == "__main__":
    sys.exit(trainer_main("keras", load_implementation))
