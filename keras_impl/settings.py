"""What Keras is told before a run."""

import os
from typing import Any

import keras

from keras_impl.devices import distribute, require_devices
from keras_impl.fast import leave_maps_in_place
from keras_impl.processes import join
from pipeline.environment import usable_cores
from pipeline.errors import UsageError
from pipeline.execution import Execution
from pipeline.memory import keep_freed_memory
from pipeline.processes import this_process
from pipeline.recipe import Recipe

DTYPE_POLICIES = {"32": "float32", "64": "float64", "bf16": "mixed_bfloat16"}

PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
"""XLA's flag for how long one CPU device waits for the others until it aborts the process."""
PATIENCE_SECONDS = 600
"""Its default, 40, is too little for devices that share a core on a busy machine."""


def configure(recipe: Recipe, execution: Execution) -> dict[str, Any]:
    """Set Keras and its backend up for one run and return what they resolved to.

    Every setting that `~/.keras/keras.json` can change is set here, so that its content does not
    matter; the backend itself comes from `KERAS_BACKEND`.

    Raises:
        UsageError: a GPU is asked for and there is none, or fewer than asked for, threads can't be
            limited here, or the other ranks do not come.
    """
    if not execution.plain:
        keep_freed_memory()
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float64" if recipe.precision == "64" else "float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_max_epochs(None)  # KERAS_MAX_EPOCHS would shorten `fit` without a word
    keras.config.set_max_steps_per_epoch(None)
    keras.config.set_dtype_policy(DTYPE_POLICIES[recipe.precision])
    if recipe.precision == "64":
        _keep_float64()
    resolved = {
        "tensorflow": _configure_tensorflow,
        "jax": _configure_jax,
        "torch": _configure_torch,
    }[keras.backend.backend()](execution)
    if keras.backend.backend() != "tensorflow":
        _keep_tensorflow_out()
    keras.utils.set_random_seed(recipe.seed)
    return {
        "backend": keras.backend.backend(),
        **resolved,
        "image_data_format": keras.config.image_data_format(),
        "floatx": keras.config.floatx(),
        "dtype_policy": keras.config.dtype_policy().name,
    }


def _keep_float64() -> None:
    """Let float64 times float64 be float64 on every backend.

    Except on TensorFlow, Keras's type promotion turns it into float32
    (`BIT64_TO_BIT32_DTYPE` in keras/src/backend/common/dtypes.py), so that a Dense layer under
    floatx float64 computes in float32.
    """
    from keras.src.backend.common import dtypes

    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


def _keep_tensorflow_out() -> None:
    """Let Keras go without TensorFlow on the other backends, also where it is installed.

    `set_random_seed` seeds TensorFlow too wherever it can be imported, which takes seconds and
    puts it beside torch in one process.
    """
    from keras.src.utils import module_utils

    module_utils.tensorflow._available = False


def _configure_tensorflow(execution: Execution) -> dict[str, Any]:
    import tensorflow as tf

    if execution.num_threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(execution.num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(execution.num_threads)
    gpus = tf.config.list_physical_devices("GPU")
    _require(execution, has_gpu=bool(gpus))
    # TensorFlow would take nearly all the memory of every GPU at once.
    used = gpus[: execution.devices] if execution.device != "cpu" else []
    if used:
        require_devices(execution.devices, len(gpus), "GPU")
    elif execution.devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * execution.devices
        tf.config.set_logical_device_configuration(cpu, parts)
    tf.config.set_visible_devices(used, "GPU")
    for gpu in used:
        tf.config.experimental.set_memory_growth(gpu, True)
    # TensorFloat-32 is on by default in TensorFlow and off by default in torch's matmul.
    tf.config.experimental.enable_tensor_float_32_execution(execution.tf32)
    if execution.deterministic:
        tf.config.experimental.enable_op_determinism()
    details = tf.config.experimental.get_device_details(used[0]) if used else {}
    return {
        "device": "gpu" if used else "cpu",
        "gpu": details.get("device_name"),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or usable_cores(),
    }


def _configure_jax(execution: Execution) -> dict[str, Any]:
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
        join(ranks)
    precision = "tensorfloat32" if execution.tf32 else "highest"
    jax.config.update("jax_default_matmul_precision", precision)
    platform = jax.default_backend()
    _require(execution, has_gpu=platform == "gpu")
    if execution.devices > 1:
        require_devices(execution.devices, jax.device_count(), platform.upper())
        distribute(execution.devices)
    name = jax.devices()[0].device_kind if platform == "gpu" else None
    return {"device": platform, "gpu": name, "threads": usable_cores()}


def _configure_torch(execution: Execution) -> dict[str, Any]:
    import torch
    from keras.src.backend.torch import core

    if execution.num_threads is not None:
        torch.set_num_threads(execution.num_threads)
    has_gpu = torch.cuda.is_available()
    _require(execution, has_gpu=has_gpu)
    on_gpu = has_gpu and execution.device != "cpu"
    # Left to itself, Keras takes an Apple GPU (mps), as Lightning here does not; and that has no
    # float64.
    core.DEFAULT_DEVICE = "cuda" if on_gpu else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = execution.tf32
    torch.backends.cudnn.allow_tf32 = execution.tf32
    torch.use_deterministic_algorithms(execution.deterministic)
    # Else each `torch.empty` is filled, for the sake of programs that read what nobody has written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not execution.plain:
        leave_maps_in_place()
    return {
        "device": "gpu" if on_gpu else "cpu",
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "threads": torch.get_num_threads(),
    }


def _require(execution: Execution, has_gpu: bool) -> None:
    if execution.device == "gpu" and not has_gpu:
        raise UsageError(
            f"`--device gpu`: the {keras.backend.backend()} backend sees no GPU here; "
            "use --device cpu, or see scripts/doctor.py"
        )


def _limit_cores(num_threads: int) -> None:
    """Bind the process to `num_threads` cores: XLA's CPU client takes a thread for each.

    Several processes here take cores in turn, from the first again where there are too few.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("`--threads` for the JAX backend needs Linux")
    cores, ranks = sorted(os.sched_getaffinity(0)), this_process()
    first = ranks.local_rank * num_threads % len(cores)
    os.sched_setaffinity(0, [*cores[first:], *cores[:first]][:num_threads])
