"""Disks that fill up or can't be written to."""

import contextlib
import subprocess

import pytest


class SmallDisk:
    """A file system of its own in memory, mounted on `folder`."""

    def __init__(self, folder, num_bytes):
        self.folder, self.num_bytes = folder, num_bytes
        folder.mkdir()
        mount("-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", folder)

    def grow(self, num_bytes):
        self.num_bytes += num_bytes
        mount("-o", f"remount,size={self.num_bytes}", self.folder)

    def set_writable(self, writable):
        mount("-o", f"remount,{'rw' if writable else 'ro'}", self.folder)


@contextlib.contextmanager
def small_disk(folder, num_bytes):
    """Mount a small disk on `folder`; the test is skipped where nobody may."""
    disk = SmallDisk(folder, num_bytes)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def mount(*arguments):
    try:
        done = subprocess.run(
            ["mount", *map(str, arguments)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
