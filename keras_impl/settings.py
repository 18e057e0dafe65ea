"""What Keras is told before a run."""

from importlib import import_module
from typing import Any

import keras

from pipeline.errors import UsageError
from pipeline.execution import Execution
from pipeline.memory import keep_freed_memory
from pipeline.recipe import Recipe

DTYPE_POLICIES = {"32": "float32", "64": "float64", "bf16": "mixed_bfloat16"}


def configure(recipe: Recipe, execution: Execution) -> dict[str, Any]:
    """Set Keras and its backend up for one run and return what they resolved to.

    Settings of `~/.keras/keras.json` are set here, so that its content does not matter; the backend
    comes from `KERAS_BACKEND`, and `no_keras_home` keeps `nnx_enabled` out.

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
    backend = keras.backend.backend()
    resolved = import_module(f"keras_impl.{backend}_backend").configure(execution)
    if backend != "tensorflow":
        _keep_tensorflow_out()
    keras.utils.set_random_seed(recipe.seed)
    return {
        "backend": backend,
        **resolved,
        "image_data_format": keras.config.image_data_format(),
        "floatx": keras.config.floatx(),
        "dtype_policy": keras.config.dtype_policy().name,
    }


def _keep_float64() -> None:
    """Let float64 times float64 be float64 on every backend.

    Except on TensorFlow, Keras's type promotion turns it into float32
    (`BIT64_TO_BIT32_DTYPE` in keras/src/backend/common/dtypes.py): under floatx float64 a mean, and
    on torch a Dense layer too, is then computed in float32.
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


def require_gpu(execution: Execution, has_gpu: bool) -> None:
    """Refuse `--device gpu` where there is none.

    Raises:
        UsageError: there is none.
    """
    if execution.device == "gpu" and not has_gpu:
        raise UsageError(
            f"`--device gpu`: the {keras.backend.backend()} backend sees no GPU here; "
            "use --device cpu, or see scripts/doctor.py"
        )
