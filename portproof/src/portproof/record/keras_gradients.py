"""Gradients of a sum over a Keras model, in the way of the backend that Keras runs on."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

Total = Callable[[dict[int, Any], list[Any]], tuple[Any, dict[str, Any]]]
Found = tuple[
    list[np.ndarray],
    dict[int, np.ndarray],
    dict[int, np.ndarray],
    dict[str, Any],
    dict[int, np.ndarray],
]


def differentiate(
    total: Total, trained: list[Any], leaves: dict[int, Any], xs: list[Any], states: list[Any]
) -> Found:
    """Differentiate a scalar.

    Args:
        total: takes leaves by call, and inputs; gives the scalar, and tensors seen on the way.
        trained: variables to differentiate by.
        leaves: tensors that replace what calls give.
        xs: inputs; those of integers get no gradient.
        states: variables that a training pass moves.

    Returns:
        Gradients to the variables, to the leaves and to the inputs, the tensors seen, and the
        states behind the pass by the id of their variable.
    """
    backend = keras.backend.backend()
    which = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    return which[backend](total, trained, leaves, xs, states)


def _tensorflow(
    total: Total, trained: list[Any], leaves: dict[int, Any], xs: list[Any], states: list[Any]
) -> Found:
    import tensorflow as tf

    floats = {i: x for i, x in enumerate(xs) if x.dtype.is_floating}
    with tf.GradientTape() as tape:
        for t in [*leaves.values(), *floats.values()]:
            tape.watch(t)
        scalar, seen = total(leaves, xs)
    sources = [v.value for v in trained] + list(leaves.values()) + list(floats.values())
    grads = [
        np.zeros(tuple(s.shape)) if g is None else np.asarray(tf.convert_to_tensor(g))
        for s, g in zip(sources, tape.gradient(scalar, sources), strict=True)
    ]
    return _split(grads, trained, leaves, floats, seen, states)


def _torch(
    total: Total, trained: list[Any], leaves: dict[int, Any], xs: list[Any], states: list[Any]
) -> Found:
    floats = {i: x.detach().requires_grad_() for i, x in enumerate(xs) if x.is_floating_point()}
    own = {i: t.detach().requires_grad_() for i, t in leaves.items()}
    for v in trained:
        v.value.grad = None
    # A view, lest something in place write into a leaf.
    scalar, seen = total(
        {i: t.view_as(t) for i, t in own.items()},
        [floats[i].view_as(x) if i in floats else x for i, x in enumerate(xs)],
    )
    scalar.backward()
    sources = [v.value for v in trained] + list(own.values()) + list(floats.values())
    grads = [
        np.zeros(tuple(s.shape)) if s.grad is None else s.grad.detach().cpu().numpy()
        for s in sources
    ]
    return _split(grads, trained, leaves, floats, seen, states)


def _jax(
    total: Total, trained: list[Any], leaves: dict[int, Any], xs: list[Any], states: list[Any]
) -> Found:
    import jax

    floats = {i: x for i, x in enumerate(xs) if x.dtype.kind == "f"}

    def scalar(weights: list[Any], own: dict[int, Any], some: dict[int, Any]) -> Any:
        mapping = [*zip(trained, weights, strict=True), *((v, v.value) for v in states)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            value, seen = total(own, [some.get(i, x) for i, x in enumerate(xs)])
        moved = [scope.get_current_value(v) for v in states]
        return value, (seen, moved)

    weights = [v.value for v in trained]
    (_, (seen, moved)), grads = jax.value_and_grad(scalar, (0, 1, 2), has_aux=True)(
        weights, leaves, floats
    )
    for v, value in zip(states, moved, strict=True):
        v.assign(v.value if value is None else value)
    flat = [np.array(g) for g in [*grads[0], *grads[1].values(), *grads[2].values()]]
    # jax gives dictionaries back with sorted keys.
    leaves = dict(sorted(leaves.items()))
    return _split(flat, trained, leaves, dict(sorted(floats.items())), seen, states)


def _split(
    grads: list[np.ndarray],
    trained: list[Any],
    leaves: dict[int, Any],
    floats: dict[int, Any],
    seen: dict[str, Any],
    states: list[Any],
) -> Found:
    first, second = len(trained), len(trained) + len(leaves)
    moved = {id(v): np.array(ops.convert_to_numpy(v)) for v in states}
    return (
        grads[:first],
        dict(zip(leaves, grads[first:second], strict=True)),
        dict(zip(floats, grads[second:], strict=True)),
        seen,
        moved,
    )
