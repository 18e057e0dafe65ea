"""All that the fast path does differently; `--plain` goes without it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice, pairwise
from typing import Any

import keras

from pipeline.execution import Execution

STEPS_PER_EXECUTION = 25
"""Training steps in one call of a compiled function."""


def steps_per_execution(execution: Execution, callbacks: Sequence[keras.callbacks.Callback]) -> int:
    """Return how many steps Keras takes between two calls of the callbacks.

    More than one are refused by torch, and gain nothing on JAX where its steps are not scanned.
    """
    backend = keras.backend.backend()
    # On a CPU XLA computes convolutions inside a loop by another way, six times as slow.
    if execution.plain or backend == "torch" or (backend == "jax" and not on_gpu()):
        return 1
    limits = (getattr(callback, "max_steps_per_execution", 1) for callback in callbacks)
    return min((STEPS_PER_EXECUTION, *limits))


def on_gpu() -> bool:
    """Return whether JAX or torch computes on a GPU, where launching a step costs more than it.

    Steps are then scanned by JAX, batches gathered on the device, and losses looked at while the
    next steps run. TensorFlow goes without: its numbers are asked for every 25 steps anyway, and
    `tf.data` gathers on the host.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if backend == "torch":
        return bool(keras.ops.zeros(()).device.type == "cuda")
    return False


def scan_steps(model: keras.Model) -> None:
    """Let Keras on JAX take the steps of one execution in a `lax.scan`, one call for all of them.

    Keras 3.15.1 calls the compiled step in a loop in Python.
    """
    import jax
    import jax.numpy as jnp

    keras_makes = model._make_function

    def make_function(step: Callable[..., Any], concatenate_outputs: bool = False) -> Any:
        if concatenate_outputs:
            return keras_makes(step, concatenate_outputs)

        @partial(jax.jit, donate_argnums=0)
        def scan(state: Any, batches: Any) -> tuple[Any, Any]:
            def one(state: Any, batch: Any) -> tuple[Any, Any]:
                logs, state = step(state, batch)
                return state, logs

            # Here, and by JAX: the batches are on the device by now, which NumPy would undo.
            stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
            state, logs = jax.lax.scan(one, state, stacked)
            return jax.tree.map(lambda values: values[-1], logs), state

        def take(state: Any, iterator: Iterator[Any]) -> tuple[Any, Any]:
            batches = [next(iterator), *islice(iterator, model.steps_per_execution - 1)]
            sizes = [len(jax.tree.leaves(batch)[0]) for batch in batches]
            num_full = sizes.count(sizes[0])  # only an epoch's last batch may be smaller
            logs, state = scan(state, batches[:num_full])
            for batch in batches[num_full:]:
                logs, state = step(state, batch)
            return logs, state

        return take

    model._make_function = make_function


def leave_maps_in_place() -> None:
    """Let Keras hand feature maps to torch as they lie in memory.

    Keras keeps (N, H, W, C), torch takes (N, C, H, W). Keras 3.15.1 copies each map into that
    order, and before a convolution copies it back: in torch, the map seen with its axes permuted
    *is* channels_last, the layout that convolutions and pools compute in. A copy changes no value.
    """
    import torch
    from keras.src.backend.torch import nn

    copied = nn._transpose_spatial_inputs

    def permuted(inputs: Any) -> Any:
        return torch.permute(inputs, (0, 3, 1, 2)) if inputs.ndim == 4 else copied(inputs)

    nn._transpose_spatial_inputs = permuted


@contextmanager
def pools_first(model: keras.Sequential) -> Iterator[None]:
    """Let each max pool that follows a leaky ReLU do its work before it.

    A leaky ReLU rises everywhere, so it commutes with max pooling, and after the pool it has a
    quarter of the work: on torch, where each layer is a call of its own. What comes out of the pool
    is the same bits. A gradient can take another way where two different negative floats are equal
    after scaling, which a pool that comes after sees as a tie. The activation itself returns its
    input meanwhile.
    """
    assert isinstance(model, keras.Sequential)  # whose neighbours are connected
    pairs = [
        (layer, following)
        for layer, following in pairwise(model.layers)
        if isinstance(layer, keras.layers.LeakyReLU)
        and isinstance(following, keras.layers.MaxPooling2D)
    ]
    for activation, pool in pairs:
        assert activation.negative_slope > 0
        activation.call, pool.call = _unchanged, _after(pool.call, activation.call)
    try:
        yield
    finally:
        for pair in pairs:
            for layer in pair:
                del layer.call  # back to the class's


def _unchanged(inputs: Any) -> Any:
    return inputs


def _after(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda inputs: second(first(inputs))
