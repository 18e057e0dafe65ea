import math
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation import evaluate_logits
from pipeline.plots import Curve, plot_class_samples, plot_classified, plot_confusion, plot_curves
from pipeline.preprocess import LabeledImages
from pipeline.run_report import write_run_report
from reporting.pictures import plot_class_changes, plot_class_histogram
from tests.fabricated import CLASS_NAMES, TEST_LABELS, make_logits, make_record

IMAGES = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 1), dtype=np.uint8)
CURVE = Curve("lightning", [0.8, 0.9, 0.95], [0.82, 0.88, 0.9])


OTHER = Curve("keras-jax", [0.7], [math.nan])


def classified(path, count=None):
    labels = TEST_LABELS[:count]
    names = {"class_names": CLASS_NAMES, "title": "samples"}
    plot_classified(path, IMAGES[:count], labels, labels[::-1], **names)


DRAWINGS = {
    "curves": lambda path: plot_curves(path, {"base": [CURVE]}, "accuracy"),
    "many curves": lambda path: plot_curves(
        path, {"base": [CURVE, OTHER], "dropout": [CURVE]}, "loss", share_y=False
    ),
    "confusion": lambda path: plot_confusion(path, np.diag(np.arange(10)), CLASS_NAMES),
    "classified": classified,
    "none classified": lambda path: classified(path, 0),
    "samples": lambda path: plot_class_samples(path, IMAGES[:95], TEST_LABELS[:95], CLASS_NAMES),
    "histogram": lambda path: plot_class_histogram(
        path, {"train": range(10), "test": [1] * 10}, CLASS_NAMES
    ),
    "changes": lambda path: plot_class_changes(
        path, {"lightning": np.linspace(-0.1, 0.1, 10)}, CLASS_NAMES
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_each_picture_is_a_png_and_an_svg_and_repeatable(name, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        DRAWINGS[name](folder / "it.png")
    with Image.open(one / "it.png") as image:
        assert image.format == "PNG"
        assert all(300 < side < 2500 for side in image.size)
        assert len(np.unique(np.asarray(image.convert("L")))) > 2
    root = ElementTree.fromstring((one / "it.svg").read_bytes())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter())) > 20
    for kind in ("it.png", "it.svg"):
        assert (one / kind).read_bytes() == (two / kind).read_bytes()


def test_other_numbers_give_another_picture(tmp_path):
    other = Curve("lightning", [0.8, 0.9, 0.95], [0.82, 0.88, 0.91])
    for name, curve in (("one.png", CURVE), ("two.png", other)):
        plot_curves(tmp_path / name, {"base": [curve]}, "accuracy")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        DRAWINGS["curves"](tmp_path / "missing" / "one.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_wrong", [0, 30, pytest.param(200, marks=pytest.mark.slow)])
def test_a_run_report_has_its_text_and_five_pictures_both_ways(num_wrong, tmp_path):
    evaluation = evaluate_logits(make_logits(num_wrong), TEST_LABELS, CLASS_NAMES)
    write_run_report(
        tmp_path, make_record(), evaluation, LabeledImages(IMAGES, TEST_LABELS), CLASS_NAMES
    )
    stems = ("accuracy", "confusion", "correct", "incorrect", "loss")
    names = [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == names
    text = (tmp_path / "report.txt").read_text()
    assert f"{200 - num_wrong} images classified correctly, {num_wrong} incorrectly" in text
    assert "macro avg" in text
