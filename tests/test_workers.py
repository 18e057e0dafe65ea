"""An interrupt ends what threads wait for, and what has not begun."""

import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from pipeline.workers import end_children, workers

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_an_interrupt_ends_children_and_drops_what_has_not_begun():
    futures = []

    def wait_for_children():
        with workers(2, end_children) as pool:
            futures.extend(pool.submit(subprocess.run, SLEEPER) for _ in range(4))
            deadline = time.monotonic() + 20
            while len(psutil.Process().children()) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for_children()
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    assert [future.result().returncode for future in futures[:2]] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("error", [ValueError, GeneratorExit])
def test_another_error_waits_for_what_has_begun_and_ends_nothing(error):
    has_begun, may_end, futures, ended = threading.Event(), threading.Event(), [], []

    def work():
        has_begun.set()
        return may_end.wait(20)

    def fail():
        with workers(1, lambda: ended.append(True)) as pool:
            futures.extend([pool.submit(work), pool.submit(work)])
            has_begun.wait(20)
            threading.Timer(0.1, may_end.set).start()
            raise error

    with pytest.raises(error):
        fail()
    assert futures[0].result()
    assert futures[1].cancelled()
    assert not ended


def test_without_an_error_all_is_done():
    with workers(2, end_children) as pool:
        futures = [pool.submit(pow, 2, number) for number in range(5)]
    assert [future.result() for future in futures] == [1, 2, 4, 8, 16]
