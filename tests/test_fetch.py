import dataclasses
import gzip
import hashlib
import os
from pathlib import Path

import pytest

from pipeline import fetch
from pipeline.datasets import IDX_FILES, cache_dir, load_dataset
from pipeline.errors import RunError, UsageError
from pipeline.fetch import LOCK, Limits, ensure_dataset
from tests.mirror import serve
from tests.programs import run_python

SCRIPT = Path(__file__).parents[1] / "scripts" / "fetch_data.py"


NAMES = [file.name for file in IDX_FILES]


QUICK = Limits(stall_seconds=0.5, file_seconds=5)


@pytest.fixture
def mirror(drawn_data, monkeypatch):
    """A mirror of the drawn set, which stands in for Fashion-MNIST where size only costs time."""
    contents = {name: (drawn_data / name).read_bytes() for name in NAMES}
    stand_ins = tuple(
        dataclasses.replace(
            file,
            num_bytes=len(contents[file.name]),
            sha256=hashlib.sha256(contents[file.name]).hexdigest(),
        )
        for file in IDX_FILES
    )
    monkeypatch.setattr(fetch, "IDX_FILES", stand_ins)
    monkeypatch.setenv("no_proxy", "*")
    yield from serve({name: gzip.compress(content) for name, content in contents.items()})


@pytest.fixture
def no_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "no-tools"))


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("behaviour", ["good", "no_length", "redirect"])
def test_a_good_mirror_fills_the_folder(behaviour, mirror, drawn_data, tmp_path):
    folder = tmp_path / "new" / "a b"
    said: list[str] = []
    ensure_dataset(folder, mirrors=[mirror.url(behaviour)], limits=QUICK, say=said.append)
    assert contents(folder) == sorted([*NAMES, LOCK])
    assert load_dataset(folder).fingerprint == load_dataset(drawn_data).fingerprint
    assert said[-1] == f"fashion-mnist: complete in {folder}"


BAD_MIRRORS = {
    "cut_off": "IncompleteRead",
    "says_too_little": "cut off",
    "endless": "not a gzip file|unpacks to more",
    "wrong_bytes": "not Fashion-MNIST's",
    "bomb": "unpacks to more than [0-9,]+ bytes",
    "page": "not a gzip file",
    "broken": "500 Server Error",
    "absent": "404 Client Error",
    "circle": "redirect",
    "hang": "timed out",
    "stall": "timed out",
    "trickle": r"not done after 1 s",
}


@pytest.mark.parametrize("behaviour", BAD_MIRRORS)
@pytest.mark.usefixtures("no_package")
def test_a_bad_mirror_leaves_nothing(behaviour, mirror, tmp_path):
    is_slow = behaviour in {"hang", "stall", "trickle"}
    limits = Limits(0.5, 1) if is_slow else Limits(30, 60)  # a busy machine is slow as well
    with pytest.raises(RunError, match=BAD_MIRRORS[behaviour]):
        ensure_dataset(tmp_path / "data", mirrors=[mirror.url(behaviour)], limits=limits)
    assert contents(tmp_path / "data") == [LOCK]


@pytest.mark.parametrize("behaviour", ["cut_off", "wrong_bytes", "broken", "stall"])
def test_the_next_mirror_is_tried(behaviour, mirror, tmp_path):
    mirrors = [mirror.url(behaviour), mirror.url("good")]
    ensure_dataset(tmp_path, mirrors=mirrors, limits=QUICK)
    assert contents(tmp_path) == sorted([*NAMES, LOCK])
    assert mirror.requests == {behaviour: 1, "good": 4}  # the bad one is not asked again


def test_only_what_is_missing_is_fetched(mirror, tmp_path):
    mirrors = [mirror.url("good")]
    ensure_dataset(tmp_path, mirrors=mirrors)
    (tmp_path / NAMES[1]).unlink()
    ensure_dataset(tmp_path, mirrors=mirrors)
    assert mirror.requests["good"] == 5
    ensure_dataset(tmp_path, mirrors=["http://127.0.0.1:1/"])


def test_files_of_the_callers_own_are_never_overwritten(mirror, tmp_path):
    (tmp_path / NAMES[0]).write_bytes(b"precious")
    with pytest.raises(UsageError, match="is there and is not Fashion-MNIST's"):
        ensure_dataset(tmp_path, mirrors=[mirror.url("good")])
    assert (tmp_path / NAMES[0]).read_bytes() == b"precious"
    assert not mirror.requests


def test_leftovers_of_a_killed_process_go(mirror, tmp_path):
    (tmp_path / f".{NAMES[0]}.abc123.part").write_bytes(b"half")
    ensure_dataset(tmp_path, mirrors=[mirror.url("good")])
    assert contents(tmp_path) == sorted([*NAMES, LOCK])


@pytest.mark.usefixtures("no_package")
def test_no_source_at_all_says_why_and_what_to_do(tmp_path):
    with pytest.raises(RunError) as raised:
        ensure_dataset(tmp_path, mirrors=["http://127.0.0.1:1/"], limits=QUICK)
    text = str(raised.value)
    assert "Connection refused; Debian's package: no apt-get here" in text
    assert f"Put the four IDX files into {tmp_path} by hand" in text


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write to .*file/inside"):
        ensure_dataset(tmp_path / "file" / "inside")


def fake_tools(tmp_path, monkeypatch, packed, apt_get):
    """Put an `apt-get` and a `dpkg-deb` first that act as Debian's do, on a package of `packed`."""
    folder = tmp_path / "tools"
    (folder / "package").mkdir(parents=True)
    for name, content in packed.items():
        (folder / "package" / f"{name}.gz").write_bytes(content)
    target = f"$3{fetch.DEBIAN_DIR}"
    unpack = f'mkdir -p "{target}" && cp "{folder}/package"/* "{target}"'
    for name, body in (("apt-get", apt_get), ("dpkg-deb", unpack)):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


DOWNLOAD = "touch dataset-fashion-mnist_1_all.deb"


NEEDS_OWN_LISTS = f"""
case "$*" in
  *Dir::State=*update) touch "$HOME/updated" ;;
  *Dir::State=*download*) test -e "$HOME/updated" && {DOWNLOAD} ;;
  *) echo "E: Unable to locate package" >&2; exit 100 ;;
esac"""


@pytest.mark.parametrize("apt_get", [DOWNLOAD, NEEDS_OWN_LISTS], ids=["lists", "no-lists"])
def test_without_mirrors_the_package_is_unpacked(apt_get, mirror, tmp_path, monkeypatch):
    fake_tools(tmp_path, monkeypatch, mirror.packed, apt_get)
    monkeypatch.setenv("HOME", str(tmp_path))
    said: list[str] = []
    ensure_dataset(tmp_path / "data", mirrors=[mirror.url("broken")], say=said.append)
    assert contents(tmp_path / "data") == sorted([*NAMES, LOCK])
    assert mirror.requests == {"broken": 1}
    assert any("Debian's package" in line for line in said)


@pytest.mark.parametrize(
    ("apt_get", "message"),
    [
        ("echo 'E: no such package' >&2; exit 100", "apt-get exited with 100: E: no such package"),
        ("true", "apt-get left no package"),
        ("sleep 20", "apt-get took more than 1 s"),
    ],
)
def test_a_package_that_cannot_be_had_is_reported(apt_get, message, mirror, tmp_path, monkeypatch):
    fake_tools(tmp_path, monkeypatch, mirror.packed, f"exec 3>&1; {apt_get}")
    limits = Limits(stall_seconds=0.5, file_seconds=1)
    with pytest.raises(RunError, match=message):
        ensure_dataset(tmp_path / "data", mirrors=[mirror.url("absent")], limits=limits)
    assert contents(tmp_path / "data") == [LOCK]


@pytest.mark.parametrize(
    "plant",
    ["ln -s /etc/passwd $NAME", "mkfifo $NAME", "mkdir $NAME", "ln -s $NAME.real $NAME"],
    ids=["link", "pipe", "folder", "loop"],
)
def test_a_package_cannot_lead_out_of_its_folder(plant, mirror, tmp_path, monkeypatch):
    tools = fake_tools(tmp_path, monkeypatch, {}, DOWNLOAD)
    unpack = f'mkdir -p "$3{fetch.DEBIAN_DIR}"; cd "$3{fetch.DEBIAN_DIR}"; NAME={NAMES[0]}.gz'
    (tools / "dpkg-deb").write_text(f"#!/bin/sh\n{unpack}\n{plant}\n")
    with pytest.raises(RunError, match=f"it holds no file {NAMES[0]}.gz"):
        ensure_dataset(tmp_path / "data", mirrors=[mirror.url("absent")])
    assert contents(tmp_path / "data") == [LOCK]


def test_a_package_with_other_bytes_is_refused(mirror, tmp_path, monkeypatch):
    other = dict.fromkeys(NAMES, gzip.compress(b"x"))
    fake_tools(tmp_path, monkeypatch, other, DOWNLOAD)
    with pytest.raises(RunError, match="Debian's package: cut off"):
        ensure_dataset(tmp_path / "data", mirrors=[mirror.url("absent")])
    assert contents(tmp_path / "data") == [LOCK]


def test_the_cache_is_filled_used_and_repaired(real_mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.datasets.DEBIAN_DIR", tmp_path / "nothing")
    monkeypatch.setenv("no_proxy", "*")
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    offline = ["http://127.0.0.1:1/"]
    asked = real_mirror.requests["good"]
    folder = ensure_dataset(None, mirrors=[real_mirror.url("good")], environ=environ)
    assert folder == cache_dir(environ)
    assert load_dataset(folder).name == "fashion-mnist"
    assert ensure_dataset(None, mirrors=offline, environ=environ) == folder
    assert real_mirror.requests["good"] == asked + 4

    (folder / NAMES[1]).write_bytes(b"damaged")
    ensure_dataset(None, mirrors=[real_mirror.url("good")], environ=environ)
    assert load_dataset(folder).name == "fashion-mnist"
    assert real_mirror.requests["good"] == asked + 5


def test_a_set_in_the_named_folder_counts(drawn_data, tmp_path):
    environ = {"FASHION_MNIST_DIR": str(drawn_data), "XDG_CACHE_HOME": str(tmp_path)}
    assert ensure_dataset(None, mirrors=["http://127.0.0.1:1/"], environ=environ) == drawn_data
    assert not cache_dir(environ).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--mirror", "ftp://example"], 2, "must be an http or https address"),
        (["--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["--data-dir", str(SCRIPT)], 2, "fetch_data.py is not a folder"),
    ],
)
def test_the_command_refuses_a_wrong_call(arguments, code, message, tmp_path):
    done = run_python(SCRIPT, *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not contents(tmp_path)


def test_quiet_says_nothing(drawn_data):
    done = run_python(SCRIPT, "--quiet", env={"FASHION_MNIST_DIR": str(drawn_data)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
