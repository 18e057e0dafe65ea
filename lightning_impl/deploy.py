"""The network as files that run without this project: a `torch.export` program and ONNX.

They take images (N, 1, H, W) in [0, 1] and return logits.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_impl.model import build_model
from lightning_impl.weights import Weights, load_weights
from pipeline.batches import batch_dtype
from pipeline.execution import ONNX_OPSET
from pipeline.recipe import Recipe

Array = np.ndarray[Any, Any]


def export_model(form: str, path: Path, recipe: Recipe, weights: Weights) -> None:
    """Write the network with these canonical weights as `form`: `pt2` or `onnx`."""
    dtype = getattr(torch, batch_dtype(recipe))
    network = build_model(recipe).to(dtype).eval()
    load_weights(network, weights, recipe)
    size = recipe.image_size
    example = torch.zeros((2, 1, size, size), dtype=dtype)
    program = torch.export.export(
        network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    if form == "pt2":
        torch.export.save(program, path)
        return
    torch.onnx.export(
        program,
        f=path,
        input_names=["image"],
        output_names=["logits"],
        opset_version=ONNX_OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def run_exported(form: str, path: Path, batches: list[Array]) -> list[Array]:
    """Return the exported file's outputs for batches of images, loaded from nothing else."""
    assert form == "pt2"
    program = torch.export.load(path).module()
    return [program(torch.from_numpy(batch)).numpy(force=True) for batch in batches]
