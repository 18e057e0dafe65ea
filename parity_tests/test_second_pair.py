"""A second, different pair: nothing in `ladder` knows the tutorial's network or data."""

import subprocess
import sys

import pytest

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
def test_the_second_pair_is_the_same_computation(strided, engine, variant):
    verdict = strided.climb("lightning", engine, variant)
    assert verdict.passed, verdict
    passed = {rung.name for rung in verdict.rungs if rung.status == "passed"}
    assert passed == {"contract", "architecture", "layers", "logits", "gradients", "optimizer"}


def test_what_parts_keras_on_torch_is_named_and_vanishes_without_it(strided):
    """Average pooling with uneven padding; counted by hand above, the gap is gone."""
    verdict = strided.climb("lightning", "keras-torch", "uneven-pool")
    assert verdict.first_failure.name == "layers"
    assert [found.cause for found in verdict.first_failure.diagnoses] == ["pool-edge-repeated"]


@pytest.mark.parametrize(
    ("engine", "mutant", "rung", "cause"),
    [
        ("lightning", "max-pool", "contract", "pool-average"),
        ("lightning", "torch-adamw", "contract", "adam-epsilon-placement"),
        ("lightning", "torch-adamw-epsilon", "contract", "adam-epsilon-value"),
        ("lightning", "torch-decay", "contract", "decoupled-weight-decay"),
        ("lightning", "climbing-schedule", "optimizer", "learning-rate"),
        ("lightning", "stock-clipping", "optimizer", "clipped-gradients"),
        ("lightning", "clipped-apart", "optimizer", "clipped-gradients"),
        ("lightning", "clipped-values", "contract", "clipped-gradients"),
        ("lightning", "unclipped", "contract", "clipped-gradients"),
        ("lightning", "softmax-output", "logits", "softmax-output"),
        ("lightning", "summed-loss", "contract", "loss-sum"),
        ("keras-tensorflow", "padded-by-one", "layers", "conv-padding"),
        ("keras-tensorflow", "coupled-decay", "contract", "decoupled-weight-decay"),
        ("keras-tensorflow", "keras-decay", "contract", "decoupled-weight-decay"),
        ("keras-tensorflow", "single-schedule", "optimizer", "float32-inside-float64"),
        ("keras-tensorflow", "summed-pool", "layers", "pool-padding"),
    ],
)
def test_a_mutant_in_it_is_caught_and_named(strided, engine, mutant, rung, cause):
    other = "keras-tensorflow" if engine == "lightning" else "lightning"
    verdict = strided.climb(other, engine, mutant=mutant)
    assert verdict.first_failure.name == rung
    assert verdict.first_failure.diagnoses[0].cause == cause
    # Where a setting gives it away, the numbers below bear it out.
    if rung == "contract":
        later = [each for each in verdict.rungs[1:] if each.status == "failed"]
        assert later
        causes = {found.cause for each in later for found in each.diagnoses}
        assert cause in causes or mutant == "coupled-decay"


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
