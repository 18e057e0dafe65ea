"""Rung `logits`: the same logits after weights are carried over, in both directions."""

import numpy as np
import pytest

from ladder.compare import compare_arrays
from parity_tests.terms import LOGITS_FLOAT32
from pipeline.network import parameter_shapes, shared_first_weights
from pipeline.recipe import preset

ENGINES = ("keras-tensorflow", "lightning")
NUM_IMAGES = 1_000


def ask_logits(ask, dataset, engine, weights, *, variant="base", plain=False, mutant=""):
    arrays = {f"weights.{name}": array for name, array in weights.items()}
    arrays["images"] = np.ascontiguousarray(dataset.test_images[:NUM_IMAGES, ..., np.newaxis])
    return ask(engine, preset(variant), "logits", arrays=arrays, plain=plain, mutant=mutant).arrays


def own_weights(ask, engine):
    trace = ask(engine, preset("base"), "own_weights", seeds=[0, 1, 2, 3, 4])
    return {name: trace.arrays[f"own.0.{name}"] for name in parameter_shapes(preset("base"))}


def just_logits(arrays):
    return {"logits": arrays["logits"]}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("variant", ["base", "dropout"])
@pytest.mark.parametrize("source", ENGINES)
def test_weights_carried_over_give_the_same_logits(ask, dataset, source, variant, plain):
    """In both directions: from one framework's own weights into both frameworks."""
    weights = own_weights(ask, source)
    keras, lightning = (
        ask_logits(ask, dataset, engine, weights, variant=variant, plain=plain)
        for engine in ENGINES
    )
    assert keras["logits"].shape == (NUM_IMAGES, 10)
    assert np.ptp(keras["logits"]) > 0.1
    assert compare_arrays(just_logits(keras), just_logits(lightning), LOGITS_FLOAT32) == []
    assert np.array_equal(keras["logits"].argmax(axis=1), lightning["logits"].argmax(axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras-jax", "keras-torch"])
def test_the_other_backends_give_the_same_logits(ask, dataset, engine):
    weights = shared_first_weights(preset("base"))
    keras, lightning = (
        just_logits(ask_logits(ask, dataset, name, weights)) for name in (engine, "lightning")
    )
    assert compare_arrays(keras, lightning, LOGITS_FLOAT32) == []


@pytest.mark.parametrize("source", ENGINES)
@pytest.mark.parametrize("engine", ENGINES)
def test_weights_survive_the_way_in_and_out_to_the_last_bit(ask, dataset, engine, source):
    weights = own_weights(ask, source)
    arrays = ask_logits(ask, dataset, engine, weights)
    exported = {name.removeprefix("exported."): arrays[name] for name in arrays if "." in name}
    assert compare_arrays(weights, exported) == []


@pytest.mark.parametrize(
    ("engine", "mutant"),
    [
        ("lightning", "unpermuted-flatten"),
        ("lightning", "transposed-kernel"),
        ("lightning", "torch-slope"),
        ("lightning", "pool-padding"),
        ("keras-tensorflow", "keras-slope"),
        ("keras-tensorflow", "softmax-output"),
    ],
)
def test_a_mutant_is_caught(ask, dataset, engine, mutant):
    weights = shared_first_weights(preset("base"))
    other = ENGINES[1 - ENGINES.index(engine)]
    mutated = just_logits(ask_logits(ask, dataset, engine, weights, mutant=mutant))
    right = just_logits(ask_logits(ask, dataset, other, weights))
    differences = compare_arrays(mutated, right, LOGITS_FLOAT32)
    assert [difference.where.split("[")[0] for difference in differences] == ["logits"]
