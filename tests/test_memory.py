"""Freed memory, kept for the next step or given back at once."""

import ctypes
import platform
import resource
import sys

import pytest

from pipeline import memory
from tests.programs import run_python

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
RETURNING = """
import resource, sys
import numpy as np
from pipeline.memory import return_freed_memory

if "returned" in sys.argv:
    assert return_freed_memory()

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

np.ones(3_750_000)  # 30 MB, mapped: once they are freed, no smaller array is
array = np.ones(2_500_000)
small = [np.ones(10_000) for _ in range(200)]  # after it
before = resident_bytes()
del array
print(before - resident_bytes())
"""
PAGES = 80_000_000 // resource.getpagesize()

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def numbers(program, *flags):
    done = run_python("-c", program, *flags, check=True)
    return [int(word) for word in done.stdout.split()]


@needs_glibc
def test_a_large_buffer_is_faulted_in_once():
    assert max(numbers(PROGRAM, "kept")) < PAGES / 100


@needs_glibc
def test_left_alone_it_is_faulted_in_each_time():
    assert min(numbers(PROGRAM)) > PAGES * 0.9


@needs_glibc
@pytest.mark.skipif(sys.platform != "linux", reason="reads what is resident from /proc")
@pytest.mark.parametrize(("flags", "share"), [((), 0), (("returned",), 1)])
def test_an_array_between_others_is_given_back_at_once(flags, share):
    (returned,) = numbers(RETURNING, *flags)
    assert returned == pytest.approx(20_000_000 * share, abs=2_000_000)


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
    assert memory.return_freed_memory() is False
