"""The recording program: finds which framework the user's function returns a model of."""

import sys
from typing import Any

from portproof.record.model import Model
from portproof.record.program import SetUpError, call_function, load_function, serve


def open_model(reference: str) -> tuple[Model, dict[str, Any]]:
    """Import the user's module, build the model in float64, and wrap it.

    Raises:
        SetUpError: the function is missing, raises, or returns something else than a model.
    """
    function = load_function(reference)
    _in_float64()
    loaded = _loaded()
    built = call_function(reference, function)
    if _loaded() != loaded:  # the framework was imported by the function: build again, in float64
        _in_float64()
        built = call_function(reference, function)
    options: Any = None
    if isinstance(built, tuple) and len(built) == 2 and _framework(built[0]):
        built, options = built  # a model, and what is given to `fit` or to the Trainer
    if not isinstance(options, dict | None):
        raise SetUpError(f"{reference}() returned a model and {type(options).__name__}; beside a "
                         "model it may return a dictionary of options")  # fmt: skip
    framework = _framework(built)
    if framework == "keras":
        from portproof.record import keras

        return keras.open_model(built, options)
    if framework == "torch":
        from portproof.record import torch

        return torch.open_model(built, options)
    raise SetUpError(
        f"{reference}() returned {type(built).__module__}.{type(built).__name__}; "
        "it must return a Keras 3 model, an nn.Module or a LightningModule"
    )


def _loaded() -> set[str]:
    return {"keras", "torch"} & sys.modules.keys()


def _in_float64() -> None:
    if "keras" in sys.modules:
        from portproof.record import keras

        keras.use_float64()
    if "torch" in sys.modules and "keras" not in sys.modules:
        from portproof.record import torch

        torch.use_float64()


def _framework(value: Any) -> str | None:
    """Return `keras` or `torch` by the classes it descends from."""
    for cls in type(value).__mro__:
        if cls.__module__.startswith("keras.") and cls.__name__ == "Model":
            return "keras"
        if cls.__module__.startswith("torch.nn") and cls.__name__ == "Module":
            return "torch"
    return None


if __name__ == "__main__":
    serve(open_model)
