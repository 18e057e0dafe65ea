import json
import math
import os
import stat

import pytest

from ladder.files import (
    is_unfinished,
    read_limited,
    write_bytes,
    write_json,
    write_text,
    write_whole,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_there_whole_and_alone(tmp_path):
    write_bytes(tmp_path / "a", b"\0\xff")
    write_text(tmp_path / "b", "ü\n")
    write_json(tmp_path / "c", {"ü": [1, None]})
    assert (tmp_path / "a").read_bytes() == b"\0\xff"
    assert (tmp_path / "b").read_bytes() == "ü\n".encode()
    assert json.loads((tmp_path / "c").read_text()) == {"ü": [1, None]}
    assert names(tmp_path) == ["a", "b", "c"]


def half_then_fail(error):
    def write(file):
        file.write(b"half")
        file.flush()
        raise error

    return write


@pytest.mark.parametrize("error", [RuntimeError("planted"), KeyboardInterrupt("planted")])
@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_a_failure_leaves_nothing_behind_and_the_earlier_file_as_it_was(tmp_path, earlier, error):
    if earlier is not None:
        (tmp_path / "a").write_bytes(earlier)
    with pytest.raises(type(error), match="planted"):
        write_whole(tmp_path / "a", half_then_fail(error))
    assert names(tmp_path) == ([] if earlier is None else ["a"])
    assert earlier is None or (tmp_path / "a").read_bytes() == earlier


def test_a_failing_rename_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("planted")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="planted"):
        write_text(tmp_path / "a", "new")
    assert names(tmp_path) == []


def test_readers_see_the_earlier_file_until_the_new_one_is_whole(tmp_path):
    write_text(tmp_path / "a", "earlier")

    def write(file):
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a").read_text() == "earlier"

    write_whole(tmp_path / "a", write)
    assert (tmp_path / "a").read_text() == "new"


def test_a_folder_that_is_missing_or_in_the_way_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "none" / "a", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "folder", "")
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_json_has_no_word_for_what_is_not_finite(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"loss": value})
    assert names(tmp_path) == []


def test_others_may_read_a_file_as_they_may_any(tmp_path):
    write_text(tmp_path / "a", "")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_reading_stops_at_the_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_limited(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ValueError, match=r"/a is larger than the 4 bytes allowed for its kind"):
        read_limited(tmp_path / "a", 4)
    if os.path.exists("/dev/zero"):
        with pytest.raises(ValueError, match="larger than the 9 bytes"):
            read_limited(type(tmp_path)("/dev/zero"), 9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [(".a.ab12.part", True), (".best.part.keras", True), ("best.part", False), (".a.keras", False)],
)
def test_what_a_killed_process_leaves_is_told_by_its_name(tmp_path, name, expected):
    assert is_unfinished(tmp_path / name) is expected
