"""This pipeline's LightningModule, as `portproof check` is given it; see `tutorial_keras.py`."""

from functools import partial
from typing import Any

import lightning as L
import numpy as np

import lightning_impl.model
import lightning_impl.train
import lightning_impl.weights
import parity_tests.mutants.lightning_forward
import parity_tests.mutants.lightning_training  # noqa: F401 - each registers its mutants
from parity_tests.catalogue import PLANTERS
from pipeline.execution import Execution
from pipeline.recipe import VARIANTS, preset

OF_THE_RUN = {
    "accelerator", "default_root_dir", "devices", "enable_model_summary", "num_nodes", "plugins",
    "precision", "strategy",
}  # fmt: skip
"""Options of the Trainer that say where and how it runs, which portproof settles itself."""


def __getattr__(name: str) -> Any:
    """Return the function that builds a variant; `base__loss_sum` plants a mutant first."""
    variant, _, mutant = name.partition("__")
    if variant not in VARIANTS:
        raise AttributeError(name)
    if mutant:
        PLANTERS[mutant.replace("_", "-")]()
    return partial(_built, variant)


def converted(weights: dict[str, np.ndarray[Any, Any]], module: Any) -> None:
    """Load the Keras model's weights, by path, as runs load canonical ones."""
    named = {".".join(path.split("/")[-2:]): array for path, array in weights.items()}
    lightning_impl.weights.load_weights(module.network, named, module.recipe)


def _built(variant: str) -> tuple[L.LightningModule, dict[str, Any]]:
    recipe = preset(variant, precision="64", num_epochs=2)
    options = lightning_impl.train._trainer_options(recipe, Execution(device="cpu"))
    told = {name: value for name, value in options.items() if name not in OF_THE_RUN}
    module = lightning_impl.model.Classifier(recipe).double()
    return module, {**told, "max_epochs": recipe.num_epochs}
