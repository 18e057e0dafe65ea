"""What a process finds out about itself."""

import subprocess
import time
from types import SimpleNamespace

import pytest

from pipeline import environment, origin
from tests.programs import run_python

AGE = """
import time
time.sleep(0.3)
from pipeline.environment import seconds_since_process_start
print(seconds_since_process_start())
"""


def test_a_process_knows_its_age():
    began = time.perf_counter()
    done = run_python("-c", AGE, check=True)
    most = time.perf_counter() - began
    assert 0.3 <= float(done.stdout) <= most + 0.02  # Linux counts in hundredths


def test_without_proc_it_asks_psutil(monkeypatch):
    now = SimpleNamespace(create_time=lambda: time.time() - 1e6)
    monkeypatch.setattr(environment.psutil, "Process", lambda: now)
    assert environment.seconds_since_process_start() < 5e5  # from /proc
    monkeypatch.setattr(environment, "Path", lambda path: Missing())
    assert abs(environment.seconds_since_process_start() - 1e6) < 2


@pytest.mark.parametrize("error", [NotImplementedError, OSError, ValueError])
def test_a_clock_that_cannot_be_read_is_none(monkeypatch, error):
    def refuse():
        raise error

    monkeypatch.setattr(environment.psutil, "cpu_freq", refuse)
    assert origin.cpu_mhz() is None
    monkeypatch.setattr(environment.psutil, "cpu_freq", lambda: None)
    assert origin.cpu_mhz() is None
    clock = SimpleNamespace(current=2500.0, max=0.0)
    monkeypatch.setattr(environment.psutil, "cpu_freq", lambda: clock)
    assert origin.cpu_mhz() == {"current": 2500.0, "max": None}


def test_other_sources_have_another_digest(monkeypatch, tmp_path):
    monkeypatch.setattr(origin, "ROOT", tmp_path)
    (tmp_path / "room").mkdir()
    found = set()
    for content in ("a = 1", "a = 2", "a = 2"):
        (tmp_path / "room" / "module.py").write_text(content)
        origin.code_digest.cache_clear()
        found.add(origin.code_digest(("room",)))
    origin.code_digest.cache_clear()
    assert len(found) == 2


class Missing:
    def read_text(self):
        raise FileNotFoundError


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "900000 100000"}, 4),
        ({"cpu.max": "nonsense"}, 4),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({}, 4),
    ],
)
def test_a_containers_quota_limits_the_usable_cores(monkeypatch, tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(environment, "CGROUP", tmp_path)
    monkeypatch.setattr(environment, "bound_cores", lambda: 4)
    assert environment.usable_cores() == cores


def test_a_result_says_which_code_it_came_from(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "ROOT", tmp_path / "checkout")
    environment.ROOT.mkdir()

    def git(*words):
        names = ("git", "-c", "user.name=N", "-c", "user.email=e@x")
        return subprocess.check_output([*names, *words], cwd=environment.ROOT, text=True).strip()

    subprocess.run(["git", "init", "-q", tmp_path], check=True)  # another project's around it
    assert environment.commit() is None
    git("init", "-q")
    (environment.ROOT / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-q", "-m", "a")
    found = git("rev-parse", "HEAD")
    machine = environment.describe_machine()
    assert machine["commit"] == found
    assert origin.told_commit(machine) == f"; commit {found[:12]}"
    (environment.ROOT / "a.py").write_text("2")
    assert origin.told_commit(environment.describe_machine()) == f"; commit {found[:12]}+"
    assert origin.told_commit({}) == ""
