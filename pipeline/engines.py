"""The four engines of this pipeline."""

from portproof.engines import Engine

LIGHTNING = Engine(
    name="lightning",
    program=("-m", "lightning_impl.trace"),
    packages=("torch", "torchvision", "torchmetrics", "lightning"),
)
KERAS_TENSORFLOW = Engine(
    name="keras-tensorflow",
    program=("-m", "keras_impl.trace"),
    packages=("keras", "tensorflow"),
    # oneDNN's convolutions are TensorFlow's default on processors with AVX-512 only; with AVX2
    # they are faster too.
    variables={"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"},
)
KERAS_JAX = Engine(
    name="keras-jax",
    program=("-m", "keras_impl.trace"),
    packages=("keras", "jax"),
    variables={"KERAS_BACKEND": "jax"},
    float64_variables={"JAX_ENABLE_X64": "1"},
)
KERAS_TORCH = Engine(
    name="keras-torch",
    program=("-m", "keras_impl.trace"),
    packages=("keras", "torch"),
    variables={"KERAS_BACKEND": "torch"},
)
ENGINES = {engine.name: engine for engine in (KERAS_TENSORFLOW, LIGHTNING, KERAS_JAX, KERAS_TORCH)}
DEFAULT_ENGINES = ("keras-tensorflow", "lightning")


def trainer_arguments(engine: str) -> tuple[str, ...]:
    """Return the trainer script of `engine`, a name in `scripts/`, with its first arguments."""
    if engine == "lightning":
        return ("train_lightning.py",)
    return ("train_keras.py", "--backend", engine.removeprefix("keras-"))
