"""Trainings that a user has written himself: hooks, several optimizers, averages, loaders."""

from pathlib import Path

import pytest
from portproof.checking import check

PAIRS = Path(__file__).parent / "pairs"
AVERAGE = "the moving average takes the weights' place (use_ema) in the reference alone"
TWO_BIASES = "two biases in the suspect, of which its optimizer moves both: one alone agrees"
ADAGRAD = ("ε within the root in Keras's Adagrad, beside it in torch's; and "
           "initial_accumulator_value 0.1 | 0")  # fmt: skip
DECAY = ("ε beside √v in Keras's AdamW, beside √(v/(1 − β₂ᵗ)) in torch's; and weight decay is of "
         "all but bias in the reference")  # fmt: skip
OVER_SAMPLES = ("with class weights the loss is a mean over samples in the reference, and not "
                "divided by the sum of their weights")  # fmt: skip
L2 = ("L2 adds 0.02 × all but bias to their gradients in the reference; the suspect's weight "
      "decay is 0.01 or 0")  # fmt: skip
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "port", "batches", "what", "cause"),
    [
        ("two_optimizers", "two_optimizers", "batches", None, None),
        pytest.param("two_optimizers", "two_optimizers_other_rate", "batches", "update", None,
                     marks=slow),
        pytest.param("constrained", "constrained", "batches", None, None, marks=slow),
        pytest.param("constrained", "network", "batches", "update", None, marks=slow),
        pytest.param("averaged", "averaged", "batches", None, None, marks=slow),
        ("averaged", "network", "batches", "update", AVERAGE),
        pytest.param("validated", "validated", "batches", None, None, marks=slow),
        pytest.param("recommending", "recommending", "ratings", None, None, marks=slow),
        pytest.param("recommending", "recommending", "ratings_once", None, None, marks=slow),
        pytest.param("recurrent", "recurrent", "sequences", "update", TWO_BIASES, marks=slow),
        pytest.param("adagrad", "adagrad", "batches", None, None, marks=slow),
        pytest.param("adagrad", "adagrad_from_zero", "batches", "update", ADAGRAD, marks=slow),
        pytest.param("decayed", "decayed", "batches", None, None, marks=slow),
        pytest.param("decayed", "decayed_whole", "batches", "update", DECAY, marks=slow),
        pytest.param("normed", "normed", "large", None, None, marks=slow),
        pytest.param("frozen", "still", "batches", None, None, marks=slow),
        pytest.param("squared", "squared", "batches", None, None, marks=slow),
        pytest.param("squared", "squared_half", "batches", "update", L2, marks=slow),
        pytest.param("squared", "squared_half_in_loss", "batches", "loss",
                     "the suspect adds half the penalties of the reference's regularisers",
                     marks=slow),
        pytest.param("nadam", "nadam", "batches", None, None, marks=slow),
        pytest.param("nadam", "nadam_slower", "batches", "update", "momentum_decay 1 | 0.004",
                     marks=slow),
        pytest.param("classes", "classes", "labelled", None, None, marks=slow),
        pytest.param("classes", "classes_mean", "labelled", "loss", OVER_SAMPLES, marks=slow),
        pytest.param("two_outputs", "two_outputs", "listed", None, None, marks=slow),
    ],
)  # fmt: skip
def test_a_training_of_the_users_own_is_followed_to_its_end(
    name: str, port: str, batches: str, what: str | None, cause: str | None
) -> None:
    keras, torch = PAIRS / "by_hand_keras.py", PAIRS / "by_hand_torch.py"
    verdict = check(f"{keras}:{name}", f"{torch}:{port}", [], batches=f"{keras}:{batches}")
    assert [d.what for d in verdict.failures] == ([what] if what else []), str(verdict)
    assert [d.cause for d in verdict.failures] == ([cause] if what else [])


@pytest.mark.parametrize(
    ("port", "what"),
    [
        ("in_one", []),
        pytest.param("by_name", [], marks=slow),
        pytest.param("in_order", [], marks=slow),
        pytest.param("by_name_turned", ["loss"], marks=slow),
    ],
)
def test_inputs_may_go_in_by_name(port: str, what: list[str]) -> None:
    keras, torch = PAIRS / "by_hand_keras.py", PAIRS / "by_hand_torch.py"
    of = {
        "batches": f"{keras}:ratings_by_name",
        "suspect_batches": f"{keras}:ratings_by_name_turned",
    }
    verdict = check(f"{keras}:recommending_by_name", f"{torch}:{port}", [], **of)
    assert [d.what for d in verdict.failures] == what, str(verdict)


@pytest.mark.slow
def test_two_rules_of_one_optimizer_are_told_apart() -> None:
    files = [PAIRS / f"{name}.py:momentum_by_root" for name in ("in_keras", "trained_torch")]
    verdict = check(*map(str, files), ["6"], batches=f"{PAIRS}/in_keras.py:batches")
    assert verdict.passed, str(verdict)
    causes = [str(d.cause) for d in verdict.declarations if d.is_rule]
    texts = ("ε within the root in Keras's RMSprop", "part of RMSprop's velocity in Keras")
    assert all(text in cause for text, cause in zip(texts, causes, strict=True)), causes


@pytest.mark.slow
def test_a_rule_of_the_frameworks_excuses_no_other_epsilon_in_the_same_step() -> None:
    keras, torch = PAIRS / "in_keras.py", PAIRS / "trained_torch.py"
    names = f"{keras}:momentum_warmed_up", f"{torch}:momentum_warmed_up_other_epsilon"
    (found,) = check(*names, ["6"], batches=f"{keras}:batches").failures
    assert "it is 0.001 | 0.01" in str(found.cause)


@pytest.mark.slow
def test_a_part_in_evaluation_mode_trains_so() -> None:
    keras, torch = PAIRS / "by_hand_keras.py", PAIRS / "by_hand_torch.py"
    names = f"{keras}:trained", f"{torch}:still_by_mistake"
    found = check(*names, [], batches=f"{keras}:batches").failures
    assert [d.what for d in found] == ["training mode", "gradients", "loss"]
    assert "by moving statistics in the suspect" in str(found[0].cause)
