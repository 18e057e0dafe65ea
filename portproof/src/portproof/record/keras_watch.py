"""Let a recorder see each layer, operation and function of Keras while a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import layers as L
from keras.src.ops.operation import Operation

from portproof.record.keras_live import tensors
from portproof.record.keras_recorder import Recorder


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let a recorder see each call of a layer or an operation while the block runs."""
    layer_call, op_call = L.Layer.__call__, Operation.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return recorder.layer(self, layer_call, args, kwargs)

    def operation(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, L.Layer):
            return op_call(self, *args, **kwargs)
        return recorder.plain(self, op_call, args, kwargs)

    with _backend_operations(recorder), _weights(recorder):
        L.Layer.__call__, Operation.__call__ = call, operation
        try:
            yield
        finally:
            L.Layer.__call__, Operation.__call__ = layer_call, op_call


@contextmanager
def _weights(recorder: Recorder) -> Iterator[None]:
    """Let a recorder see each weight that is read."""
    cls: Any = keras.Variable
    own, value = vars(cls).get("value"), cls.value
    cls.value = property(lambda self: recorder.weight(self, value.__get__(self)))
    try:
        yield
    finally:
        if own is None:
            del cls.value
        else:
            cls.value = own


@contextmanager
def _backend_operations(recorder: Recorder) -> Iterator[None]:
    """Let a recorder see operations that a subclassed layer calls itself."""
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework import op_callbacks

        def seen(
            kind: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None
        ) -> None:
            if graph is None and not recorder.busy:
                recorder.raw(kind.decode() if isinstance(kind, bytes) else kind, inputs, outputs)

        op_callbacks.add_op_callback(seen)
        try:
            yield
        finally:
            op_callbacks.remove_op_callback(seen)
        return
    spaces = (keras.ops, keras.src.ops)
    kept = {
        n: f
        for n, f in vars(keras.ops).items()
        if callable(f) and not isinstance(f, type) and n[0] != "_"
    }

    def wrapped(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with recorder.quiet():
                out = function(*args, **kwargs)
            if not recorder.busy:
                recorder.raw(name, tensors((args, kwargs)), tensors(out))
            return out

        return call

    skipped = {
        "is_tensor",
        "convert_to_tensor",
        "convert_to_numpy",
        "shape",
        "cast",
        "cond",
        "scan",
    }
    for name, function in kept.items():
        if name not in skipped:
            for space in spaces:
                setattr(space, name, wrapped(name, function))
    try:
        yield
    finally:
        for name, function in kept.items():
            for space in spaces:
                setattr(space, name, function)
