"""The four engines of this pipeline, and which interpreter each of them runs under.

That is, in this order: the one that a variable names (`KERAS_JAX_PYTHON`), the one that a line in
`engines.toml` names (`keras-jax = "/path/to/python"`), the GPU environment that `make setup` has
made for the engine, and the interpreter of this process.
"""

import os
import shutil
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from ladder.interpreters import Engine, Interpreter, this_interpreter
from pipeline.environment import has_gpu_driver
from pipeline.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
INTERPRETERS = ROOT / "engines.toml"
GPU_ENVIRONMENTS = ROOT / ".venv-gpu"
"""Holds a virtual environment by engine's name, with `.set-up` in it once it is whole."""
SUPPORT = (
    "filelock", "jinja2", "matplotlib", "numpy", "PIL", "platformdirs", "psutil", "yaml", "rich",
    "safetensors", "sklearn", "scipy",
)  # fmt: skip
"""What trainers and answers import besides their framework."""
SHARED_PACKAGES = ("numpy", "scikit-learn")
"""Those of which each engine's version counts."""


def interpreter_of(engine: str) -> Interpreter:
    """Return the interpreter that programs of `engine` run under; it need not be a working one.

    Raises:
        UsageError: `engines.toml` cannot be read.
    """
    variable = python_variable(engine)
    if named := os.environ.get(variable):
        return Interpreter(_path(named, Path.cwd()), f"{variable}={named}")
    if named := _named_in_file().get(engine):
        return Interpreter(
            _path(named, INTERPRETERS.parent), f"{INTERPRETERS.name}: {engine} = {named}"
        )
    made = GPU_ENVIRONMENTS / engine
    if (made / ".set-up").is_file():
        python = made / "bin" / "python"
        return Interpreter(str(python), str(python), f"remove {made} and run make setup")
    return this_interpreter()


def python_variable(engine: str) -> str:
    """Return the environment variable that names an engine's interpreter."""
    return f"{engine.upper().replace('-', '_')}_PYTHON"


def _path(named: str, folder: Path) -> str:
    """Return an absolute path for what a user wrote: a path from `folder`, or a name on PATH.

    Not resolved: a virtual environment's Python is a symbolic link.
    """
    if os.sep in named or named.startswith("~"):
        return os.path.abspath(folder / Path(named).expanduser())
    return shutil.which(named) or named


def _named_in_file() -> dict[str, str]:
    try:
        lines = tomllib.loads(INTERPRETERS.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # a TOMLDecodeError is a ValueError
        raise UsageError(f"cannot read {INTERPRETERS}: {error}") from error
    for name, path in lines.items():
        if name not in ENGINES or not isinstance(path, str):
            raise UsageError(
                f'{INTERPRETERS} takes lines `ENGINE = "path/to/python"` for '
                f"{', '.join(ENGINES)}; received {name} = {path!r:.80}"
            )
    return lines


def _engine(name: str, program: str, packages: tuple[str, ...], **fields: Any) -> Engine:
    return Engine(
        name=name,
        program=("-m", program),
        packages=packages,
        find_python=partial(interpreter_of, name),
        support=SUPPORT,
        **fields,
    )


LIGHTNING = _engine(
    "lightning", "lightning_impl.trace", ("torch", "torchvision", "torchmetrics", "lightning")
)
KERAS_TENSORFLOW = _engine(
    "keras-tensorflow",
    "keras_impl.trace",
    ("keras", "tensorflow"),
    # oneDNN's convolutions are TensorFlow's default on processors with AVX-512 only; with AVX2
    # they are faster too.
    variables={"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"},
)
KERAS_JAX = _engine(
    "keras-jax",
    "keras_impl.trace",
    ("keras", "jax"),
    # JAX's CUDA plugin asks CUPTI for its version, which crashes where there is no driver.
    variables={"KERAS_BACKEND": "jax"}
    | ({} if has_gpu_driver() else {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}),
    float64_variables={"JAX_ENABLE_X64": "1"},
)
KERAS_TORCH = _engine(
    "keras-torch", "keras_impl.trace", ("keras", "torch"), variables={"KERAS_BACKEND": "torch"}
)
ENGINES = {engine.name: engine for engine in (KERAS_TENSORFLOW, LIGHTNING, KERAS_JAX, KERAS_TORCH)}
DEFAULT_ENGINES = ("keras-tensorflow", "lightning")


def trainer_arguments(engine: str) -> tuple[str, ...]:
    """Return the trainer script of `engine`, a name in `scripts/`, with its first arguments."""
    if engine == "lightning":
        return ("train_lightning.py",)
    return ("train_keras.py", "--backend", engine.removeprefix("keras-"))
