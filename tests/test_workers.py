"""An interrupt ends what threads wait for, and what has not begun."""

import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.workers import end_children, workers
from tests.programs import run_python

ROOT = Path(__file__).parents[1]
# Ends all children of its process, so it gets one of its own. Each thread starts its child only
# once it has been interrupted, or waits for one that runs already.
INTERRUPTED = """
import subprocess, sys, threading, time
import psutil
from pipeline.workers import end_children, workers

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
futures, is_interrupted = [], threading.Event()

def begin_late():
    is_interrupted.wait()
    time.sleep(0.3)
    return subprocess.run(SLEEPER)

def wait_for_children(where):
    with workers(2, end_children) as pool:
        futures.append(pool.submit(subprocess.run, SLEEPER))
        futures.append(pool.submit(begin_late))
        futures.extend(pool.submit(subprocess.run, SLEEPER) for _ in range(2))
        while not psutil.Process().children():
            time.sleep(0.01)
        is_interrupted.set()
        if where == "within":
            raise KeyboardInterrupt
        import os, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

try:
    wait_for_children(sys.argv[1])
except KeyboardInterrupt:
    print([future.done() and future.cancelled() for future in futures])
    print([future.result().returncode for future in futures[:2]])
"""


@pytest.mark.parametrize("where", ["within", "at the end"])
def test_an_interrupt_ends_children_and_drops_what_has_not_begun(where):
    begun = time.monotonic()
    done = run_python("-c", INTERRUPTED, where, check=True)
    assert time.monotonic() - begun < 30
    killed = -signal.SIGKILL
    assert done.stdout == f"[False, False, True, True]\n[{killed}, {killed}]\n"


def test_a_child_that_ends_meanwhile_is_no_error(monkeypatch):
    class Gone:
        def kill(self):
            raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil.Process, "children", lambda self: [Gone()])
    end_children()


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
    assert futures[0].done()
    assert futures[0].result()
    assert futures[1].cancelled()
    assert not ended
