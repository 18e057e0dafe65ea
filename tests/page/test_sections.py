"""What each section of the page says."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ladder.reading import built
from pipeline.datasets import load_dataset
from pipeline.record import write_predictions
from reporting import samples
from reporting.evidence import Evidence, Ladder, Source, Sources
from reporting.sections import data, evaluation, model, parity, summary, training
from tests.page import paged
from tests.page.paged import page_of, section

ROOT = Path(__file__).parents[2]


def test_a_single_run_a_failed_one_and_other_engines_are_shown(made):
    made.add_run("keras-jax", "base")
    failure = {"reason": "the loss became nan in epoch 2, step 7"}
    made.add_run("lightning", "base", status="failed", failure=failure, test={}, timing={})
    made.add_run("elsewhere", "base")
    html = page_of(made)
    assert "failed: the loss became nan" in section(html, "summary")
    assert "elsewhere, base" in section(html, "summary")
    assert "Report and confusion matrix" in section(html, "evaluation")


def test_two_runs_of_one_kind_are_told_apart_by_their_folders(made):
    made.add_run(name="first")
    made.add_run(name="second")
    html = page_of(made)
    assert "Lightning, base (first)" in html
    assert "Lightning, base (second)" in html


def test_a_page_of_one_run_of_one_epoch_has_its_layers_and_says_what_one_epoch_is(made):
    history = paged.make_record().history
    made.add_run("lightning", "dropout", history=history[:1])
    html = page_of(made)
    assert "Layers as built, dropout" in section(html, "model")
    assert "same shape and parameters" not in section(html, "model")
    assert "layers.json" not in section(html, "model")
    assert "After 1 epoch. " in section(html, "summary")
    assert "of one or two epochs it holds the first step" in section(html, "summary")
    assert "Tinted" not in section(html, "training")
    made.add_run("lightning", "base")
    assert "After 1 and 3 epochs. " in section(page_of(made), "summary")


def test_beside_accuracies_that_differ_stands_what_lets_them(made):
    history = paged.make_record().history
    six = [{**row, "epoch": epoch} for epoch, row in enumerate(history * 2, 1)]
    made.add_pair("dropout", history=history[:1])
    made.add_pair(history=six)
    said = summary.summary(made.read())
    assert "draws dropout masks of its own. In so short a training" in said["closer"]
    assert "with the first step's compiling" not in said["faster"]  # base's runs are long
    long = paged.Evidence(made.folder / "long")
    long.add_pair(history=six)
    said = summary.summary(long.read())
    assert said["closer"].endswith(" %.")
    assert not said["starts_counted"]


def test_the_summary_answers_from_the_verdicts():
    def of(climbs):
        return summary.is_it_right(
            Evidence(ladder=built(Ladder, {**paged.ladder(), "climbs": climbs}))
        )

    assert summary.is_it_right(Evidence())["verdict"] == "unknown"
    right = of([paged.climb(gap=3e-15), paged.climb(lane="float32", gap=1e-3)])
    assert right["verdict"] == "yes"
    assert "3e-15" in right["sentence"]
    wrong = of([paged.climb(), paged.climb("keras-jax", status="failed")])
    assert wrong["verdict"] == "no"
    assert "Keras on JAX part at gradients in float64" in wrong["sentence"]


@pytest.mark.parametrize(
    ("lightning", "sentence"),
    [
        ((4.0, 4.1, 3.9), "Keras on TensorFlow is faster: 2.00 times as fast as Lightning"),
        ((1.0, 1.0, 1.0), "Lightning is faster: 2.00 times as fast as Keras on TensorFlow"),
        ((2.2, 1.9, 2.0), "No difference that these rounds can tell"),
    ],
)
def test_the_summary_says_which_is_faster(made, lightning, sentence):
    path = made.folder / "benchmark" / "benchmark.json"
    paged.write(path, paged.benchmark(lightning=lightning))
    assert sentence in summary.which_is_faster(made.read())


def test_without_a_benchmark_the_runs_say_it_and_that_they_are_one_each(made):
    made.add_pair()
    assert "That is one run each" in summary.which_is_faster(made.read())


def test_runs_on_different_devices_are_not_said_to_be_faster(made):
    made.add_run("keras-tensorflow")
    on_gpu = {**paged.make_record().environment, "device": "gpu", "gpu": "NVIDIA H200"}
    made.add_run("lightning", environment=on_gpu)
    sentence = "These runs do not tell which is faster: Keras on TensorFlow on cpu and Lightning on"
    assert f"{sentence} NVIDIA H200." in summary.which_is_faster(made.read())
    assert "<td>NVIDIA H200</td>" in page_of(made)


def test_layers_are_aligned_and_a_difference_is_marked(made):
    made.add_run("keras-tensorflow")
    run = made.add_run("lightning")
    (table,) = model.model(made.read(), ROOT)["tables"]
    assert [(row["name"], row["same"]) for row in table["rows"]] == [
        ("conv1", True),
        ("logits", True),
    ]
    text = (run / "layers.json").read_text()
    (run / "layers.json").write_text(text.replace('"parameters": 320', '"parameters": 321'))
    (table,) = model.model(made.read(), ROOT)["tables"]
    assert [row["same"] for row in table["rows"]] == [False, True]


def test_lines_that_are_alike_share_a_row_in_their_order():
    left = ["import keras", "a = 1", "layers.Conv2D(32, 3)", "only here"]
    right = ["import torch", "more of torch's own", "layers.Conv2d(32, 3)", "b"]
    rows = model.aligned(left, right)
    assert [one for one, _, _ in rows if one] == left
    assert [two for _, two, _ in rows if two] == right
    assert ("layers.Conv2D(32, 3)", "layers.Conv2d(32, 3)", True) in rows
    assert not any(alike for one, two, alike in rows if not one or not two)


def test_churn_counts_who_is_right_where_they_differ(made):
    made.add_run("keras-tensorflow", num_wrong=5)
    made.add_run("lightning", num_wrong=8)
    (churn,) = evaluation.evaluation(made.read())["churn"]
    assert (churn["differ"], churn["only_first"], churn["only_second"]) == (3, 3, 0)
    assert (churn["same_wrong"], churn["agreement"]) == (5, "98.50%")


def test_confusions_differ_by_the_second_minus_the_first(made):
    made.add_run("keras-tensorflow", num_wrong=0)
    made.add_run("lightning", num_wrong=1)
    (pair,) = evaluation.evaluation(made.read())["pairs"]
    cells = [cell[0] for row in pair["confusions"][2]["cells"] for cell in row]
    assert sorted(set(cells)) == ["+1", "0", "−1"]


def test_curves_mark_the_gap_and_hold_every_value(made):
    made.add_pair()
    panels = training.training(made.read())["panels"]
    assert [panel["title"] for panel in panels] == [
        "Accuracy by epoch, base",
        "Loss by epoch, base",
    ]
    assert len(panels[0]["rows"]) == 3
    assert panels[0]["marked"] == "Lightning"
    assert str(panels[0]["chart"]).count('class="gap') == 1


def test_each_place_of_a_rung_has_its_row(made):
    found = parity.parity(made.add_all().read().ladder)
    (lane, *_) = found["lanes"]
    assert [name for name, _, _ in lane["places"]] == ["layers", "gradients"]
    _, table, chart = lane["places"][0]
    assert ">conv1<" in str(chart)
    assert table[0] == ("conv1", ["1e-15 of 1e-13", "1e-15 of 1e-13"])
    assert len(found["explained"]) == 1


def test_samples_hold_all_that_is_wrong_and_some_of_each_class(made):
    made.add_run("keras-tensorflow", num_wrong=5)
    made.add_run("lightning", num_wrong=8)
    runs = made.read().runs
    positions = samples.chosen(runs)
    assert set(range(8)) <= set(positions.tolist())
    shown = np.bincount(runs[0].labels[positions], minlength=10)
    assert shown.min() >= samples.CORRECT_OF_EACH_CLASS


def test_too_many_images_are_left_out_evenly():
    labels = np.array([0] * 90 + [1] * 10)
    kept = samples._evenly(np.arange(100), labels, 20)
    assert np.bincount(labels[kept]).tolist() == [10, 10]


def test_the_split_is_that_of_the_runs(made):
    made.add_run()
    found = data.data(made.read().dataset, made.read().runs)
    assert found["split"] == {"training": 160, "validation": 40, "test": 200}


def test_predictions_of_other_images_are_not_shown_as_these(made):
    run = made.add_run()
    write_predictions(run, np.eye(10)[[0] * 20], np.zeros(20, np.int64))
    html = page_of(made)
    assert "are not of all its test images" in section(html, "samples")


def test_runs_of_other_recipes_are_not_set_side_by_side(made):
    made.add_run("keras-tensorflow")
    recipe = {**paged.make_record().recipe, "seed": 7}
    made.add_run("lightning", recipe=recipe)
    evidence = made.read()
    assert evaluation.evaluation(evidence)["pairs"] == []
    assert summary.summary(evidence)["alike"] == summary.summary(evidence)["closer"] == ""


@pytest.mark.parametrize(("init", "words"), [("shared", "first weights and order"), ("own", "own")])
def test_what_runs_share_is_said(made, init, words):
    recipe = {**paged.make_record().recipe, "init": init}
    made.add_pair(recipe=recipe)
    assert words in summary.summary(made.read())["alike"]


def test_a_run_that_left_nothing_is_named(made):
    evidence = dataclasses.replace(made.read(), lost=(("lightning, base", "exit code 7"),))
    (row,) = summary.summary(evidence)["rows"]
    assert (row["name"], row["reason"]) == ("lightning, base", "exit code 7")


def test_an_accuracy_out_of_range_is_marked(made):
    made.add_run()
    evidence = made.read()
    (run,) = evidence.runs
    cell = dataclasses.replace(run.cell, test_accuracy=0.5, expected=(0.855, 0.905))
    evidence = dataclasses.replace(evidence, runs=(dataclasses.replace(run, cell=cell),))
    assert "50.00 %, not in 0.855–0.905" in str(summary.summary(evidence)["rows"])


def test_results_of_another_machine_are_called_so_in_the_answers(made):
    made.add_all()
    source = Source(made.folder, is_committed=True)
    evidence = dataclasses.replace(made.read(), sources=Sources(source, source))
    assert "project's own results" in summary.is_it_right(evidence)["sentence"]
    assert summary.which_is_faster(evidence).startswith("In these runs an epoch")
    assert "The project's own benchmark: Keras" in summary.which_is_faster(evidence)


def test_odd_class_names_change_no_number(made):
    names = ["accuracy", "macro avg", "a", "a", *"bcdefg"]
    fingerprint = load_dataset(made.data_dir).fingerprint
    dataset = {**paged.make_record().dataset, "fingerprint": fingerprint, "class_names": names}
    made.add_pair(num_wrong=0, dataset=dataset)
    (pair,) = evaluation.evaluation(made.read())["pairs"]
    assert all(row["values"][1][0] == "1.000" and row["support"] == 20 for row in pair["rows"])


def test_large_images_are_shown_small():
    images = np.zeros((3, 300, 200), np.uint8)
    assert samples.small(images).shape == (3, 64, 43)
    assert samples.small(images[:, :28, :28]).shape == (3, 28, 28)
