"""The wheel in an environment of its own, used as the README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")


def run(*command: object, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env={**environment, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_first_check_from_the_wheel_where_no_framework_is(tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    for command in (
        (UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, ROOT,
         "--out-dir", tmp_path),
        (UV, "venv", "--python", sys.executable, tmp_path / "env"),
        (UV, "pip", "install", "--python", python, tmp_path / "portproof-0.1.0-py3-none-any.whl"),
    ):  # fmt: skip
        done = run(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    programs = re.findall(r"(?s)```python\n# (\w+\.py)\n(.*?)```", (ROOT / "README.md").read_text())
    assert [name for name, _ in programs] == ["keras_model.py", "torch_model.py"]
    for name, program in programs:
        (tmp_path / name).write_text(program)
    command = (python.with_name("portproof"), "check", "keras_model.py:build",
               "torch_model.py:build", "--input", "16,16,3")  # fmt: skip
    without = run(*command, folder=tmp_path)
    assert without.returncode == 2
    assert "keras_model.py needs keras, which" in without.stderr
    sides = [
        word for side in ("reference", "suspect") for word in (f"--{side}-python", sys.executable)
    ]
    found = run(*command, *sides, folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "2 of 2 calls matched" in found.stdout
    assert "the same computation" in found.stdout
    wrong = (tmp_path / "torch_model.py").read_text().replace("nn.ReLU()", "nn.GELU()")
    (tmp_path / "torch_model.py").write_text(wrong)
    assert run(*command, *sides, folder=tmp_path).returncode == 1
