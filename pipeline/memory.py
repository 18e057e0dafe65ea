"""What the process does with memory that it has freed."""

import ctypes

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step; return False where that can't be set.

    Each training step allocates and frees the same large buffers. Left alone, glibc gives them
    back to the system (it trims the heap's end, and maps what is larger than 32 MiB anew each
    time), and at the next step every page is faulted in and zeroed again: 3,000 faults a step of
    torch, 20,000 of JAX; docs/architecture.md has what they cost.

    So nothing is mapped or trimmed, and the threads that start from here on share one heap, the
    only one that can hold a buffer of any size. Call it before the framework starts its own.
    """
    # A threshold of -1 means that there is none.
    return _set({M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1})


def return_freed_memory() -> bool:
    """Let glibc give arrays of a megabyte and more back at once; return False as above.

    Left alone, it maps only what is larger than any mapping that was freed before, up to 32 MiB,
    and puts all else into heaps, one for a thread, with gaps that the next array may not fit into.
    Comparing six pairs of answers took 1.1 GB at most so, and 0.8 GB with this.
    """
    return _set({M_MMAP_THRESHOLD: 1024**2})


def _set(options: dict[int, int]) -> bool:
    """Set malloc's options; other C libraries have none and are left alone."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows has no `CDLL(None)`
        return False
    return all(mallopt(name, value) for name, value in options.items())
