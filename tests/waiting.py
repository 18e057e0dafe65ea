"""Waiting for other processes: until one has begun, or has ended."""

import time

import psutil

DEADLINE_SECONDS = 180


def until(condition):
    """Return what `condition` returns as soon as that is true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def pid_in(path):
    """Return the process id that a program writes into `path`."""
    return until(lambda: path.is_file() and path.read_text() and int(path.read_text()))


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
