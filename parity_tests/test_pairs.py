"""Both pairs pass `portproof`; it finds each change that is made to the second, and names it."""

import subprocess
import sys

import pytest

from parity_tests.pair_checks import check_strided, check_tutorial, first_apart

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("engine", "variant"),
    [
        ("keras-tensorflow", ""),
        ("keras-tensorflow", "momentum-sgd"),
        ("keras-jax", ""),
        ("keras-torch", ""),
        ("keras-torch", "counted-windows"),
    ],
)
def test_the_second_pair_is_the_same_computation(engine, variant):
    verdict = check_strided(engine, variant=variant)
    assert verdict.passed, verdict
    assert first_apart(verdict) is None, verdict
    assert verdict.asked == ["forward", "gradients", "steps"]


@pytest.mark.parametrize(
    ("engine", "variant"),
    [
        ("keras-tensorflow", "base"),
        ("keras-tensorflow", "dropout"),
        ("keras-jax", "dropout"),
        ("keras-torch", "dropout"),
    ],
)
def test_the_tutorials_pair_passes_strictly(engine, variant):
    verdict = check_tutorial(engine, variant=variant)
    assert verdict.passed, verdict
    assert verdict.asked == ["forward", "gradients", "steps"]


def test_what_parts_keras_on_torch_is_found_and_vanishes_without_it():
    """Average pooling with uneven padding; counted by hand above, the gap is gone."""
    verdict = check_strided("keras-torch", variant="uneven-pool")
    assert not verdict.passed
    assert "pads behind alone by its outermost values again" in first_apart(verdict).cause


BETWEEN, UPDATE = "between", "update"


@pytest.mark.parametrize(
    ("engine", "mutant", "what", "cause"),
    [
        ("lightning", "max-pool", BETWEEN, "An average in place of the maximum in the reference"),
        ("lightning", "torch-adamw-epsilon", UPDATE, "epsilon 1e-07 | 1e-08"),
        ("lightning", "torch-decay", UPDATE, "weight_decay 0.05 | 0.01"),
        ("lightning", "climbing-schedule", UPDATE, "learning rate 0.0002 | 0.000268508: each"),
        ("lightning", "clipped-apart", UPDATE, "clipped by all's norm, at most 1 | a hook of its"),
        ("lightning", "clipped-values", UPDATE, "clipped by all's norm, at most 1 | a hook of its"),
        ("lightning", "unclipped", UPDATE, "clipped by all's norm, at most 1 | a hook of its own"),
        ("lightning", "torch-momentum", "statistics", "momentum 0.99 | 0.9"),
        ("lightning", "softmax-output", BETWEEN, "softmax in the suspect alone"),
        ("lightning", "summed-loss", "loss", None),
        ("keras-tensorflow", "torch-epsilon", "epsilon", "epsilon 1e-05 | 0.001"),
        ("keras-tensorflow", "padded-by-one", "call", None),
        ("keras-tensorflow", "coupled-decay", UPDATE, None),
        ("keras-tensorflow", "keras-decay", UPDATE, "weight_decay 0.004 | 0.05"),
        ("keras-tensorflow", "unclipped", UPDATE, "clipped by nothing | a hook of its own"),
        ("keras-tensorflow", "summed-loss", "loss", None),
        ("keras-tensorflow", "softmax-output", BETWEEN, "softmax in the reference alone"),
    ],
)
def test_a_change_of_it_is_found_and_named(engine, mutant, what, cause):
    verdict = check_strided(engine, mutant)
    assert not verdict.passed
    found = first_apart(verdict)
    assert found.what == what
    assert cause in found.cause if cause else found.cause is None


@pytest.mark.parametrize(
    ("mutant", "cause"),
    [
        ("torch-adamw", "ε beside √v in Keras's AdamW"),
        ("stock-clipping", "torch clips by the gradients' norm + 1e-6"),
    ],
)
def test_what_is_the_frameworks_own_is_said_and_fails_nothing(mutant, cause):
    verdict = check_strided("lightning", mutant)
    assert verdict.passed
    assert cause in first_apart(verdict).cause


# That it passes as it is, is a test of the README's commands.
def test_portproof_says_where_it_parts_with_another_normalisation(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from parity_tests.pairs import strided_lightning as pair\n\n"
        "def build():\n"
        "    pair.BiasedBatchNorm2d = nn.BatchNorm2d\n"
        "    return pair.build()\n"
    )
    command = ["-m", "portproof", "check", "parity_tests.pairs.strided_keras:build", "mine:build",
               "--input", "16,16,3", "--strict"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert "a biased variance in the reference" in done.stdout
