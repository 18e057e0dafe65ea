"""Threads that wait for other processes."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil

AGAIN_SECONDS = 0.1


@contextmanager
def workers(num_threads: int, end: Callable[[], None]) -> Iterator[ThreadPoolExecutor]:
    """Threads whose work waits for processes; `end` ends those where the block is interrupted.

    Otherwise Ctrl-C would wait for whatever had begun. `end` is called until the threads are done:
    one may be about to start its process. Work that has not begun is dropped however the block
    ends early.
    """
    pool = ThreadPoolExecutor(num_threads)
    try:
        yield pool
        _ending(pool).wait()
    except KeyboardInterrupt:
        ended = _ending(pool, cancel_futures=True)
        while not ended.wait(AGAIN_SECONDS):
            end()
        raise
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def _ending(pool: ThreadPoolExecutor, *, cancel_futures: bool = False) -> threading.Event:
    """Shut `pool` down and return what is set once its threads are done.

    In a thread: before Python 3.13 a `join` that is interrupted takes its thread for ended.
    """
    ended = threading.Event()

    def shut_down() -> None:
        pool.shutdown(cancel_futures=cancel_futures)
        ended.set()

    threading.Thread(target=shut_down).start()
    return ended


def end_children() -> None:
    """Kill the processes that this one has started."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            child.kill()
