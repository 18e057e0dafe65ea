import math
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation import evaluate_logits
from pipeline.plots import (
    Curve,
    plot_class_samples,
    plot_classified,
    plot_confusion,
    plot_curves,
)
from pipeline.preprocess import LabeledImages
from pipeline.run_report import write_run_report
from reporting.pictures import plot_class_changes, plot_class_histogram
from tests.fabricated import CLASS_NAMES, TEST_LABELS, make_logits, make_record

IMAGES = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 1), dtype=np.uint8)
CURVE = Curve("lightning", [0.8, 0.9, 0.95], [0.82, 0.88, 0.9])


def draw_curves(path, curve=CURVE):
    plot_curves(path, {"base": [curve]}, "accuracy")


def draw_many(path):
    other = Curve("keras-jax", [0.7], [math.nan])
    plot_curves(path, {"base": [CURVE, other], "dropout": [CURVE]}, "loss", share_y=False)


def draw_confusion(path):
    plot_confusion(path, np.diag(np.arange(10)), CLASS_NAMES)


def draw_classified(path):
    plot_classified(
        path, IMAGES, TEST_LABELS, TEST_LABELS[::-1], class_names=CLASS_NAMES, title="samples"
    )


def draw_none(path):
    empty = slice(0)
    plot_classified(
        path, IMAGES[empty], TEST_LABELS[empty], TEST_LABELS[empty],
        class_names=CLASS_NAMES, title="samples",
    )  # fmt: skip


def draw_class_samples(path):
    plot_class_samples(path, IMAGES[:95], TEST_LABELS[:95], CLASS_NAMES)


def draw_histogram(path):
    plot_class_histogram(path, {"train": range(10), "test": [1] * 10}, CLASS_NAMES)


def draw_changes(path):
    plot_class_changes(path, {"lightning": np.linspace(-0.1, 0.1, 10)}, CLASS_NAMES)


DRAWINGS = [
    draw_curves, draw_many, draw_confusion, draw_classified,
    draw_none, draw_class_samples, draw_histogram, draw_changes,
]  # fmt: skip


@pytest.mark.parametrize("draw", DRAWINGS)
def test_each_picture_is_a_png_and_an_svg_and_repeatable(draw, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        draw(folder / "it.png")
    with Image.open(one / "it.png") as image:
        assert image.format == "PNG"
        assert all(300 < side < 2500 for side in image.size)
        assert len(np.unique(np.asarray(image.convert("L")))) > 2
    root = ElementTree.fromstring((one / "it.svg").read_bytes())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter())) > 20
    for name in ("it.png", "it.svg"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_other_numbers_give_another_picture(tmp_path):
    draw_curves(tmp_path / "one.png")
    draw_curves(tmp_path / "two.png", Curve("lightning", [0.8, 0.9, 0.95], [0.82, 0.88, 0.91]))
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        draw_curves(tmp_path / "missing" / "one.png")
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
