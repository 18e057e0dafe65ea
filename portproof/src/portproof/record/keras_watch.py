"""Let a recorder see each layer, operation and function of Keras while a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import layers as L

from portproof.record.keras_live import tensors
from portproof.record.keras_recorder import Recorder


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let a recorder see each call of a layer or an operation while the block runs."""
    Operation = keras.Operation  # noqa: N806
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


OPERATORS = (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul",
    "rmatmul", "neg", "getitem",
)  # fmt: skip
"""Those that a subclassed layer writes between tensors."""


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
            if not recorder.busy:  # a weight that is used by itself must be seen as it is read
                args, kwargs = keras.tree.map_structure(
                    lambda v: v.value if isinstance(v, keras.Variable) else v, (args, kwargs)
                )
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
    operators = [(cls, f"__{name}__", name) for cls in _tensor_types() for name in OPERATORS]
    own = {(cls, method): vars(cls).get(method) for cls, method, _ in operators}
    for cls, method, name in operators:
        setattr(cls, method, wrapped(name, getattr(cls, method)))
    try:
        yield
    finally:
        for name, function in kept.items():
            for space in spaces:
                setattr(space, name, function)
        for (cls, method), function in own.items():
            if function is None:  # inherited
                delattr(cls, method)
            else:
                setattr(cls, method, function)


def _tensor_types() -> list[type]:
    """Return the classes of the backend's tensors, whose operators no `keras.ops` stands for."""
    if keras.backend.backend() == "torch":
        import torch

        return [torch.Tensor]
    import jax

    return [type(jax.numpy.zeros(())), jax.core.Tracer]
