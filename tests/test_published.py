"""`make published`: which pairs are checked, what is kept, and the page that is made of it."""

import argparse
import json
import runpy
import sys
from pathlib import Path

import pytest

from parity_tests.published import published_page, read_verdicts
from tests.golden import check_page

SCRIPT = Path(__file__).parents[1] / "scripts" / "published.py"
DIFFERENCE = {
    "what": "epsilon", "kind": "batch_norm", "left": "0.001", "right": "1e-05", "gap": 9.8e-4,
    "cause": "epsilon 0.001 | 1e-05", "detail": "", "fails": True, "is_rule": False,
    "places": [{"left": "bn_Conv1", "right": "features.0.1"}] * 52,
}  # fmt: skip


def kept(*differences):
    gaps = {"size": 2e-15, "text": ""}
    verdict = {
        "differences": list(differences), "outputs": {"full": gaps}, "whole_gradient": gaps,
        "matched": 105, "calls": [105, 105], "seconds": 61.4, "memory": [1.4, 1.3],
        "settled": None,
    }  # fmt: skip
    versions, machine = {"keras": "3", "torch": "2"}, "a processor, 2 cores"
    return {
        "commit": "0" * 40, "versions": versions, "machine": machine, "load": 2.0,
        "verdict": verdict,
    }  # fmt: skip


def test_the_page_lists_what_differs_and_what_is_left_when_that_is_repaired():
    verdicts = {"MobileNetV2": kept(DIFFERENCE), "MobileNetV2-repaired": kept()}
    check_page("published.md", published_page(verdicts))


def test_verdicts_that_are_there_are_kept(tmp_path):
    conduct = runpy.run_path(str(SCRIPT))["conduct"]
    asked: list[str] = []

    def check(pair, repaired, path, *how):
        asked.append(path.stem)
        path.write_text(json.dumps(kept()))

    conduct.__globals__["check"] = check
    (tmp_path / "VGG16.json").write_text(json.dumps(kept(DIFFERENCE)))
    call = {"pairs": "VGG16,ResNet50", "output_dir": tmp_path, "page": tmp_path / "page.md"}
    call["hub_python"] = sys.executable
    conduct(argparse.Namespace(**call, again=False))
    assert asked == ["ResNet50", "ResNet50-repaired"]
    assert list(read_verdicts(tmp_path)) == ["VGG16", "ResNet50", "ResNet50-repaired"]
    conduct(argparse.Namespace(**call, again=True))
    assert asked == ["ResNet50", "ResNet50-repaired", "VGG16", "ResNet50", "ResNet50-repaired"]
    assert "VGG16 → vgg16" in (tmp_path / "page.md").read_text()


def test_an_environment_without_keras_hub_is_said(tmp_path, capsys):
    conduct = runpy.run_path(str(SCRIPT))["conduct"]
    conduct.__globals__["versions_in"] = lambda python, packages: None
    conduct.__globals__["check"] = lambda *_: pytest.fail("checked")
    (tmp_path / "VGG16.json").write_text(json.dumps(kept(DIFFERENCE)))
    call = {"pairs": "Bert", "output_dir": tmp_path, "page": tmp_path / "page.md"}
    conduct(argparse.Namespace(**call, again=False, hub_python="/a/python"))
    said = capsys.readouterr().out
    assert "Bert: needs keras-hub and transformers, which /a/python does not have" in said


def test_versions_are_those_of_the_interpreter_that_is_asked():
    versions_in = runpy.run_path(str(SCRIPT))["versions_in"]
    assert versions_in(sys.executable, ("numpy",)).keys() == {"numpy"}
    assert versions_in(sys.executable, ("numpy", "no-such-package")) is None
