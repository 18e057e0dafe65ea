"""Many processes at once on one data cache, which the first of them fills."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.datasets import IDX_FILES, load_dataset
from pipeline.drawn import draw_dataset
from pipeline.recorded import read_record
from tests.programs import run_python

ROOT = Path(__file__).parents[1]

FIND = """
import sys
from pathlib import Path
from pipeline import datasets, fetch
from pipeline.datasets import find_dataset, load_dataset
from pipeline.fetch import ensure_dataset
datasets.DEBIAN_DIR = fetch.DEBIAN_DIR = Path("nowhere")
ensure_dataset(None, mirrors=[sys.argv[1]])
print("fingerprint", load_dataset(find_dataset(None)).fingerprint)
"""


@pytest.mark.parametrize("num_processes", [2, pytest.param(32, marks=pytest.mark.slow)])
def test_all_get_whole_data_where_one_fills_the_cache(
    real_mirror, real_data, tmp_path, num_processes
):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment |= {"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    environment.pop("FASHION_MNIST_DIR", None)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIND, real_mirror.url("good")], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(num_processes)
    ]  # fmt: skip
    found = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * num_processes, found
    fingerprint = load_dataset(real_data).fingerprint
    assert [out.splitlines()[-1] for out, _ in found] == [f"fingerprint {fingerprint}"] * len(found)
    # One alone has fetched the files.
    assert sum(out.count("from http") for out, _ in found) == len(IDX_FILES)
    assert not list(tmp_path.rglob("*.part"))


COMPARE = ["compare.py", "--epochs", "1", "--variants", "base", "--threads", "1"]
COMPARED = [f"{engine}-base/predictions.npz" for engine in ("keras-tensorflow", "lightning")]
PROVE = ["prove.py", "--variants", "base", "--lanes", "float64", "--engines", "keras-tensorflow"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("command", "names", "num_processes"),
    [
        (COMPARE, COMPARED, 2),
        (COMPARE, COMPARED, 12),
        (PROVE, ["ladder.md"], 2),
        (PROVE, ["ladder.md"], 4),  # each takes more than a gigabyte
    ],
    ids=["2 comparisons", "12 comparisons", "2 proofs", "4 proofs"],
)
def test_commands_at_once_on_one_data_cache_end_as_one_alone(
    command, names, num_processes, tmp_path
):
    draw_dataset(tmp_path / "data", 300, 110)
    program, *flags = command
    line = [sys.executable, str(ROOT / "scripts" / program), *flags]
    line += ["--data-dir", str(tmp_path / "data"), "--output-dir"]
    one, *many = (tmp_path / str(number) for number in range(num_processes + 1))
    subprocess.run([*line, str(one)], check=True, capture_output=True)
    started = []
    for folder in many:
        with (tmp_path / f"{folder.name}.log").open("w") as log:
            started.append(subprocess.Popen([*line, str(folder)], stdout=log, stderr=log))
    try:
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0] * num_processes, [
        (tmp_path / f"{folder.name}.log").read_text()[-2000:]
        for folder, code in zip(many, codes, strict=True)
        if code
    ]
    for name in names:
        assert {(folder / name).read_bytes() for folder in many} == {(one / name).read_bytes()}


@pytest.mark.slow
def test_each_engine_of_a_comparison_fits_into_two_gigabytes(drawn_data, tmp_path):
    flags = ("--epochs", "1", "--batch-size", "50", "--output-dir", tmp_path)
    run_python(ROOT / "scripts" / "compare.py", *flags, "--data-dir", drawn_data, check=True)
    peaks = [read_record(path.parent).timing for path in tmp_path.glob("*/record.json")]
    assert len(peaks) == 4
    assert all(2**27 < timing["peak_memory_bytes"] < 2 * 10**9 for timing in peaks)
