import base64
import dataclasses
import hashlib
import json
import os
import re
import runpy
import sys
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import numpy as np
import pytest

from pipeline.datasets import load_dataset
from pipeline.errors import RunError, UsageError
from reporting import charts, defaults, samples
from reporting.evidence import (
    Benchmark,
    Faults,
    Ladder,
    Source,
    find_runs,
    gather,
    latest_comparison,
    read_runs,
)
from reporting.reading import _built, read_as
from reporting.sections import benchmark, data, evaluation, model, parity, summary, training
from reporting.sections import made as made_section
from reporting.write import CONTENTS, render, write_page
from tests import paged

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "report.py"
MARKUP = "</script><img src=x onerror=alert(1)>\"'&"
MB = 10**6
PARTS = {
    "ladder.json": ("ladder", Ladder),
    "faults.json": ("faults", Faults),
    "benchmark.json": ("benchmark", Benchmark),
}


@pytest.fixture
def made(tmp_path):
    return paged.Evidence(tmp_path)


def page_of(made):
    return render(made.read(), ["python", "scripts/report.py"])


def section(html, name):
    return re.search(rf'<section id="{name}">.*?</section>', html, re.DOTALL).group()


class Tags(HTMLParser):
    """The start tags of a page, with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_all_sections_hold_what_was_found(made):
    html = page_of(made.add_all())
    assert [name for name, _ in CONTENTS] == re.findall(r'<section id="(\w+)">', html)
    assert html.count('<p class="missing">') == html.count("<noscript>") == 1
    assert "all 3 climbs of the ladder hold" in section(html, "summary")
    assert "Keras on JAX: gradient-at-zero at act1" in section(html, "parity")
    assert "1 of 1 planted porting mistakes were caught" in section(html, "parity")
    assert "keras-jax was left out: not installed" in section(html, "benchmark")
    learning = section(html, "learning")
    assert "Lightning against Keras on TensorFlow, base, 5 epochs): equivalent within" in learning
    assert learning.index("Planted differences") < learning.index("planted-epoch-fewer")
    assert learning.count("Keras on TensorFlow: 0.9") == 2  # a mark a seed
    assert "python scripts/prove.py" in section(html, "made")
    assert "scripts/equivalence.py" in section(html, "made")


def test_the_same_evidence_gives_the_same_page(made):
    made.add_all()
    assert page_of(made) == page_of(made)


def test_what_is_missing_is_named_with_the_command_that_makes_it(made):
    html = page_of(made)
    for name, command in {
        "summary": "make compare", "training": "make compare", "evaluation": "make compare",
        "samples": "make compare", "parity": "make prove", "learning": "make equivalence",
        "benchmark": "make benchmark",
    }.items():  # fmt: skip
        assert 'class="missing"' in section(html, name), name
        assert command in section(html, name), name


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
    for engine in ("keras-tensorflow", "lightning"):
        made.add_run(engine, "dropout", history=history[:1])
        made.add_run(engine, "base", history=six)
    said = summary.summary(made.read())
    assert "draws dropout masks of its own. In so short a training" in said["closer"]
    assert "with the first step's compiling" not in said["faster"]  # base's runs are long
    long = paged.Evidence(made.folder / "long")
    for engine in ("keras-tensorflow", "lightning"):
        long.add_run(engine, "base", history=six)
    said = summary.summary(long.read())
    assert said["closer"].endswith(" %.")
    assert not said["starts_counted"]


def test_points_of_a_single_epoch_hide_none_of_each_other(made):
    lines = [charts.Line(str(n), n % 2, n > 1, [0.5]) for n in range(4)]
    drawn = str(charts.curves(lines, "title"))
    places = re.findall(r'<(?:circle|rect) class="curve[^>]*? c?x="([0-9.]+)"', drawn)
    assert len(set(places)) == 4


def test_the_data_of_the_runs_are_found_by_their_record(made, monkeypatch):
    monkeypatch.setenv("FASHION_MNIST_DIR", str(made.folder / "nowhere"))
    record = paged.make_record()
    for number, (dataset, command) in enumerate(
        [({}, []), ({}, ["--data-dir", str(made.data_dir)]), ({"folder": str(made.data_dir)}, [])]
    ):
        run = made.add_run(name=str(number), command=["train.py", *command])
        fields = json.loads((run / "record.json").read_text())
        fields["dataset"] |= dataset
        (run / "record.json").write_text(json.dumps(fields))
        runs = read_runs([run])
        assert (gather(runs, None, None, None).dataset is not None) == bool(number)
    assert record.dataset.get("folder") is None


def test_a_page_with_images_is_not_replaced_by_one_without(made, monkeypatch, capsys):
    run = made.add_run(command=["train.py"])
    monkeypatch.setenv("FASHION_MNIST_DIR", str(made.folder / "nowhere"))
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main([str(run), "--data-dir", str(made.data_dir)]) == 0
    before = (run / "report.html").read_bytes()
    assert main([str(run)]) == 2
    assert "name their data with --data-dir" in capsys.readouterr().err
    assert (run / "report.html").read_bytes() == before
    assert main([str(run), "--output", str(run / "other.html")]) == 0


def test_the_summary_answers_from_the_verdicts():
    def of(ladder):
        folder = paged.ladder()
        folder["climbs"] = ladder
        return summary.is_it_right(built_ladder(folder))

    assert summary.is_it_right(None)["verdict"] == "unknown"
    right = of([paged.climb(gap=3e-15), paged.climb(lane="float32", gap=1e-3)])
    assert right["verdict"] == "yes"
    assert "3e-15" in right["sentence"]
    wrong = of([paged.climb(), paged.climb("keras-jax", status="failed")])
    assert wrong["verdict"] == "no"
    assert "Keras on JAX part at gradients in float64" in wrong["sentence"]


def built_ladder(value):
    return _built(Ladder, value, "")


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
    made.add_run("keras-tensorflow")
    made.add_run("lightning")
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
    made.add_run("keras-tensorflow")
    made.add_run("lightning")
    panels = training.training(made.read())["panels"]
    assert [panel["title"] for panel in panels] == [
        "Accuracy by epoch, base",
        "Loss by epoch, base",
    ]
    assert len(panels[0]["rows"]) == 3
    assert panels[0]["marked"] == "Lightning"
    assert str(panels[0]["chart"]).count('class="gap') == 1


def test_values_that_are_no_numbers_leave_a_gap_in_a_curve():
    line = charts.Line("x", 0, False, [1.0, float("nan"), 2.0])
    drawn = str(charts.curves([line], "title"))
    assert "nan" not in drawn
    assert drawn.count("<polyline") == 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.32, 0.91), (0.5, 0.5), (0.0, 123456.0)])
def test_ticks_are_few_and_hold_the_values(low, high):
    ticks = charts.linear_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8


def test_a_gap_of_zero_stands_apart_and_limits_are_drawn():
    rows = [
        charts.Row(
            "layers", [charts.Mark(0.0, 0, "none"), charts.Mark(1e-9, 1, "some", limit=1e-8)]
        )
    ]
    drawn = str(charts.rows_chart(rows, "title", "gap", is_log=True))
    assert "equal" in drawn
    assert drawn.count('class="limit"') == 1
    places = [float(x) for x in re.findall(r'cx="([0-9.]+)"', drawn)]
    assert places[0] == charts.WIDE[1] < places[1]


def test_each_place_of_a_rung_has_its_row(made):
    found = parity.parity(made.add_all().read().ladder)
    (lane, *_) = found["lanes"]
    assert [name for name, _, _ in lane["places"]] == ["layers", "gradients"]
    _, table, chart = lane["places"][0]
    assert ">conv1<" in str(chart)
    assert table[0] == ("conv1", ["1e-15 of 1e-13", "1e-15 of 1e-13"])
    assert len(found["explained"]) == 1


def test_verdicts_of_an_older_version_have_their_worst_place_only(made):
    older = paged.ladder()
    for climb in older["climbs"]:
        for rung in climb["rungs"]:
            del rung["gaps"]
    paged.write(made.folder / "proof" / "ladder.json", older)
    html = page_of(made)
    assert "of an older version, name no places" in html
    assert "at most 1e-15 apart" in section(html, "summary")


def test_samples_hold_all_that_is_wrong_and_some_of_each_class(made):
    made.add_run("keras-tensorflow", num_wrong=5)
    made.add_run("lightning", num_wrong=8)
    runs = made.read().runs
    positions, num_hard = samples.chosen(runs)
    assert num_hard == 8
    assert set(range(8)) <= set(positions.tolist())
    shown = np.bincount(runs[0].labels[positions], minlength=10)
    assert shown.min() >= samples.CORRECT_OF_EACH_CLASS


def test_too_many_images_are_left_out_evenly(monkeypatch):
    labels = np.array([0] * 90 + [1] * 10)
    kept = samples._evenly(np.arange(100), labels, 20)
    assert np.bincount(labels[kept]).tolist() == [10, 10]


def test_the_split_is_that_of_the_runs(made):
    made.add_run()
    found = data.data(made.read().dataset, made.read().runs)
    assert found["split"] == {"training": 160, "validation": 40, "test": 200}


def test_predictions_of_other_images_are_not_shown_as_these(made):
    run = made.add_run()
    from pipeline.record import write_predictions

    write_predictions(run, np.eye(10)[[0] * 20], np.zeros(20, np.int64))
    html = page_of(made)
    assert "are not of all its test images" in section(html, "samples")


def test_names_from_files_are_text_wherever_they_stand(made):
    names = [f"{MARKUP}{place}" for place in range(10)]
    made.add_all()
    for run in (made.folder / "runs").iterdir():
        record = json.loads((run / "record.json").read_text())
        record["dataset"] |= {"class_names": names, "name": MARKUP}
        record["command"] = [MARKUP]
        record["environment"] = {"cpu": MARKUP, "packages": {MARKUP: MARKUP}, MARKUP: MARKUP}
        (run / "record.json").write_text(json.dumps(record))
        layers = json.loads((run / "layers.json").read_text())
        layers["layers"][0] |= {"name": MARKUP, "type": MARKUP}
        (run / "layers.json").write_text(json.dumps(layers))
    failure = {"reason": MARKUP}
    made.add_run(MARKUP, variant=MARKUP, name="x<b>x", status="failed", failure=failure)
    for path in ("proof/ladder.json", "proof/faults.json", "benchmark/benchmark.json"):
        file = made.folder / path
        file.write_text(file.read_text().replace("lightning", json.dumps(MARKUP)[1:-1]))
    plain, hostile = (
        Tags(render(paged.Evidence(made.folder / "b").add_all().read(), [])),
        Tags(page_of(made)),
    )
    assert {tag for tag, _ in hostile.found} <= {tag for tag, _ in plain.found}
    sources = {fields.get("src", "data:")[:5] for _, fields in hostile.found}
    assert sources == {"data:"}
    assert not [
        fields for _, fields in hostile.found if any(name.startswith("on") for name in fields)
    ]


def test_no_address_leads_out_of_the_page(made):
    html = page_of(made.add_all())
    addresses = [
        fields[name]
        for tag, fields in Tags(html).found
        for name in ("src", "href", "action", "data", "srcset")
        if name in fields
    ]
    assert {address[:1] for address in addresses} == {"#", "d"}
    assert set(re.findall(r"https?://[^\"'\s<)]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert "url(http" not in html
    assert "@import" not in html


def test_only_its_own_script_may_run(made):
    html = page_of(made.add_all())
    own = re.search(r"<script>(.*?)</script>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_ten_thousand_predictions_of_four_runs_are_below_five_megabytes(tmp_path):
    made = paged.Evidence(tmp_path, num_test=10_000)
    for number, engine in enumerate(("keras-tensorflow", "lightning")):
        for variant in ("base", "dropout"):
            made.add_run(engine, variant, num_wrong=1500 + 300 * number)
    assert len(page_of(made).encode()) < 5 * MB


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("proof/ladder.json", "{", "cannot read .*ladder.json"),
        ("proof/ladder.json", '{"origin": {}, "climbs": []}', "origin.command is missing"),
        ("proof/ladder.json", "[]", "must be a JSON object"),
        ("proof/faults.json", '{"command": 5}', "command has a wrong type"),
        ("benchmark/benchmark.json", "\xff", "cannot read"),
        ("runs/lightning-base/record.json", "{}", "record.json"),
        ("runs/lightning-base/layers.json", "{}", "layers.json"),
        ("runs/lightning-base/predictions.npz", "no", "predictions.npz"),
    ],
)
def test_a_broken_file_is_named(made, path, text, reason):
    made.add_all()
    (made.folder / path).write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=reason):
        made.read()


def test_runs_of_other_data_do_not_share_a_page(made):
    made.add_run("keras-tensorflow")
    record = paged.make_record()
    made.add_run("lightning", dataset={**record.dataset, "fingerprint": "other", "test": 200})
    with pytest.raises(RunError, match="was tested on other images"):
        made.read()


def test_runs_are_found_in_folders_and_wrong_ones_refused(made):
    run = made.add_run()
    assert find_runs([run]) == find_runs([run.parent]) == find_runs([run, run.parent]) == [run]
    with pytest.raises(UsageError, match="holds no run"):
        find_runs([made.data_dir])
    with pytest.raises(UsageError, match="is not a folder"):
        find_runs([made.folder / "nowhere"])


def test_the_last_comparison_is_taken(made, monkeypatch):
    runs = made.folder / "runs"
    assert latest_comparison(runs) is None
    inside = made.add_run(name="one/lightning-base")
    (inside.parent / "comparison.json").write_text("{}")
    assert latest_comparison(runs) == inside.parent


def test_the_page_is_written_whole_or_not_at_all(made, monkeypatch):
    target = made.folder / "deep" / "page.html"
    write_page(target, made.add_all().read(), ["report.py"])
    before = target.read_bytes()
    monkeypatch.setattr("reporting.write.render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(target, made.read(), [])
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


@pytest.fixture
def report(made, monkeypatch):
    """Call report.py in the folder of made-up evidence."""
    monkeypatch.chdir(made.folder)
    monkeypatch.setattr(sys, "argv", ["report.py"])
    main = runpy.run_path(str(SCRIPT))["main"]
    return lambda *flags: main([*map(str, flags), "--data-dir", str(made.data_dir)])


def test_the_command_takes_what_is_there(report, made, capsys):
    made.add_all()
    assert report("runs") == 0
    assert capsys.readouterr().out == "written: runs/report.html\n"
    html = (made.folder / "runs" / "report.html").read_text()
    assert "These are the project's own results" in html.replace("&#39;", "'")
    # Seeds are taken from runs/equivalence alone, where make equivalence leaves them.
    paged.write(made.folder / "runs" / "equivalence" / "certificate.json", paged.certificates())
    assert report("runs", "--proof", "proof", "--benchmark", "benchmark", "--output", "p.html") == 0
    assert "own results" not in (made.folder / "p.html").read_text()


def test_wrong_calls_and_broken_files_have_a_line(report, made, capsys):
    made.add_all()
    (made.folder / "broken").mkdir()
    (made.folder / "broken" / "ladder.json").write_text("{")
    cases = {
        ("nowhere",): (2, "nowhere is not a folder"),
        ("runs", "--proof", "runs"): (2, "runs holds no ladder.json"),
        ("runs", "--output", "runs"): (2, "runs is a folder"),
        ("runs", "--proof", "broken"): (1, "cannot read broken/ladder.json"),
        ("runs", "--output", "data/t10k-labels-idx1-ubyte/x.html"): (1, "cannot write"),
    }
    for flags, (code, reason) in cases.items():
        assert report(*flags) == code, flags
        err = capsys.readouterr().err
        assert reason in err
        assert len(err.splitlines()) <= 2


def test_a_committed_result_can_be_read():
    from reporting.defaults import COMMITTED_BENCHMARK, COMMITTED_PROOF

    ladder = read_as(Ladder, COMMITTED_PROOF / "ladder.json")
    assert all(
        rung.gaps for climb in ladder.climbs for rung in climb.rungs if rung.name == "layers"
    )
    assert read_as(Faults, COMMITTED_PROOF / "faults.json").faults
    assert read_as(Benchmark, COMMITTED_BENCHMARK / "benchmark.json").arms


def test_the_limit_of_runs_is_named(made, monkeypatch):
    monkeypatch.setattr("reporting.evidence.MAX_RUNS", 1)
    made.add_run(name="a")
    made.add_run(name="b")
    with pytest.raises(UsageError, match="2 runs are too many for one page; name at most 1"):
        find_runs([made.folder / "runs"])


def test_runs_are_ordered_by_variant_and_engine(made):
    for engine in ("keras-torch", "lightning", "keras-tensorflow"):
        made.add_run(engine, "dropout")
        made.add_run(engine, "base")
    runs = read_runs(find_runs([made.folder / "runs"]))
    assert [run.variant for run in runs] == ["base"] * 3 + ["dropout"] * 3
    assert [run.engine for run in runs[:3]] == ["keras-tensorflow", "lightning", "keras-torch"]
    assert dataclasses.is_dataclass(runs[0])


def mutated(value, random):
    """Return JSON's `value` with one of its leaves replaced by something odd."""
    odd = [0, -1, 1e308, 1e-308, 10**30, None, "", "x", True, [], {}]
    if isinstance(value, dict) and value:
        key = random.choice(sorted(value))
        return {**value, key: mutated(value[key], random)}
    if isinstance(value, list) and value:
        place = random.randrange(len(value))
        return [*value[:place], mutated(value[place], random), *value[place + 1 :]]
    return random.choice(odd)


@pytest.mark.parametrize(
    "part", ["proof/ladder.json", "proof/faults.json", "benchmark/benchmark.json"]
)
def test_odd_values_are_shown_or_refused(made, part):
    path = made.add_all().folder / part
    whole = json.loads(path.read_text())
    random = Random(0)
    refused = 0
    evidence = made.read()
    for _ in range(150):
        path.write_text(json.dumps(mutated(whole, random)))
        try:
            sections_of(dataclasses.replace(evidence, **read_part(path)))
        except RunError:
            refused += 1
    assert 20 < refused < 150


def read_part(path):
    name, kind = PARTS[path.name]
    return {name: read_as(kind, path)}


def sections_of(evidence):
    summary.summary(evidence)
    made_section.made(evidence)
    if evidence.ladder:
        parity.parity(evidence.ladder)
    if evidence.faults:
        parity.faults(evidence.faults)
    if evidence.benchmark:
        benchmark.benchmark(evidence.benchmark)


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
    made.add_run("keras-tensorflow", recipe=recipe)
    made.add_run("lightning", recipe=recipe)
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
    evidence = dataclasses.replace(made.read(), proof=source, benchmark_source=source)
    assert "project's own results" in summary.is_it_right(evidence.ladder, source)["sentence"]
    assert summary.which_is_faster(evidence).startswith("In these runs an epoch")
    assert "The project's own benchmark: Keras" in summary.which_is_faster(evidence)


def test_a_place_that_allows_nothing_and_one_without_a_number_are_the_worst(made):
    for gap, limit, shown in ((1e-3, 0.0, 1e-3), ("nan", 1e-13, float("inf"))):
        failing = paged.rung(5, "layers", "failed", gap=5e-14)
        failing["gaps"][1] |= {"gap": gap, "limit": limit}
        climb = {**paged.climb(), "rungs": [failing], "passed": False}
        (one,) = built_ladder({**paged.ladder(), "climbs": [climb]}).climbs
        (mark,) = parity._worst_mark(one, "layers")
        assert (mark.value, mark.shape) == (shown, "cross")
        drawn = str(charts.rows_chart([charts.Row("x", [mark])], "t", "a", is_log=True))
        assert "nan" not in drawn.replace("nan,", "")
        assert "inf," not in drawn.lower().split("<title>")[0]


def test_odd_class_names_change_no_number(made):
    names = ["accuracy", "macro avg", "a", "a", *"bcdefg"]
    for engine in ("keras-tensorflow", "lightning"):
        record = paged.make_record()
        fingerprint = load_dataset(made.data_dir).fingerprint
        dataset = {**record.dataset, "fingerprint": fingerprint, "class_names": names}
        made.add_run(engine, num_wrong=0, dataset=dataset)
    (pair,) = evaluation.evaluation(made.read())["pairs"]
    assert all(row["values"][1][0] == "1.000" and row["support"] == 20 for row in pair["rows"])


def test_bars_tell_their_unit(made):
    drawn = str(charts.stacked_bars([("Coat", (12.0,))], ("training",), "t", "a", unit=" images"))
    assert "<title>Coat, training: 12 images</title>" in drawn


@pytest.mark.parametrize("count", [1, 5, 20, 100, 12_345])
def test_an_axis_names_a_few_epochs(count):
    assert 1 <= len(charts.epoch_ticks(count)) <= 13


def test_large_images_are_shown_small():
    images = np.zeros((3, 300, 200), np.uint8)
    assert samples.small(images).shape == (3, 64, 43)
    assert samples.small(images[:, :28, :28]).shape == (3, 28, 28)


def test_the_last_proof_of_this_machine_is_taken(made, monkeypatch):
    monkeypatch.chdir(made.folder)
    for place, name in enumerate(("proof", "proof-short")):
        paged.write(Path("runs") / name / "ladder.json", paged.ladder())
        os.utime(Path("runs") / name / "ladder.json", (place, place))
    assert defaults.proof_source().folder == Path("runs/proof-short")
    os.utime("runs/proof/ladder.json", (9, 9))
    assert defaults.proof_source().folder == Path("runs/proof")
