"""Keras on TensorFlow: what TensorFlow is told before a run."""

from typing import Any

from keras_impl.settings import require_gpu
from pipeline.environment import usable_cores
from pipeline.execution import Execution


def configure(execution: Execution) -> dict[str, Any]:
    """Set TensorFlow up for one run and return what it resolved to."""
    import tensorflow as tf

    if execution.num_threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(execution.num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(execution.num_threads)
    gpus = tf.config.list_physical_devices("GPU")
    require_gpu(execution, has_gpu=bool(gpus))
    # TensorFlow would take nearly all the memory of every GPU at once.
    used = gpus[: execution.devices] if execution.device != "cpu" else []
    if used and execution.devices > 1:
        from keras_impl.devices import require_devices

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
