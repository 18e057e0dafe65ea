"""Training in its coarsest form: each implementation reaches the accuracy of the recipe."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ladder.compare import compare_arrays
from parity_tests.seeds import Rows
from parity_tests.terms import EPOCH_BASE_FLOAT32, EPOCH_DROPOUT
from pipeline.drawn import write_first_images
from pipeline.evaluation import evaluate_logits
from pipeline.recipe import preset, recipe_to_dict
from pipeline.record import EPOCH_METRICS
from reporting.comparison import EXPECTED_TEST_ACCURACY, comparison_from_json, expected_range

ENGINES = ("keras-tensorflow", "lightning")
VARIANTS = ("base", "dropout")
RESULTS = Path(__file__).resolve().parent.parent / "results" / "compare-20-epochs"


def is_in_range(accuracy, variant, num_epochs):
    low, high = EXPECTED_TEST_ACCURACY[variant, num_epochs]
    return low <= accuracy <= high


@pytest.mark.parametrize(("variant", "loss"), [("base", 0.034), ("dropout", 0.023)])
def test_ranges_after_five_epochs_are_those_of_many_seeds(variant, loss):
    rows = Rows(RESULTS.parent / "equivalence" / "runs.sqlite").read()
    wanted = recipe_to_dict(preset(variant, num_epochs=5, seed=0))
    runs = [row for row in rows if {**row.recipe, "seed": 0} == wanted]
    accuracies = [row.metrics["accuracy"] for row in runs]
    assert len(accuracies) >= 60
    moments = np.mean(accuracies), np.std(accuracies, ddof=1)
    fitted = stats.pearson3(stats.skew(accuracies, bias=False), *moments)
    low, high = EXPECTED_TEST_ACCURACY[variant, 5]
    assert fitted.cdf(low) + fitted.sf(high) <= 0.001
    assert fitted.cdf(low + loss) >= 0.99  # what it catches


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "variant"), list(product(ENGINES, VARIANTS)))
def test_one_real_epoch_ends_in_the_expected_range(trained, engine, variant):
    record = trained(engine, variant)
    assert expected_range(record) == EXPECTED_TEST_ACCURACY[variant, 1]
    assert is_in_range(record.test["accuracy"], variant, 1)
    assert record.parameters == 356_234


def first_epoch(record):
    return {name: np.array([record.history[0][name]]) for name in EPOCH_METRICS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "tolerance"), [("base", EPOCH_BASE_FLOAT32), ("dropout", EPOCH_DROPOUT)]
)
def test_one_real_epoch_ends_alike_in_both(trained, variant, tolerance):
    keras, lightning = (first_epoch(trained(engine, variant)) for engine in ENGINES)
    assert compare_arrays(keras, lightning, tolerance) == []


@pytest.mark.slow
def test_another_network_ends_unlike(trained):
    """The dropout variant, taken for the base one, is out of both tolerances."""
    base, dropout = (first_epoch(trained("lightning", variant)) for variant in VARIANTS)
    assert compare_arrays(base, dropout, EPOCH_BASE_FLOAT32)
    assert compare_arrays(base, dropout, EPOCH_DROPOUT)


@pytest.mark.slow
def test_labels_shifted_in_training_are_caught(ask, dataset, tmp_path):
    """Its own training metrics look as good as ever: only the true labels tell."""
    write_first_images(dataset, tmp_path, 10_000, 2_000)
    accuracies = {}
    for mutant in ("", "shifted-labels"):
        recipe, settings = preset("base", num_epochs=1), {"data_dir": str(tmp_path)}
        trace = ask("lightning", recipe, "training", mutant=mutant, **settings)
        labels = dataset.test_labels[:2_000]
        evaluation = evaluate_logits(trace.arrays["trained_logits"], labels, dataset.class_names)
        accuracies[mutant] = evaluation.accuracy
        assert trace.facts["history"][0]["accuracy"] > 0.6
    assert accuracies[""] > 0.7
    assert accuracies["shifted-labels"] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_twenty_epochs_ended_in_the_expected_range(engine, variant):
    """From the records of `make compare EPOCHS=20` that are kept in results/."""
    fields = json.loads((RESULTS / "comparison.json").read_text())
    runs = {(run.engine, run.variant): run for run in comparison_from_json(fields).runs}
    run = runs[engine, variant]
    assert run.num_epochs == 20
    assert is_in_range(run.test_accuracy, variant, 20)
    assert (run.train_accuracy > 0.98) == (variant == "base")
