"""Our Keras trainer with one setting another way, for a GPU to decide which is faster.

A program that is measured: `varied_keras.py ALTERNATIVE`, then the flags of
`scripts/train_keras.py`.
"""

import sys
from typing import Any

import keras

from keras_impl import train
from pipeline.command import trainer_main


def xla() -> None:
    """Let XLA compile each step on TensorFlow, as Keras's "auto" does where there is a GPU."""
    real = keras.Model.compile

    def compile_model(self: keras.Model, *args: Any, **options: Any) -> None:
        real(self, *args, **{**options, "jit_compile": True})

    keras.Model.compile = compile_model


ALTERNATIVES = {each.__name__: each for each in (xla,)}


if __name__ == "__main__":
    ALTERNATIVES[sys.argv[1]]()
    sys.exit(trainer_main("keras", lambda: train, sys.argv[2:]))
