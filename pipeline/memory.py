"""What the process does with memory that it has freed."""

import ctypes

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step; return False where that can't be set.

    Each training step allocates and frees the same large buffers. Left alone, glibc gives them
    back to the system (it trims the heap's end, and maps what is larger than 32 MiB anew each
    time), and at the next step every page is faulted in and zeroed again: 3,000 faults a step of
    torch, 20,000 of JAX; docs/architecture.md has what they cost.

    So nothing is mapped or trimmed, and the threads that start from here on share one heap, the
    only one that can hold a buffer of any size. Call it before the framework starts its own. Other
    C libraries have no `mallopt` and are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows has no `CDLL(None)`
        return False
    # A threshold of -1 means that there is none.
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
    return all(mallopt(name, value) for name, value in settings.items())
