"""The page as a whole: what is in it, that it is safe to open, and the command that writes it."""

import base64
import hashlib
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from reporting.write import CONTENTS, render, write_page
from tests.page import paged
from tests.page.paged import MARKUP, Tags, page_of, section

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "report.py"
MB = 10**6


def test_all_sections_hold_what_was_found(made):
    html = page_of(made.add_all())
    assert [name for name, _ in CONTENTS] == re.findall(r'<section id="(\w+)">', html)
    assert html.count('<p class="missing">') == html.count("<noscript>") == 1
    assert "all 3 climbs of the ladder hold" in section(html, "summary")
    assert "Keras on JAX: zeros" in section(html, "parity")
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
