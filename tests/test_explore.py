import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reporting.explore import summarize

SCRIPT = Path(__file__).parents[1] / "scripts" / "explore.py"


@pytest.fixture
def explore(drawn_data, tmp_path):
    """Return a function that explores the drawn data."""
    main = runpy.run_path(str(SCRIPT))["main"]
    where = ["--data-dir", str(drawn_data), "--output-dir"]
    return lambda *flags, out=tmp_path / "out": main([*where, str(out), *flags])


def test_statistics_are_those_of_numpy():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5000, 4, 4), dtype=np.uint8)
    labels = generator.integers(0, 9, 5000).astype(np.uint8)
    summary = summarize(images, labels, 10)
    assert summary.pixel_mean == pytest.approx((images / 255).mean(), rel=1e-12)
    assert summary.pixel_std == pytest.approx((images / 255).std(), rel=1e-12)
    assert summary.zero_share == (images == 0).mean()
    assert (summary.pixel_min, summary.pixel_max) == (0, 255)
    assert summary.class_counts == tuple(np.bincount(labels, minlength=10))


def test_json_names_the_set_as_what_it_is(explore, capsys):
    assert explore("--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"]["images_shape"] == [200, 28, 28]
    assert shown["train"]["class_counts"] == [20] * 10
    assert shown["name"] != "fashion-mnist"


def test_tables_and_pictures_are_written(explore, tmp_path, capsys):
    assert explore() == 0
    shown = capsys.readouterr().out
    assert "(200, 28, 28) uint8" in shown
    assert max(map(len, shown.splitlines()[:20])) <= 80
    for name in ("samples.png", "classes.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.format == "PNG"


def test_a_folder_that_cannot_be_written_to_is_a_wrong_call(explore, tmp_path, capsys):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert explore(out=in_the_way) == 2
    assert f"cannot write to {in_the_way}" in capsys.readouterr().err
