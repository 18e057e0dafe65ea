"""The model as files that run without this project: `.keras`, SavedModel and ONNX.

They take images (N, H, W, 1) in [0, 1] and return logits.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_impl.model import build_model
from keras_impl.weights import Weights, load_weights
from pipeline.execution import ONNX_OPSET
from pipeline.recipe import Recipe

Array = np.ndarray[Any, Any]


def export_model(form: str, path: Path, recipe: Recipe, weights: Weights) -> None:
    """Write the model with these canonical weights as `form`: `keras`, `savedmodel` or `onnx`.

    Keras writes a SavedModel on TensorFlow. ONNX it writes on torch with torch's own exporter; on
    TensorFlow it would need tf2onnx.
    """
    model = build_model(recipe)
    load_weights(model, weights, recipe)
    if form == "keras":
        model.save(path)
        return
    if form == "onnx":  # which asks for a model that has been called
        model(keras.ops.zeros((1, recipe.image_size, recipe.image_size, 1)))
    options = {"opset_version": ONNX_OPSET} if form == "onnx" else {}
    kind = {"savedmodel": "tf_saved_model"}.get(form, form)
    model.export(path, format=kind, verbose=False, **options)


def run_exported(form: str, path: Path, batches: list[Array]) -> list[Array]:
    """Return the exported file's outputs for batches of images, loaded from nothing else."""
    if form == "keras":
        model = keras.saving.load_model(path, safe_mode=True)
        return [np.asarray(model.predict_on_batch(batch)) for batch in batches]
    import tensorflow as tf

    program = tf.saved_model.load(path)
    return [program.serve(batch).numpy() for batch in batches]
