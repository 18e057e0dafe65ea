"""Models of keras-hub, small and of random weights: `hub_keras.py:Bert` is one.

A program for `portproof check`, for an environment of its own; sizes are those of
`parity_tests/published.py`.
"""

from collections.abc import Callable
from functools import partial

import keras

from parity_tests.published import HIDDEN, PLACES, SMALL_IMAGE, TOKENS, WORDS


def _bert() -> keras.Model:
    from keras_hub.models import BertBackbone

    return BertBackbone(WORDS, 2, 4, HIDDEN, 2 * HIDDEN, max_sequence_length=PLACES)


def _gpt2() -> keras.Model:
    """Return GPT-2 without padding."""
    from keras_hub.models import GPT2Backbone

    backbone = GPT2Backbone(WORDS, 2, 4, HIDDEN, 2 * HIDDEN, max_sequence_length=PLACES)
    tokens = keras.Input((TOKENS,), dtype="int32")
    ones = keras.ops.ones_like(tokens)
    return keras.Model(tokens, backbone({"token_ids": tokens, "padding_mask": ones}))


def _vit() -> keras.Model:
    from keras_hub.models import ViTBackbone

    return ViTBackbone((SMALL_IMAGE, SMALL_IMAGE, 3), 8, 2, 4, HIDDEN, 2 * HIDDEN)


_MODELS = {"Bert": _bert, "GPT2": _gpt2, "ViT": _vit}


def __getattr__(name: str) -> Callable[[], keras.Model]:
    if name not in _MODELS:
        raise AttributeError(name)
    return partial(_MODELS[name])
