"""Keep the C allocator from returning memory to the system at every step."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names and values of malloc.h


def keep_freed_memory(largest: int = 2**30) -> None:
    """Let freed blocks of up to `largest` bytes be used again by this process (glibc; no effect elsewhere).

    A training step frees activations of megabytes and asks for the same again. By default glibc gives such blocks back to
    the kernel each time, and a third of the training time went into page faults.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_THRESHOLD, largest)
    mallopt(M_TRIM_THRESHOLD, largest)
