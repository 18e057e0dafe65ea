"""The questions that this pipeline's ladder asks."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ladder.arrays import Array
from ladder.exchange import Question
from ladder.rungs import RUNGS
from pipeline.datasets import Dataset
from pipeline.drawn import write_first_images, write_idx_set
from pipeline.network import shared_first_weights
from pipeline.preprocess import rescale
from pipeline.recipe import Recipe, preset, recipe_to_dict

NUM_TRAIN, NUM_TEST = 300, 110
"""Images of the small set: 240 train in five batches, 60 validate; each set's last is partial."""
BATCH_SIZE = 50
CALL = 25
"""Steps that the fast paths take in one call: `STEPS_PER_EXECUTION`, `STEPS_PER_BATCH`."""
TRAINING = {"batch_size": 3, "validation_fraction": 0.483}
"""What the whole training has otherwise in float64, so that few images cross every seam of the
fast paths: 155 train in 52 steps, two full calls and one of two steps, of which the last has two
images; 145 validate in 49. In float32, rounding alone would part two such trainings."""
CAPTURED_NUM_TRAIN, CAPTURED_CALL = 2_078, 250
CAPTURED_TRAINING = {"batch_size": 2, "validation_fraction": 0.5}
"""The same for steps that come from a CUDA graph, 250 in one call: 520 steps, the last of one
image."""
NUM_EPOCHS = 2
NUM_STEPS = 6
"""Steps after each of which weights and slots are compared; the last is the second epoch's."""
OWN_SEEDS = (0, 1, 2, 3, 4)
CASES = ("full", "partial", "single", "saturated", "dithered")
SATURATION = 2_000.0
"""Factor on the images of the saturated case: logits of some hundreds, probabilities of 0 and 1."""
BIAS_DEVIATION = 0.1
DITHER = 0.01
"""Noise on the images of the dithered case, whose max pools have no ties.

Where an image is flat, the values in a pool's window are equal but for rounding. Which of them the
gradient goes to changes no weight's gradient, as all saw the same patch, but the image's own.
"""

ASKS = (
    "layers", "own_weights", "points", "forced", "cases", "gradients", "batches",
    "steps", "training",
)  # fmt: skip


@dataclass(frozen=True)
class Material:
    """The images that a ladder is climbed on."""

    data_dir: Path
    """Four IDX files: what is trained on, validated and tested."""
    images: Array
    """uint8 (B, H, W, 1), what layers, logits and gradients are compared on."""
    classes: Array
    """int64 (B,)."""


def real_material(dataset: Dataset, folder: Path, num_train: int = NUM_TRAIN) -> Material:
    """Write the first images of a data set to `folder`, and return them as material."""
    write_first_images(dataset, folder, num_train, NUM_TEST)
    return _material(folder, dataset.test_images, dataset.test_labels)


def tie_free_material(folder: Path) -> Material:
    """Write noise to `folder`: no two neighbouring values are equal, so no max pool has a tie."""
    random = np.random.default_rng(0)
    parts = []
    for count in (NUM_TRAIN, NUM_TEST):
        parts.append(random.integers(256, size=(count, 28, 28), dtype=np.uint8))
        parts.append((np.arange(count) % 10).astype(np.uint8))
    write_idx_set(folder, *parts)
    return _material(folder, *parts[2:])


def _material(folder: Path, images: Array, labels: Array) -> Material:
    return Material(folder, images[:BATCH_SIZE, ..., np.newaxis], labels[:BATCH_SIZE].astype(int))


def ladder_recipe(variant: str, precision: str, seed: int = 0) -> Recipe:
    """Return the tutorial's recipe for the small set: its network whole, its training short."""
    return preset(
        variant, precision=precision, batch_size=BATCH_SIZE, num_epochs=NUM_EPOCHS, seed=seed
    )


def point_names(recipe: Recipe, plain: bool) -> list[str]:
    """Return the named points of a path; on the fast one pool and activation change places."""
    names = []
    for block, rate in enumerate(recipe.dropout_rates[:-1], start=1):
        names += [f"conv{block}", *([f"act{block}"] if plain else []), f"pool{block}"]
        names += [f"drop{block}"] if rate else []
    names += ["flatten", "hidden", "hidden_act"]
    return [*names, *(["hidden_drop"] if recipe.dropout_rates[-1] else []), "logits"]


def points_question(recipe: Recipe, material: Material, plain: bool) -> Question:
    """Ask for each named point's output, from which the ladder's question is made."""
    settings = {"recipe": recipe_to_dict(recipe), "points": point_names(recipe, plain)}
    arrays = {"images": material.images, **_weights(recipe)}
    return Question(("points",), {**settings, "plain": plain}, arrays)


def ladder_question(
    recipe: Recipe,
    material: Material,
    plain: bool,
    points: Mapping[str, Array],
    captured: bool = False,
) -> Question:
    """Ask for all that the ladder compares.

    `points` are an engine's outputs `point.<name>`, which each layer is fed as its input. With
    `captured`, Lightning trains as on a GPU, and `material` has as many images as that takes.
    """
    names = point_names(recipe, plain)
    has_dropout = any(recipe.dropout_rates)
    training: Mapping[str, Any] = TRAINING if recipe.precision == "64" else {}
    num_train, call = NUM_TRAIN, CALL
    if captured:
        training, num_train, call = CAPTURED_TRAINING, CAPTURED_NUM_TRAIN, CAPTURED_CALL
    settings: dict[str, Any] = {
        "recipe": recipe_to_dict(recipe),
        "data_dir": str(material.data_dir),
        "plain": plain,
        "points": names,
        "cases": list(CASES),
        "gradient_cases": ["full", "partial", "single", "dithered"],
        "input_gradient_cases": ["dithered"],
        "seeds": list(OWN_SEEDS),
        "steps": NUM_STEPS,
        "masks": has_dropout,
        "thin": True,
        "steps_per_epoch": seams_of(num_train, recipe, num_train)[0],
        "training": training,
        "call": call,
        "seams": seams_of(num_train, dataclasses.replace(recipe, **training), call),
        "captured": captured,
    }
    arrays = {
        "images": material.images,
        **_weights(recipe),
        **_inputs(recipe, material, names, points),
        **_cases(recipe, material),
    }
    return Question((*ASKS, *(["dropout"] if has_dropout else [])), settings, arrays)


def on_device(question: Question, device: str) -> Question:
    """Return the question as it is asked on a device, `cpu` or `gpu`."""
    if device == "cpu":
        return question  # as it has always been: answers that are kept stay answers to it
    return dataclasses.replace(question, settings={**question.settings, "device": device})


def seams_of(num_images: int, recipe: Recipe, call: int) -> list[int]:
    """Return the steps, counted through all epochs, after which a call or an epoch ends."""
    num_trained = num_images - math.ceil(num_images * recipe.validation_fraction)
    num_steps = math.ceil(num_trained / recipe.batch_size)
    ends = [*range(call, num_steps, call), num_steps]
    return [epoch * num_steps + end for epoch in range(recipe.num_epochs) for end in ends]


def only(question: Question, rungs: Collection[str]) -> Question:
    """Return the question less what none of `rungs` compares."""
    wanted = {ask for rung in RUNGS if rung.name in rungs for ask in rung.asks}
    prefixes = {"input": {"forced"}, "images": {"cases", "gradients"}}
    arrays = {
        name: array
        for name, array in question.arrays.items()
        if "." not in name or prefixes.get(name.split(".")[0], wanted) & wanted
    }
    asks = tuple(ask for ask in question.asks if ask in wanted)
    return dataclasses.replace(question, asks=asks, arrays=arrays)


def carried_weights(recipe: Recipe) -> dict[str, Array]:
    """Return the shared first weights with biases that are not zero, but for the first layer's.

    Biases of zero could be exchanged or left out without a trace. On a black ground, a first layer
    without a bias gives exactly zero, which frameworks do not treat alike on the way back.
    """
    random = np.random.default_rng(recipe.seed)
    return {
        name: np.asarray(random.normal(0, BIAS_DEVIATION, array.shape), array.dtype)
        if name.endswith(".bias") and name != "conv1.bias"
        else array
        for name, array in shared_first_weights(recipe).items()
    }


def _weights(recipe: Recipe) -> dict[str, Array]:
    return {f"weights.{name}": array for name, array in carried_weights(recipe).items()}


def _inputs(
    recipe: Recipe, material: Material, names: Sequence[str], points: Mapping[str, Array]
) -> dict[str, Array]:
    """Return `input.<name>` for each point: the output of the point before it."""
    dtype = "float64" if recipe.precision == "64" else "float32"
    first = rescale(material.images, dtype)
    before = [first, *(points[f"point.{name}"] for name in names[:-1])]
    return {f"input.{name}": array for name, array in zip(names, before, strict=True)}


def _cases(recipe: Recipe, material: Material) -> dict[str, Array]:
    dtype = "float64" if recipe.precision == "64" else "float32"
    images = rescale(material.images, dtype)
    noise = np.asarray(np.random.default_rng(0).uniform(0, DITHER, images.shape), images.dtype)
    cases = {
        "full": images,
        "partial": images[: BATCH_SIZE // 3],
        "single": images[:1],
        "saturated": images * images.dtype.type(SATURATION),
        "dithered": images + noise,
    }
    arrays: dict[str, Array] = {}
    for case, shown in cases.items():
        arrays[f"images.{case}"] = shown
        arrays[f"labels.{case}"] = material.classes[: len(shown)]
    return arrays
