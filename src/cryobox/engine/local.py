"""Workers on this host: threads that each read, cut and write their own micrograph, so that these overlap."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

__all__ = ["available_cores", "local_executor"]


def available_cores() -> int:
    """Cores that this process may use (affinity, not what the host has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_executor(workers: int) -> ThreadPoolExecutor:
    """A pool of threads; reading, writing and the core release the GIL."""
    return ThreadPoolExecutor(max_workers=workers, thread_name_prefix="cryobox")
