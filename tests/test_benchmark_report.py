"""What the benchmark makes of its measurements: statistics, tables, what is thrown out."""

import json

import pytest

from benchmark import report
from benchmark.difference import differences, read_older
from benchmark.runner import steady_seconds
from ladder.files import write_json
from pipeline.errors import UsageError
from pipeline.recipe import preset
from reporting.repeated import paired_ratio, spread
from tests.golden import check_page
from tests.measured import NARROW, OURS, RAW, REFERENCE, STOCK, measured


def test_ratios_are_paired_by_round():
    ratio = paired_ratio([4.0, 8.0, 6.0], [2.0, 4.0, 2.0])
    assert ratio.median == 2.0
    assert ratio.low == 2.0
    assert ratio.high == 3.0
    assert paired_ratio([3.0], [2.0]).low is None
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no values"):
        spread([])
    assert spread([1.0, 2.0, 3.0]).median == 2.0


def test_warm_up_is_apart():
    assert steady_seconds({"epoch_seconds": [9.0, 1.0, 3.0]}) == 2.0


def test_flops_are_those_of_the_network():
    # 45.8 MFLOP for a training image, from the shapes by hand: see the docstring.
    assert report.flops_of(preset("base")) == pytest.approx((45.8e6, 15.4e6), rel=0.01)


def test_a_training_that_strays_is_thrown_out():
    def why(contender, *runs):
        return report.why_thrown_out(contender, runs, REFERENCE, 0.8)

    assert why(OURS, measured(0.5, 0.3)) == ""
    words = why(RAW, measured(0.5, 0.3), measured(0.53, 0.3))
    assert words == "loss of epoch 1 is 0.030 off the reference trajectory"
    assert why(RAW, measured(float("nan"), 0.3))
    assert why(STOCK, measured(0.9, val_accuracy=0.78)) == ""
    assert "0.700" in why(STOCK, measured(0.5, val_accuracy=0.7))


def test_the_table_has_ratios_and_what_was_thrown_out():
    contenders = [STOCK, OURS, RAW, NARROW]
    startup = {"program": 0.1, "data": 0.2, "framework": 0.6, "build": 0.1}
    runs = {
        STOCK.name: [measured(0.9, 0.8, seconds=4.0, val_accuracy=0.9)] * 2,
        OURS.name: [{**measured(0.5, 0.4, seconds=2.0), "startup": startup}] * 2,
        RAW.name: [measured(0.7, 0.4, seconds=1.0)] * 2,
        NARROW.name: [measured(0.5, 0.4, seconds=1.0)] * 2,
    }
    rows = report.summarize(contenders, runs, REFERENCE, (12_000, 3_000), 1e12, 0.85)
    assert rows[1]["faster_than"]["stock lightning"]["median"] == 2.0
    assert rows[1]["faster_than"]["raw torch"]["median"] == 0.5
    found = {
        "arms": rows, "environment": {"cpu": "C", "cores": 2, "packages": {"torch": "2"}},
        "conditions": {
            "train_images": 12_000, "validation_images": 3_000, "batch_size": 64,
            "precisions": ["32", "bf16"], "num_epochs": 2, "accuracy": 0.85, "device": "cpu",
        },
        "command": "x", "rounds": 2, "peak_flops": 1e12, "left_out": {"raw jax": "no jax"},
    }  # fmt: skip
    check_page("benchmark.md", "\n".join(report.markdown(found)))


def test_the_time_to_an_accuracy_ends_with_the_epoch_that_reaches_it():
    run = measured(0.5, 0.4, 0.3, seconds=2.0)
    run["history"][1]["val_accuracy"] = 0.9
    assert report.to_accuracy(run, 0.85) == 1.0 + 2 * 2.0
    assert report.to_accuracy(run, 0.8) == 1.0 + 2.0
    assert report.to_accuracy(run, 0.95) is None
    run["history"][0]["val_accuracy"] = float("nan")
    assert report.to_accuracy(run, 0.85) == 5.0


def ratio(median, low, high):
    return {"median": median, "low": low, "high": high, "n": 4}


def test_a_new_run_says_how_it_differs(tmp_path):
    older = {
        "conditions": {"batch_size": 64, "device": "cpu"},
        "environment": {"cpu": "A", "packages": {"torch": "2.14", "jax": None}},
        "arms": [{"arm": "ours lightning", "faster_than": {"stock lightning": ratio(2, 1.9, 2.1),
                                                           "raw torch": ratio(1, 0.9, 1.1)}}],
    }  # fmt: skip
    write_json(tmp_path / "older.json", older)
    newer = {
        "conditions": {"batch_size": 64, "device": "cpu"},
        "environment": {"cpu": "B", "packages": {"torch": "2.15", "jax": None}},
        "arms": [{"arm": "ours lightning", "faster_than": {"stock lightning": ratio(3, 2.9, 3.1),
                                                           "raw torch": ratio(1, 0.8, 1.0)}},
                 {"arm": "ours keras-jax", "faster_than": {"raw jax": ratio(1, 1, 1)}}],
    }  # fmt: skip
    assert list(differences(read_older(tmp_path / "older.json"), newer)) == [
        "cpu: A then, B now",
        "packages.torch: 2.14 then, 2.15 now",
        "ours lightning against stock lightning: 2.00× then, 3.00× now; "
        "the intervals do not overlap",
        "ours lightning against raw torch: 1.00× then, 1.00× now; the intervals overlap",
    ]
    assert next(iter(differences(older, older))).endswith("2.00× now; the intervals overlap")
    wrong = ({"conditions": 1}, {"environment": None}, {"arms": 1}, {"arms": [{}]},
             {"arms": [{"arm": "a", "faster_than": {"b": {}}}]})  # fmt: skip
    changed = [json.dumps({**older, **change}) for change in wrong]
    for content in ("", "[]", "{}", *changed):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(UsageError, match=r"cannot compare with .*other\.json"):
            read_older(tmp_path / "other.json")
