"""What a run asks of an implementation, and what its process is given before a framework loads."""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from pipeline.engines import ENGINES
from pipeline.environment import bound_cores, usable_cores
from pipeline.execution import Execution
from pipeline.journal import Journal
from pipeline.preprocess import LabeledImages, PreparedData
from pipeline.processes import sharers, this_process
from pipeline.recipe import Recipe

Array = np.ndarray[Any, Any]


class Implementation(Protocol):
    """What an implementation's `train` module offers; beside it `processes` offers `together`."""

    __package__: str

    def configure(self, recipe: Recipe, execution: Execution) -> dict[str, Any]:
        """Set the framework up for this run and return what it resolved to."""

    def train(
        self,
        recipe: Recipe,
        data: PreparedData,
        execution: Execution,
        journal: Journal,
        weights: dict[str, Array] | None,
    ) -> Any:
        """Train, from the journal's last whole epoch on, and return the model."""

    def predict_logits(
        self, model: Any, images: LabeledImages, recipe: Recipe, execution: Execution
    ) -> Array:
        """Return the logits (N, classes) of `images`, dropout off."""


def within_quota(execution: Execution) -> Execution:
    """Return the execution with as many threads as a container's quota feeds.

    Frameworks start one for each core that they see; those that get no time hold up the others.
    Several processes on this machine share them.
    """
    num_cores = usable_cores()
    num_cores = max(1, num_cores // sharers(this_process(), os.environ, num_cores))
    if execution.num_threads is not None or num_cores >= bound_cores():
        return execution
    return dataclasses.replace(execution, num_threads=num_cores)


def environment_of(engine: str, recipe: Recipe, execution: Execution) -> dict[str, str]:
    """Return the variables that must be set before the framework is imported."""
    variables = ENGINES[engine].environment(recipe.precision)
    if execution.deterministic:
        variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
        variables["XLA_FLAGS"] = flags.strip()
    return variables


@contextmanager
def no_keras_home() -> Iterator[None]:
    """Let Keras find no `keras.json`: some of what it may say makes `import keras` fail."""
    with tempfile.TemporaryDirectory(prefix="keras-home-") as folder:
        os.environ["KERAS_HOME"] = folder
        os.environ.pop("KERAS_NNX_ENABLED", None)
        yield
