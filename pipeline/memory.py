"""What the process does with memory that it has freed."""

import ctypes

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
MOST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step; return False where that can't be set.

    Each training step allocates and frees the same large buffers. Left alone, glibc gives them
    back to the system (it trims the heap's end, and maps what does not fit a thread's own heap of
    64 MiB anew each time), and at the next step every page is faulted in and zeroed again. On two
    cores that took a fifth of a step of torch (3,000 faults) and a third of one of JAX (20,000).

    So nothing is mapped or trimmed, and all threads share one heap, the only one that can hold a
    buffer of any size. Other C libraries have no `mallopt` and are left alone. Call it before
    the framework starts its threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows has no `CDLL(None)`
        return False
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: MOST_INT}
    return all(mallopt(name, value) for name, value in settings.items())
