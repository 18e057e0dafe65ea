"""Lightning trainings on disks that fail them."""

from tests.both.disk import (  # noqa: F401
    test_a_disk_that_is_full_costs_no_more_than_the_epoch,
    test_a_disk_that_is_read_only_is_told_in_a_line,
    test_a_file_that_cannot_be_written_leaves_the_earlier_one,
    test_a_folder_that_goes_away_ends_the_run_in_a_line,
    test_half_a_file_is_seen,
)
