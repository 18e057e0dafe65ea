"""Checkpoints of any bytes: read as a second reader reads them, or refused; see test_hostile.py."""

import io
import zipfile
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_impl.checkpoint import read_checkpoint
from tests.edits import EDITS, HYPOTHESIS, edited
from tests.lightning.checkpoint_parser import CHECKPOINT
from tests.parsers import tried

(SEED,) = CHECKPOINT.seeds


@HYPOTHESIS
@given(edits=EDITS)
def test_a_changed_checkpoint_is_read_right_or_refused(edits, tmp_path):
    tried(CHECKPOINT, edited(SEED, edits), tmp_path)


def edited_member(content, number, edits):
    """Return an archive in which a member is another one, with its right checksum."""
    changed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as archive,
        zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as another,
    ):
        names = archive.namelist()
        for name in names:
            member = archive.read(name)
            if name == names[number % len(names)]:
                member = edited(member, edits)
            # As torch writes them: `writestr` would give each the rights of a file.
            another.writestr(name, member)
            another.getinfo(name).external_attr = 0
    return changed.getvalue()


@settings(HYPOTHESIS, max_examples=200)
@given(number=st.sampled_from([0, 0, 1, 2, 3]), edits=EDITS)
def test_a_checkpoint_with_another_member_is_read_right_or_refused(number, edits, tmp_path):
    tried(CHECKPOINT, edited_member(SEED, number, edits), tmp_path)


def test_an_archive_that_is_written_anew_is_read(tmp_path):
    assert tried(CHECKPOINT, edited_member(SEED, 0, []), tmp_path) == "parsed"


def test_every_beginning_of_a_checkpoint_is_refused(tmp_path):
    for end in range(0, len(SEED), 1 + len(SEED) // 90):
        assert tried(CHECKPOINT, SEED[:end], tmp_path) == "refused"


def test_a_bit_that_has_changed_in_a_weight_is_seen(tmp_path):
    """torch goes on with it; found by changing bytes at random."""
    with zipfile.ZipFile(io.BytesIO(SEED)) as archive:
        weight = archive.read("archive/data/0")
    at = SEED.index(weight)
    changed = SEED[: at + 6] + bytes([SEED[at + 6] ^ 64]) + SEED[at + 7 :]
    path = tmp_path / "last.ckpt"
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="archive/data/0 has another checksum"):
        read_checkpoint(path)
    # The twins: torch reads another weight; with its checksum it is a checkpoint again.
    assert torch.load(path, weights_only=True)["state_dict"]["a"][0, 1] != 1
    sums = [zlib.crc32(each).to_bytes(4, "little") for each in (weight, changed[at : at + 24])]
    path.write_bytes(changed.replace(*sums))
    assert read_checkpoint(path)["state_dict"]["a"][0, 1] != 1


def with_attributes(content, name, attributes):
    """Return a zip in whose directory a member has these attributes, four bytes."""
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(name))
    return content[: entry + 38] + attributes + content[entry + 42 :]


def test_a_member_that_says_it_is_a_folder_is_refused(tmp_path):
    """Of its numbers torch makes what lies in memory; found by `make fuzz`."""
    changed = with_attributes(SEED, b"archive/data/3", b"\x10\0\0\0")
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        assert archive.testzip() is None
        assert archive.getinfo("archive/data/3").external_attr == 0x10
    assert tried(CHECKPOINT, changed, tmp_path) == "refused"
    assert tried(CHECKPOINT, with_attributes(changed, b"archive/data/3", bytes(4)), tmp_path) == (
        "parsed"
    )
