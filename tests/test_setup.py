"""What set-up promises: locks, the Makefile, and the script that CI calls."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tests.parts
from tests.parts import PARTS

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]
OLDEST, END = (int(text) for text in re.findall(r"3\.(\d+)", PROJECT["requires-python"]))
SUPPORTED = f"Python 3.{OLDEST} to 3.{END - 1}"
TARGETS = re.search(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text())[1].split()


def pins(lock):
    return set(re.findall(r"(?m)^[A-Za-z0-9._-]+==[^ \\;]+", lock.read_text()))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_address(lock):
    """That all is pinned and hashed, `--require-hashes` sees where it is installed."""
    assert pins(lock)
    assert "://" not in lock.read_text()
    assert not re.search("(?m)^-", lock.read_text())


def test_every_dependency_is_locked_within_its_range():
    dev = PROJECT["optional-dependencies"]
    stated = [*PROJECT["dependencies"], *dev["jax"], *dev["tracking"], *dev["dev"]]
    locked = [pin.split("==") for pin in pins(ROOT / "requirements/dev.txt")]
    for item in map(Requirement, stated):
        if canonicalize_name(item.name) == PROJECT["name"]:
            continue
        versions = [version for name, version in locked if name == canonicalize_name(item.name)]
        assert versions, f"{item.name} is not in requirements/dev.txt: run `make lock`"
        assert all(version in item.specifier for version in versions), item


def test_the_compromised_lightning_releases_are_excluded():
    (allowed,) = (Requirement(t) for t in PROJECT["dependencies"] if t.startswith("lightning"))
    releases = ["2.6.1", "2.6.2", "2.6.3", "2.6.4"]
    assert list(allowed.specifier.filter(releases)) == ["2.6.1", "2.6.4"]


def test_the_supported_versions_of_python_are_stated_once():
    oldest = re.fullmatch(r">=(3\.\d+),<3\.\d+", PROJECT["requires-python"])
    assert oldest, "requirements/find-python and the Makefile read it in this form"
    assert f"--python-version {oldest[1]} " in make("-n", "lock").stdout
    assert TOOLS["mypy"]["python_version"] == oldest[1]
    assert "target-version" not in TOOLS["ruff"]  # ruff reads requires-python
    for name in ("Makefile", ".ci/run", "requirements/find-python"):
        assert not re.search(r"3[.,] ?\d\d", (ROOT / name).read_text()), name


def make(*arguments, folder=ROOT):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def test_make_alone_lists_every_target():
    listed = [line.split()[1] for line in make().stdout.splitlines()]
    assert listed == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_made(target):
    done = make("-n", target)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["test"], "fetch_data.py"),
        (["test"], '-m tests.parts -m "not slow"'),
        (["test-all"], "-m tests.parts\n"),
        (["compare"], "scripts/compare.py --epochs 5"),
        (["compare", "EPOCHS=20"], "scripts/compare.py --epochs 20"),
        (["refresh"], "--upgrade --exclude-newer P14D"),
    ],
)
def test_a_target_calls_what_it_promises(call, words):
    assert words in make("-n", *call).stdout


def test_the_parts_are_lint_types_and_each_test_once():
    commands = [" ".join(command[1:]) for command in PARTS.values()]
    for check in ("-m ruff check .", "-m ruff format --check .", "-m mypy"):
        assert check in commands

    def takes(command, path):
        folders = [word for word in command if (ROOT / word).is_dir()]
        ignored = [word.partition("=")[2] for word in command if word.startswith("--ignore=")]
        return any(f"{path}/".startswith(f"{each}/") for each in folders) and not any(
            f"{path}/".startswith(f"{each}/") for each in ignored
        )

    parts = [command for command in PARTS.values() if "pytest" in command]
    paths = [str(path.relative_to(ROOT)) for folder in ("tests", "portproof/tests", "parity_tests")
             for path in (ROOT / folder).rglob("test_*.py")]  # fmt: skip
    assert len(paths) > 100
    assert [path for path in paths if sum(takes(part, path) for part in parts) != 1] == []


def test_a_part_that_fails_fails_the_whole(monkeypatch, capsys):
    parts = {"good": ("true",), "bad": ("sh", "-c", "echo why; exit 3")}
    monkeypatch.setattr(tests.parts, "PARTS", parts)
    assert tests.parts.main([]) == 1
    out = capsys.readouterr().out
    assert "bad:\nwhy\n" in out
    assert "bad: FAILED with 3" in out
    assert "good: passed" in out
    del parts["bad"]
    assert tests.parts.main([]) == 0


@pytest.fixture
def checkout(tmp_path):
    """A checkout, in a path with a space, that is set up."""
    folder = tmp_path / "a checkout"
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    (folder / "portproof").mkdir()
    for name in ("Makefile", "pyproject.toml", "portproof/pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".set-up").touch()
    return folder


def test_a_second_set_up_installs_nothing(checkout):
    assert "install" not in make("-n", "setup", folder=checkout).stdout
    newer = (checkout / ".venv/.set-up").stat().st_mtime + 10
    os.utime(checkout / "requirements/dev.txt", (newer, newer))
    plan = make("-n", "setup", folder=checkout).stdout
    assert "--require-hashes -r requirements/dev.txt" in plan
    assert "-r requirements/uv.txt" in plan


def test_no_supported_python_is_said_in_one_line(checkout):
    (checkout / ".venv/.set-up").unlink()
    done = make("setup", "PYTHON=/nonexistent/python", folder=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith(f"no {SUPPORTED} with venv here; install one")
    assert len(done.stderr.splitlines()) == 2  # and make's own
    assert not list((checkout / ".venv").iterdir())


RIGHT_PYTHON = "exit 0"
# Can do all but be of a supported version. Its environment's pip installs nothing.
WRONG_PYTHON = """
case "$*" in
  *version_info*) exit 1 ;;
  "-m venv --clear .venv-uv")
    mkdir -p .venv-uv/bin
    printf '#!/bin/sh\\n' >.venv-uv/bin/python
    cp "$(dirname "$0")/planted-uv" .venv-uv/bin/uv
    chmod +x .venv-uv/bin/* ;;
esac
"""
UV = """
case "$*" in
  "python install 3."*) echo downloading; exit "${DOWNLOAD:-0}" ;;
  "python find --managed-python 3."*) echo "/fetched by uv/python" ;;
  *) exit 1 ;;
esac
"""


def find_python(checkout, *arguments, commands, **environ):
    """Run find-python where the PATH holds `commands` and what a shell script needs."""
    folder = checkout / "bin"
    folder.mkdir()
    for name in ("sh", "sed", "seq", "dirname", "rm", "mkdir", "cp", "chmod"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        [checkout / "requirements/find-python", *arguments],
        env={"PATH": str(folder), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


NEWEST, BEFORE = f"python3.{END - 1}", f"python3.{END - 2}"


@pytest.mark.parametrize(
    ("commands", "found"),
    [
        ({NEWEST: RIGHT_PYTHON, BEFORE: RIGHT_PYTHON, "python3": RIGHT_PYTHON}, NEWEST),
        ({NEWEST: "exit 127", BEFORE: RIGHT_PYTHON}, BEFORE),  # a shim with nothing behind it
        ({f"python3.{END}": RIGHT_PYTHON, "python3": RIGHT_PYTHON}, "python3"),
        ({"python3": WRONG_PYTHON, "python": RIGHT_PYTHON, "uv": UV}, "python"),
    ],
)
def test_the_newest_supported_python_is_taken(checkout, commands, found):
    done = find_python(checkout, "--fetch", commands=commands)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{found}\n", "")


@pytest.mark.parametrize("commands", [{"python3": WRONG_PYTHON, "planted-uv": UV}, {"uv": UV}])
def test_uv_fetches_a_python_where_none_is_supported(checkout, commands):
    done = find_python(checkout, "--fetch", commands=commands)
    assert (done.returncode, done.stdout) == (0, "/fetched by uv/python\n")
    said = f"no {SUPPORTED} with venv here: uv fetches 3.{END - 1}"
    assert done.stderr.splitlines() == [said, "downloading"]
    assert not (checkout / ".venv-uv").exists()


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [
        (["--fetch"], {}),
        (["--fetch"], {"uv": UV}),  # and the download fails
        ([], {"python3": WRONG_PYTHON, "uv": UV}),
        (["--fetch", "python3"], {"python3": WRONG_PYTHON, "uv": UV}),  # a choice is not overruled
    ],
)
def test_where_no_python_can_be_had_a_line_says_what_to_install(checkout, arguments, commands):
    done = find_python(checkout, *arguments, commands=commands, DOWNLOAD="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "install one (Debian: apt install python3-venv) or name it" in done.stderr
