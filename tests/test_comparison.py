import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipeline.errors import RunError
from pipeline.launch import Outcome
from pipeline.recipe import preset, recipe_to_dict
from reporting.comparison import compare, comparison_from_json, opening_epoch, problems, run_of
from reporting.comparison_page import PICTURES, render_markdown, tables, write_comparison
from tests.fabricated import CLASS_NAMES, TEST_LABELS, make_logits, make_record
from tests.golden import check_page

ENVIRONMENT = {
    "platform": "Linux",
    "python": "3.11.7",
    "cpu": "a processor",
    "cores": 2,
    "memory_bytes": 2**34,
    "packages": {"keras": "3.13.0", "jax": None},
}
DATASET = {
    "name": "fashion-mnist",
    "class_names": list(CLASS_NAMES),
    "train": 48000,
    "validation": 12000,
    "test": 10000,
}


def outcome(engine="lightning", variant="base", num_wrong=0, **changes):
    changes.setdefault("recipe", recipe_to_dict(preset(variant, num_epochs=3)))
    record = make_record(engine, variant, **changes)
    return Outcome(engine, variant, record, make_logits(num_wrong), TEST_LABELS)


def compared(*outcomes):
    return compare(
        outcomes,
        command=["python", "scripts/compare.py", "--epochs", "3"],
        settings={"epochs": 3},
        dataset=DATASET,
        environment=ENVIRONMENT,
    )


def read_back(comparison):
    return comparison_from_json(json.loads(json.dumps(dataclasses.asdict(comparison))))


@pytest.fixture
def four():
    return [
        outcome("keras-tensorflow", "base", 20, test={"loss": 0.30, "accuracy": 0.90}),
        outcome("keras-tensorflow", "dropout", 4, test={"loss": 0.25, "accuracy": 0.92}),
        outcome("lightning", "base", 10, test={"loss": 0.33, "accuracy": 0.88}),
        outcome("lightning", "dropout", 10, test={"loss": 0.26, "accuracy": 0.91}),
    ]


def test_a_run_takes_its_numbers_from_the_last_epoch():
    run = run_of(outcome())
    assert run.train_accuracy == pytest.approx(0.95)
    assert run.validation_accuracy == pytest.approx(0.88)
    assert run.validation_loss == 0.35
    assert run.epoch_seconds == 3.0  # the median of 9, 2 and 3
    assert run.accuracy_gaps == pytest.approx((-0.01, 0.03, 0.07))
    assert run.loss_gaps == pytest.approx((-0.1, 0.05, 0.35 - 0.5 / 3))
    assert run.gap_opens == 2
    assert run.best_epoch == 2


@pytest.mark.parametrize(
    ("gaps", "epoch"),
    [
        ([0.03, 0.03], 1),
        ([0.0, 0.03, 0.01, 0.03, 0.04], 4),
        ([0.03, 0.03, 0.02], None),  # exactly 0.02 is not above it
        ([0.01, 0.01, 0.021], 3),
        ([0.03, math.nan, 0.03], 3),
        ([0.03, math.nan], None),
        ([], None),
    ],
)
def test_the_gap_opens_where_it_stays_open(gaps, epoch):
    assert opening_epoch(gaps) == epoch


def test_a_validation_loss_that_is_not_finite_is_never_the_best():
    history = make_record().history
    history[1]["val_loss"] = None
    run = run_of(outcome(history=history))
    assert run.best_epoch == 3
    assert run.loss_gaps[1] is None


def test_differences_are_the_second_engine_minus_the_first(four):
    base, dropout = compared(*four).differences
    assert (base.first, base.second, base.variant) == ("keras-tensorflow", "lightning", "base")
    assert base.test_accuracy == pytest.approx(-0.02)
    assert base.test_loss == pytest.approx(0.03)
    assert base.agreement == 1 - 10 / 200  # 20 and 10 of the same images are wrong
    assert dropout.agreement == 1 - 6 / 200


def test_dropout_changes_the_recall_of_the_classes_it_helps(four):
    first, second = compared(*four).dropout_effects
    assert first.engine == "keras-tensorflow"
    assert first.test_loss == (0.30, 0.25)
    # 20 images wrong are 2 of 20 in each class; 4 are 1 of 20 in the first four.
    changes = {name: after - before for name, before, after in first.recall}
    assert changes["a"] == pytest.approx(0.05)
    assert changes["j"] == pytest.approx(0.10)
    assert list(changes) == list("efghijabcd")
    assert all(before == after for _, before, after in second.recall)


def test_a_class_without_test_images_has_no_recall():
    names = [*CLASS_NAMES, "none"]
    logits = np.pad(make_logits(), ((0, 0), (0, 1)))
    outcomes = [
        Outcome("lightning", variant, make_record(variant=variant), logits, TEST_LABELS)
        for variant in ("base", "dropout")
    ]
    comparison = compare(
        outcomes, command=[], settings={}, environment=ENVIRONMENT,
        dataset={**DATASET, "class_names": names},
    )  # fmt: skip
    assert comparison.dropout_effects[0].recall[-1] == ("none", None, None)


def tutorial(variant="base", accuracy=0.915, name="fashion-mnist", **changes):
    recipe = recipe_to_dict(preset(variant, **{"num_epochs": 20, **changes}))
    dataset = {**make_record().dataset, "name": name}
    test = {"loss": 0.3, "accuracy": accuracy}
    return outcome(variant=variant, recipe=recipe, dataset=dataset, test=test)


@pytest.mark.parametrize(
    ("run", "is_in_range"),
    [
        (tutorial(), True),
        (tutorial(accuracy=0.905), True),
        (tutorial(accuracy=0.9049), False),
        (tutorial(accuracy=0.9251), False),
        (tutorial("dropout", 0.93), True),
        (tutorial("dropout", 0.91), False),
        (tutorial(accuracy=0.5, seed=7), False),
        (tutorial(accuracy=0.5, batch_size=32), None),
        (tutorial(accuracy=0.5, num_epochs=19), None),
        (tutorial(accuracy=0.5, name="idx-set mnist"), None),
    ],
)
def test_the_range_holds_for_the_tutorial_and_nothing_else(run, is_in_range):
    assert run_of(run).is_in_range is is_in_range


def test_an_accuracy_out_of_range_is_a_problem_and_named():
    comparison = compared(tutorial(accuracy=0.8), tutorial("dropout", 0.93))
    (problem,) = problems(comparison)
    assert problem == "lightning, base: test accuracy 0.8000 is not in 0.905–0.925"
    assert "**outside** its expected range 0.905–0.925" in render_markdown(comparison)


ON_GPU = {**make_record().environment, "device": "gpu", "gpu": "NVIDIA H200"}


def test_runs_on_different_devices_get_no_ratio(four):
    on_gpu = outcome("lightning", "base", 10, environment=ON_GPU)
    comparison = compared(four[0], on_gpu)
    assert [run.device for run in comparison.runs] == ["cpu", "NVIDIA H200"]
    (difference,) = comparison.differences
    assert difference.epoch_seconds_ratio is None
    assert difference.test_accuracy is not None
    text = render_markdown(comparison)
    assert "| ≠ device |" in text
    assert "×" not in text


def test_the_page_is_the_one_that_was_read(four):
    """With all kinds of runs: on a GPU, failed, in range and out of it."""
    on_gpu = [
        outcome(engine, "base", environment=ON_GPU) for engine in ("keras-jax", "keras-torch")
    ]
    failed = Outcome(
        "keras-torch", "dropout", reason="a | b: the loss became nan in epoch 1,\nstep 7"
    )
    keras = [each for each in four if each.engine != "lightning"]
    ours = tutorial(accuracy=0.8), tutorial("dropout", 0.93)
    comparison = compared(*keras, *ours, *on_gpu, failed)
    check_page("comparison.md", render_markdown(comparison))
    assert read_back(comparison) == comparison


def test_nothing_but_failures_is_still_a_page(tmp_path):
    failed = Outcome("lightning", "base", reason="exit code 1")
    page = write_comparison(tmp_path, compared(failed), [failed])
    assert "failed: exit code 1" in page.read_text()
    assert "png" not in page.read_text()
    assert not list(tmp_path.glob("*.png"))


def test_predictions_of_other_images_are_refused(four):
    other = Outcome("keras-jax", "base", make_record(), make_logits(), TEST_LABELS[::-1])
    with pytest.raises(RunError, match="keras-jax, base was tested on other images"):
        compared(*four, other)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], 2),
        (["extra"], 1),
        (["runs", 0, "test_accuracy"], "high"),
        (["runs", 0, "expected"], [0.9]),
        (["runs", 0, "parameters"], True),
        (["runs", 0], None),
        (["command"], "python"),
        (["differences", 0, "agreement"], None),
    ],
)
def test_damaged_json_is_refused(path, value, four):
    fields = json.loads(json.dumps(dataclasses.asdict(compared(*four))))
    *parents, last = path
    place = fields
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(RunError, match="comparison"):
        comparison_from_json(fields)


@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_cut_off_on_the_screen(width, four):
    longest = outcome("keras-tensorflow", "dropout")
    console = Console(width=width)
    with console.capture() as captured:
        for table in tables(compared(*four, longest)):
            console.print(table)
    shown = captured.get()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    for number in ("0.9500", "0.8800", "356,234", "1.00 GiB", "95.00%", "+0.0300"):
        assert number in shown


def test_all_files_are_written_and_old_pictures_go(four, tmp_path):
    page = write_comparison(tmp_path, compared(*four), four)
    assert page == tmp_path / "comparison.md"
    for name in PICTURES:
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
        assert f"({name})" in page.read_text()
    write_comparison(tmp_path, compared(*four[:1]), four[:1])
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["accuracy.png", "loss.png"]
    assert "gap.png" not in page.read_text()
