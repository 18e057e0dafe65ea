"""Odd machines and settings: each changes no bit, or is named in a line; docs/odd-machines.md."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.record import LAST_WEIGHTS
from pipeline.recorded import read_predictions

ROOT = Path(__file__).parents[1]
ROOMS = ("pipeline", "ladder", "keras_impl", "lightning_impl", "scripts")
ODD_NAME = 'it\'s a "ü" dir $HOME %s'
IMPLEMENTATIONS = ("keras", "lightning")
# Root writes to what is read-only unless this right is taken from it.
HELD = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
# As a package that is not installed looks to Python.
WITHOUT = "import sys\nsys.modules[{!r}] = None\n"
# What asks by way of these gets no answer, also where no process may be kept off the network.
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:1")
COMMAS = "de_DE"
# As a program does that follows its user's settings: from then on C writes and reads commas.
USE_THE_LOCALE = """
import contextlib, locale, os, pathlib
with contextlib.suppress(locale.Error):
    locale.setlocale(locale.LC_ALL, "")
pathlib.Path(os.environ["SAID"]).write_text(locale.localeconv()["decimal_point"])
"""


@dataclass(frozen=True)
class Trained:
    code: int
    err: str
    run_dir: Path

    @property
    def bits(self):
        logits, _ = read_predictions(self.run_dir)
        return (self.run_dir / LAST_WEIGHTS).read_bytes(), logits.tobytes()


def train(impl, data, run_dir, root=ROOT, held=False, more=(), **options):
    """Train an epoch with one thread as a user does."""
    flags = ["--epochs", "1", "--threads", "1", "--data-dir", str(data), "--run-dir", str(run_dir)]
    done = subprocess.run(
        [
            *([*off_the_network(), *HELD] if held else []),
            sys.executable,
            str(root / "scripts" / f"train_{impl}.py"),
            *flags,
            *more,
        ],
        capture_output=True,
        text=True,
        check=False,
        **{"env": {**os.environ, "CUDA_VISIBLE_DEVICES": ""}, **options},
    )
    return Trained(done.returncode, done.stderr, run_dir)


@pytest.fixture
def odd_folder():
    """A folder with an odd name that any user may write to."""
    with tempfile.TemporaryDirectory() as folder:
        odd = Path(folder) / ODD_NAME
        odd.mkdir()
        for path in (Path(folder), odd):
            path.chmod(0o777)
        yield odd


def read_only_sources(folder):
    """Copy the sources to where they can't be written."""
    for room in ROOMS:
        shutil.copytree(
            ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def make_locale(folder):
    """Make the locale with commas below `folder`; return whether that can be done here."""
    folder.mkdir()
    if not shutil.which("localedef"):
        return False
    command = ["localedef", "-i", COMMAS, "-f", "UTF-8", str(folder / COMMAS)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def off_the_network():
    """Return what to start a program with so that it has no network at all, where one may."""
    kept_off = ["unshare", "--net"]
    try:
        may = subprocess.run([*kept_off, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return kept_off if may.returncode == 0 else []


def test_what_is_kept_off_the_network_reaches_nobody():
    kept_off = off_the_network()
    if not kept_off:
        pytest.skip("no process may be kept off the network here")
    ask = "import socket; socket.create_connection(('127.0.0.1', {}), 5)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = [sys.executable, "-c", ask.format(server.getsockname()[1])]
        assert subprocess.run(line, check=False).returncode == 0
        done = subprocess.run([*kept_off, *line], capture_output=True, text=True, check=False)
        assert "unreachable" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_all_at_once_changes_no_bit(impl, drawn_data, tmp_path, odd_folder):
    """One core, threads set, locale, zone, hash seed, paths, no home, no network, read-only."""
    plain = train(impl, drawn_data, tmp_path / "plain")
    assert plain.code == 0, plain.err
    data = odd_folder / "data"
    shutil.copytree(drawn_data, data)
    sources = read_only_sources(odd_folder / "sources")
    has_commas, said = make_locale(odd_folder / "locales"), odd_folder / "said"
    (odd_folder / "settings").mkdir()
    (odd_folder / "settings" / "sitecustomize.py").write_text(USE_THE_LOCALE)
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join((str(sources), str(odd_folder / "settings"))),
        "CUDA_VISIBLE_DEVICES": "",
        "LC_ALL": COMMAS,
        "LOCPATH": str(odd_folder / "locales"),
        "SAID": str(said),
        "PYTHONHASHSEED": "7",
        "TZ": "Pacific/Kiritimati",
        "OMP_NUM_THREADS": "3",
        "COLUMNS": "80",
        "HOME": "/dev/null/home",  # root could make any other
        **NO_NETWORK,
    }
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        odd = train(impl, data, odd_folder / "run", sources, env=environ, cwd=odd_folder, held=True)
    finally:
        os.sched_setaffinity(0, cores)
        for path in (sources, *sources.rglob("*")):
            path.chmod(0o755)
    assert (odd.code, odd.err) == (0, "")
    assert odd.bits == plain.bits
    assert not list(sources.rglob("*.pyc"))
    assert said.read_text() == ("," if has_commas else ".")
    if not has_commas:
        pytest.skip(f"the locale {COMMAS} can't be made here; all else was tried")
    if not off_the_network():
        pytest.skip("no process may be kept off the network here; all else was tried")


@pytest.mark.parametrize(
    ("impl", "package"),
    [("keras", "tensorflow"), ("keras", "keras"), ("keras", "jax"),
     ("lightning", "torch"), ("lightning", "lightning")],
)  # fmt: skip
def test_a_framework_that_is_missing_is_named(impl, package, drawn_data, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(package))
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    more = ["--backend", "jax"] if package == "jax" else []
    trained = train(impl, drawn_data, tmp_path / "run", more=more, env=environ)
    assert trained.code == 2
    assert f"cannot run here: not installed: {package}" in trained.err
    assert trained.err.count("\n") == 1
    assert not trained.run_dir.exists()


SHOW = 'env LC_ALL=xx_XX.UTF-8 "$PYTHON" "$SCRIPT" --data-dir "$DATA" --output-dir "$OUT"'


@pytest.mark.parametrize(
    ("redirection", "codes"),
    [
        (">&-", {0}),
        (">&- 2>&-", {0}),
        ("</dev/null", {0}),
        ("<&-", {0}),
        ("| true", {0, 1}),
        (">/dev/full", {1}),
    ],
)
def test_streams_that_are_closed_or_break(redirection, codes, drawn_data, tmp_path):
    """A reader that has gone, as with `| head`, is no bug: no traceback."""
    line = f'{{ {SHOW}; echo $? >"$CODE"; }} {redirection}'
    variables = {
        "PYTHON": sys.executable,
        "SCRIPT": str(ROOT / "scripts" / "explore.py"),
        "DATA": str(drawn_data),
        "OUT": str(tmp_path / "out"),
        "CODE": str(tmp_path / "code"),
    }
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert int((tmp_path / "code").read_text()) in codes
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1
