"""Threads that wait for other processes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil


@contextmanager
def workers(num_threads: int, end: Callable[[], None]) -> Iterator[ThreadPoolExecutor]:
    """Threads whose work waits for processes; `end` ends those where the block is interrupted.

    Otherwise Ctrl-C would wait for whatever had begun. Work that has not begun is dropped however
    the block ends early.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            end()
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def end_children() -> None:
    """Kill the processes that this one has started."""
    for child in psutil.Process().children():
        child.kill()
