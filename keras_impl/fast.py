"""Where the fast path takes several steps at once, and on which device; `--plain` goes without."""

from collections.abc import Sequence

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
