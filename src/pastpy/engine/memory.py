"""Memory: what the process's allocator does with memory that was freed; glibc only, elsewhere nothing is done."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

__all__ = ["keep_freed_memory", "return_freed_memory"]

#: Bytes at the heap's end from which on Dask has workers give them back, where the user has not said otherwise.
_DASK_TRIM = "65536"
#: Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@cache
def keep_freed_memory() -> None:
    """Undo what Dask asks of a worker's allocator, unless its user asked for something.

    Every freed block would go back to the system at once. The activations of each layer are then mapped anew, page by
    page, and a network takes twice as long. Now up to 256 MB stay with the process.
    """
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") == _DASK_TRIM:
        mallopt = _of_glibc("mallopt")
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, 2**28)
            mallopt(_M_MMAP_THRESHOLD, 2**25)


def return_freed_memory() -> None:
    """Give back what has been freed.

    The threads of a run leave half a gigabyte of freed activations behind, just when its results come into memory.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library, or ``None``: others have no such thing."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
