"""Rung 10 in small: two epochs of production training in float64 end in the same place.

In float64 a difference is either rounding, 1e-15 to 1e-12, or a difference in meaning.
"""

import numpy as np
import pytest

from parity_tests.tolerances import EPOCH_METRICS_FLOAT64, TRAINING_FLOAT64
from pipeline.drawn import draw_dataset, write_idx_set
from pipeline.recipe import preset
from pipeline.record import EPOCH_METRICS
from portproof.compare import compare_arrays, gap

# 480 training images in batches of 50: the last one is partial.
RECIPE = preset("base", precision="64", batch_size=50, num_epochs=2)
NUM_TRAIN, NUM_TEST = 600, 100


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Shapes on a flat background of zeros, over which every first activation is exactly 0."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, NUM_TRAIN, NUM_TEST)
    return folder


@pytest.fixture(scope="session")
def noise(tmp_path_factory):
    """Noise everywhere: no activation is exactly 0, and no max pool has a tie."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    parts = []
    for count in (NUM_TRAIN, NUM_TEST):
        parts.append(random.integers(256, size=(count, 28, 28), dtype=np.uint8))
        parts.append((np.arange(count) % 10).astype(np.uint8))
    write_idx_set(folder, *parts)
    return folder


def ask_training(ask, engine, folder, *, plain=False, fault=""):
    return ask(engine, RECIPE, "training", fault=fault, data_dir=str(folder), plain=plain)


def just_logits(trace):
    return {"logits": trace.arrays["trained_logits"]}


@pytest.mark.parametrize(
    ("engine", "plain"),
    [
        ("keras-tensorflow", False),
        ("keras-tensorflow", True),
        ("keras-torch", False),
        ("lightning", True),
    ],
)
def test_training_ends_with_the_same_logits(ask, drawn, engine, plain):
    reference = ask_training(ask, "lightning", drawn)
    other = ask_training(ask, engine, drawn, plain=plain)
    assert other.arrays["trained_logits"].dtype == np.float64
    assert np.ptp(reference.arrays["trained_logits"]) > 1
    differences = compare_arrays(just_logits(reference), just_logits(other), TRAINING_FLOAT64)
    assert differences == []


@pytest.mark.parametrize("engine", ["keras-tensorflow", "keras-torch"])
def test_each_epochs_metrics_are_the_same(ask, drawn, engine):
    histories = [ask_training(ask, name, drawn).facts["history"] for name in ("lightning", engine)]
    assert len(histories[0]) == len(histories[1]) == RECIPE.num_epochs
    lightning, keras = (
        {name: np.array([row[name] for row in history]) for name in EPOCH_METRICS}
        for history in histories
    )
    assert lightning["loss"][1] < lightning["loss"][0]
    assert compare_arrays(lightning, keras, EPOCH_METRICS_FLOAT64) == []


def test_jax_parts_where_activations_are_exactly_zero(ask, drawn):
    """LeakyReLU's slope at 0 is 1 in JAX and the negative slope in the others."""
    reference, jax = (ask_training(ask, engine, drawn) for engine in ("lightning", "keras-jax"))
    assert gap(reference.arrays["trained_logits"], jax.arrays["trained_logits"]) > 1e-3


def test_where_nothing_is_zero_jax_agrees_too(ask, noise):
    reference, jax = (ask_training(ask, engine, noise) for engine in ("lightning", "keras-jax"))
    assert np.ptp(reference.arrays["trained_logits"]) > 0.1
    differences = compare_arrays(just_logits(reference), just_logits(jax), TRAINING_FLOAT64)
    assert differences == []


@pytest.mark.parametrize("fault", ["torch-adam", "drop-last"])
def test_a_planted_fault_is_caught(ask, drawn, fault):
    faulty = ask_training(ask, "lightning", drawn, fault=fault)
    reference = ask_training(ask, "keras-tensorflow", drawn)
    assert compare_arrays(just_logits(faulty), just_logits(reference), TRAINING_FLOAT64)
