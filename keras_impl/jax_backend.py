"""Keras on JAX: what JAX is told before a run, and steps in one call."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import keras

from keras_impl.settings import require_gpu
from pipeline.environment import usable_cores
from pipeline.errors import UsageError
from pipeline.execution import Execution
from pipeline.processes import this_process

PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
"""XLA's flag for how long one CPU device waits for the others until it aborts the process."""
PATIENCE_SECONDS = 600
"""Its default, 40, is too little for devices that share a core on a busy machine."""


def configure(execution: Execution) -> dict[str, Any]:
    """Set JAX up for one run and return what it resolved to."""
    import jax

    if execution.num_threads is not None:
        _limit_cores(execution.num_threads)
    if execution.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    ranks = this_process()
    # The CPU as so many devices; asked for by a flag of XLA's too, JAX refuses both.
    flags = os.environ.get("XLA_FLAGS", "")
    is_flagged = "xla_force_host_platform_device_count" in flags
    if execution.devices > 1 and ranks.size == 1 and not is_flagged:
        jax.config.update("jax_num_cpu_devices", execution.devices)
    if execution.devices > 1 and PATIENCE not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{PATIENCE}={PATIENCE_SECONDS}".strip()
    # Read when the GPU is first used; JAX would take three quarters of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if ranks.size > 1:
        from keras_impl.processes import join

        join(ranks)
    precision = "tensorfloat32" if execution.tf32 else "highest"
    jax.config.update("jax_default_matmul_precision", precision)
    platform = jax.default_backend()
    require_gpu(execution, has_gpu=platform == "gpu")
    if execution.devices > 1:
        from keras_impl.devices import distribute, require_devices

        require_devices(execution.devices, jax.device_count(), platform.upper())
        distribute(execution.devices)
    name = jax.devices()[0].device_kind if platform == "gpu" else None
    return {"device": platform, "gpu": name, "threads": usable_cores()}


def _limit_cores(num_threads: int) -> None:
    """Bind the process to `num_threads` cores: XLA's CPU client takes a thread for each.

    Several processes here take cores in turn, from the first again where there are too few.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("`--threads` for the JAX backend needs Linux")
    cores, ranks = sorted(os.sched_getaffinity(0)), this_process()
    first = ranks.local_rank * num_threads % len(cores)
    os.sched_setaffinity(0, [*cores[first:], *cores[:first]][:num_threads])


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
