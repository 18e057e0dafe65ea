"""The fixture `portproof`, in a pytest of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

PAIRS = Path(__file__).parent / "pairs"
TEST = """
def test_the_port_is_right(portproof):
    assert portproof("in_keras.py:{keras}", "in_torch.py:{torch}", {inputs}).passed
"""


def run_in(folder: Path, **names: object) -> subprocess.CompletedProcess[str]:
    for path in PAIRS.glob("in_*.py"):
        (folder / path.name).write_text(path.read_text())
    (folder / "test_port.py").write_text(TEST.format(**names))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(folder / "test_port.py")],
        capture_output=True, text=True, check=False, cwd=folder.parent,
    )  # fmt: skip


def test_a_call_that_cannot_be_checked_fails_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "port").mkdir()
    done = run_in(tmp_path / "port", keras="nothing", torch="nothing", inputs=["4"])
    assert done.returncode == 1
    assert "CheckError: reference " in done.stdout
    assert "port/in_keras.py:nothing" in done.stdout  # beside the test, not where pytest was called


@pytest.mark.slow
def test_a_right_port_passes_and_a_wrong_one_shows_its_verdict(tmp_path: Path) -> None:
    (tmp_path / "port").mkdir()
    right = run_in(tmp_path / "port", keras="encoder", torch="encoder_fused", inputs=["int11:7"])
    wrong = run_in(tmp_path / "port", keras="encoder", torch="encoder_by_tanh", inputs=["int11:7"])
    assert right.returncode == 0, right.stdout
    assert wrong.returncode == 1
    assert "NOT the same" in wrong.stdout
