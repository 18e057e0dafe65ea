"""Trainings whose disk fills up, can't be written to, or whose folder goes away meanwhile.

The tests that both implementations pass; tests/keras and tests/lightning import them.
"""

import shutil

import pytest

from ladder.arrays import read_arrays
from ladder.files import is_unfinished
from pipeline.record import BEST_WEIGHTS, LAST_WEIGHTS, RECORD
from pipeline.recorded import read_predictions, read_record
from tests.disks import small_disk
from tests.training import without_seconds


def check_whole(folder, is_checkpoint):
    """Check that each file of a run's folder is whole; `is_checkpoint` reads a framework's own."""
    assert [path for path in folder.rglob(".*") if is_unfinished(path)] == []
    record = read_record(folder)
    for name in (LAST_WEIGHTS, BEST_WEIGHTS):
        if (folder / name).exists():
            read_arrays(folder / name)
    if (folder / "predictions.npz").exists():
        read_predictions(folder)
    for path in folder.glob("checkpoints/*"):
        if path.suffix == ".safetensors":
            read_arrays(path)
        else:
            assert is_checkpoint(path), path
    return record


def test_half_a_file_is_seen(trainings, implementation, tmp_path):
    """Leave half a checkpoint, and half a record beside its name, in a whole run's folder."""
    is_checkpoint = implementation.is_checkpoint
    shutil.copytree(trainings.once().folder, tmp_path / "run")
    check_whole(tmp_path / "run", is_checkpoint)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises((AssertionError, ValueError, RuntimeError)):
            check_whole(tmp_path / "run", is_checkpoint)
        path.write_bytes(content)
    (tmp_path / "run" / f".{RECORD}.abc.part").touch()
    with pytest.raises(AssertionError):
        check_whole(tmp_path / "run", is_checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step_bytes", "flags"), [(2_500_000, ()), (500_000, ("--variant", "dropout", "--plain"))]
)
def test_a_disk_that_is_full_costs_no_more_than_the_epoch(
    trainings, implementation, tmp_path, step_bytes, flags
):
    """Go on with a run each time that its disk has got a little larger, until it is done."""
    whole, num_full, resume = trainings.once(*flags), 0, ()
    with small_disk(tmp_path / "small disk", 64 * 1024) as disk:
        while True:
            run = trainings.forked(disk.folder / "run", *flags, *resume)
            check_whole(run.folder, implementation.is_checkpoint)
            if run.code == 0:
                break
            num_full += 1
            assert (run.code, run.err) == (
                1, f"{trainings.script_name}: cannot write to {run.folder}: "
                "No space left on device\n",
            )  # fmt: skip
            disk.grow(step_bytes)
            resume = ("--resume",)
        assert num_full * step_bytes > 10_000_000
        assert (run.metrics, run.bits) == (whole.metrics, whole.bits)
        assert run.record.failure is None


@pytest.mark.slow
def test_a_file_that_cannot_be_written_leaves_the_earlier_one(trainings, implementation):
    """Forbid larger files than so many bytes from the second epoch on."""
    before = trainings.forked("limited-before", fault="kill 1 0")
    for num_bytes in implementation.FILE_LIMITS:
        name = f"limit{num_bytes}"
        failed = trainings.forked(name, fault=f"file-limit 1 0 {num_bytes}")
        assert (failed.code, failed.err) == (
            1, f"{trainings.script_name}: cannot write to {failed.folder}: File too large\n",
        )  # fmt: skip
        record = check_whole(failed.folder, implementation.is_checkpoint)
        reason = {"reason": "[Errno 27] File too large"}
        assert (record.status, record.failure) == ("failed", reason)
        assert without_seconds(record.history[:1]) == before.metrics[:1]
        resumed = trainings.forked(name, "--resume")
        assert (resumed.code, resumed.err) == (0, "")
        whole = trainings.once()
        assert (resumed.metrics, resumed.bits) == (whole.metrics, whole.bits)


@pytest.mark.slow
def test_a_folder_that_goes_away_ends_the_run_in_a_line(trainings):
    """Move a run's folder away while it trains, and go on where it is then."""
    run = trainings.forked("moved", fault=f"move 2 0 {trainings.folder / 'moved'}")
    assert (run.code, run.err) == (
        1, f"{trainings.script_name}: cannot write to {run.folder}: No such file or directory\n",
    )  # fmt: skip
    assert not (run.folder / RECORD).exists()
    assert len(read_record(trainings.folder / "moved.away").history) == 2
    resumed = trainings.forked("moved.away", "--resume")
    assert (resumed.code, resumed.err) == (0, "")
    assert resumed.bits == trainings.once().bits


@pytest.mark.slow
def test_a_disk_that_is_read_only_is_told_in_a_line(trainings, tmp_path):
    """Start a run and go on with one on a disk that nothing can be written to."""
    with small_disk(tmp_path / "disk", 64 * 1024**2) as disk:
        part = trainings.forked(disk.folder / "run", fault="kill 1 0")
        before = {path: path.read_bytes() for path in part.folder.rglob("*") if path.is_file()}
        disk.set_writable(False)
        for name, flags in (("run", ["--resume"]), ("another", [])):
            run = trainings.forked(disk.folder / name, *flags)
            assert (run.code, run.err) == (
                1, f"{trainings.script_name}: cannot write to {run.folder}: "
                "Read-only file system\n",
            )  # fmt: skip
        assert not (disk.folder / "another").exists()
        after = {path: path.read_bytes() for path in part.folder.rglob("*") if path.is_file()}
        assert after == before
        disk.set_writable(True)
        resumed = trainings.forked(disk.folder / "run", "--resume")
        assert (resumed.code, resumed.err) == (0, "")
        assert resumed.bits == trainings.once().bits
