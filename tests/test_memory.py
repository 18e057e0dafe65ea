"""Freed memory, kept for the next step."""

import ctypes
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import memory

PROGRAM = """
import ctypes, resource, sys, threading
import numpy as np
from pipeline.memory import keep_freed_memory

PR_SET_THP_DISABLE = 41  # huge pages would be faulted in by the hundred
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
if "kept" in sys.argv:
    assert keep_freed_memory()

def fill():
    np.ones(10_000_000)  # 80 MB: more than a thread's own heap holds

def faults_of(call):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_thread():
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()

fill(); in_thread()
print(faults_of(fill), faults_of(in_thread))
"""
PAGES = 80_000_000 // resource.getpagesize()

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def faults(*flags):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1], env={"PYTHONPATH": "."},
    )  # fmt: skip
    return [int(word) for word in done.stdout.split()]


@needs_glibc
def test_a_large_buffer_is_faulted_in_once():
    assert max(faults("kept")) < PAGES / 100


@needs_glibc
def test_left_alone_it_is_faulted_in_each_time():
    assert min(faults()) > PAGES * 0.9


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
