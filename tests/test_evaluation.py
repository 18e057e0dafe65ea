import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss

from pipeline.errors import RunError
from pipeline.evaluation import evaluate_logits

NAMES = [f"class {label}" for label in range(10)]


@pytest.fixture
def sample():
    generator = np.random.default_rng(1)
    return generator.normal(size=(200, 10)), generator.integers(0, 10, 200)


def test_loss_and_accuracy_are_those_of_scikit_learn(sample):
    logits, labels = sample
    evaluation = evaluate_logits(logits, labels, NAMES)
    expected = log_loss(labels, softmax(logits, axis=1), labels=range(10))
    assert evaluation.loss == pytest.approx(expected, rel=1e-12)
    assert evaluation.accuracy == accuracy_score(labels, logits.argmax(axis=1))


def test_everything_has_its_shape_and_dtype(sample):
    logits, labels = sample
    evaluation = evaluate_logits(logits.astype(np.float32), labels, NAMES)
    assert evaluation.confusion.shape == (10, 10)
    assert evaluation.confusion.dtype == np.int64
    assert evaluation.predicted.dtype == np.int64
    assert evaluation.probabilities.dtype == np.float64
    assert evaluation.probabilities.sum(axis=1) == pytest.approx(np.ones(200))
    assert sorted([*evaluation.correct, *evaluation.incorrect]) == list(range(200))
    assert "class 3" in evaluation.report_text


def test_confusion_has_true_classes_in_rows():
    logits = np.array([[0.0, 9.0], [0.0, 9.0], [0.0, 9.0]])
    evaluation = evaluate_logits(logits, np.array([0, 0, 1]), ["zero", "one"])
    assert evaluation.confusion.tolist() == [[0, 2], [0, 1]]
    assert evaluation.correct.tolist() == [2]
    assert evaluation.incorrect.tolist() == [0, 1]


def test_large_logits_do_not_overflow():
    evaluation = evaluate_logits(np.array([[5000.0, 0.0]]), np.array([1]), ["zero", "one"])
    assert evaluation.loss == 5000.0


def test_classes_absent_from_a_small_test_set_keep_their_rows():
    evaluation = evaluate_logits(np.eye(10)[[3, 3]], np.array([3, 4]), NAMES)
    assert evaluation.confusion.sum() == 2
    assert evaluation.report["class 9"]["support"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(sample, bad):
    logits, labels = sample
    logits[7, 3] = bad
    with pytest.raises(RunError, match="logits of 1 of 200 samples are not finite"):
        evaluate_logits(logits, labels, NAMES)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 9)), np.zeros(2, int), r"shape \(N, 10\)"),
        (np.zeros(10), np.zeros(10, int), r"shape \(N, 10\)"),
        (np.zeros((0, 10)), np.zeros(0, int), "N at least 1"),
        (np.zeros((2, 10)), np.zeros(3, int), "must be 2 integers"),
        (np.zeros((2, 10)), np.zeros(2), "must be 2 integers"),
        (np.zeros((2, 10)), np.array([0, 10]), r"must lie in \[0, 10\); received 0 to 10"),
        (np.zeros((2, 10)), np.array([-1, 0]), r"must lie in \[0, 10\); received -1 to 0"),
    ],
)
def test_wrong_shapes_and_labels_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate_logits(logits, labels, NAMES)
