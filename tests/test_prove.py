"""`scripts/prove.py`: wrong calls, and engines that die: never a pass, never a hang."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.drawn import draw_dataset

PROVE = Path(__file__).resolve().parent.parent / "scripts" / "prove.py"


def prove(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(PROVE), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0"], "`--seeds` must be at least 1; received 0"),
        (["--engines", "theano"], "`--engines` takes keras-tensorflow, keras-jax, keras-torch"),
        (["--variants", "wide"], "`--variants` takes base, dropout; received 'wide'"),
        (["--lanes", "float16"], "`--lanes` takes float64, float32; received 'float16'"),
        (["--practice"], "`--practice` goes with `--faults`"),
        (["--faults", "--replays"], "not allowed with"),
        (["--short", "--full"], "not allowed with"),
        (["--engines", ""], "`--engines` takes keras-tensorflow, keras-jax, keras-torch"),
        (["--faults", "--seeds", "2"], "`--faults` and `--replays` have their own engines"),
        (["--full", "--engines", "keras-jax"], "`--full` takes every engine"),
        (["--short", "--seeds", "2"], "`--short` has its own variants, lanes and seed"),
        (["--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_call_is_refused_in_a_line(arguments, words, tmp_path):
    done = prove(*arguments, "--output-dir", tmp_path / "proof")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.md"))


@pytest.fixture
def drawn(tmp_path):
    draw_dataset(tmp_path / "drawn", 300, 110)
    return tmp_path / "drawn"


@pytest.mark.parametrize("work", [[], ["--replays"], ["--faults"]], ids=str)
def test_an_engine_that_dies_leaves_no_verdict(tmp_path, drawn, work):
    broken = tmp_path / "broken"
    broken.mkdir()
    # Each engine's program imports its framework first, and there it ends.
    for name in ("torch", "keras"):
        (broken / f"{name}.py").write_text(f"raise SystemExit('{name} is broken here')\n")
    output = tmp_path / "proof"
    done = prove(*work, "--data-dir", drawn, "--output-dir", output, PYTHONPATH=str(broken))
    assert done.returncode == 1
    assert "is broken here" in (done.stdout if work == ["--faults"] else done.stderr)
    assert "the same computation" not in done.stdout
    assert "Traceback" not in done.stderr
    if work != ["--faults"]:  # each fault has an outcome of its own: no verdict
        assert not list(output.glob("*.json"))
    else:
        assert "faults not as expected" in done.stderr
