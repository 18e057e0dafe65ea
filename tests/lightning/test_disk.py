"""Lightning trainings on disks that fail them; see tests/disks.py."""

import pytest
import torch

from tests.disks import (
    check_a_disk_that_is_full_again_and_again,
    check_a_disk_that_is_read_only,
    check_a_folder_that_goes_away,
    check_files_that_may_not_grow,
    check_that_half_a_file_is_seen,
)


def is_checkpoint(path):
    return bool(torch.load(path, weights_only=True)["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step_bytes", "flags"),
    [
        (2_500_000, ()),
        (500_000, ("--variant", "dropout", "--plain")),
    ],
)
def test_a_disk_that_is_full_costs_no_more_than_the_epoch(trainings, tmp_path, step_bytes, flags):
    check_a_disk_that_is_full_again_and_again(
        trainings, tmp_path, is_checkpoint, step_bytes, *flags
    )


@pytest.mark.slow
# The weights are 1.4 MB, a checkpoint 4.3 MB.
@pytest.mark.parametrize("num_bytes", [1_000_000, 2_000_000])
def test_a_file_that_cannot_be_written_leaves_the_earlier_one(trainings, num_bytes):
    check_files_that_may_not_grow(trainings, is_checkpoint, num_bytes, f"limit{num_bytes}")


@pytest.mark.slow
def test_a_folder_that_goes_away_ends_the_run_in_a_line(trainings):
    check_a_folder_that_goes_away(trainings)


@pytest.mark.slow
def test_a_disk_that_is_read_only_is_told_in_a_line(trainings, tmp_path):
    check_a_disk_that_is_read_only(trainings, tmp_path)


def test_half_a_file_is_seen(trainings, tmp_path):
    check_that_half_a_file_is_seen(trainings, is_checkpoint, tmp_path)
