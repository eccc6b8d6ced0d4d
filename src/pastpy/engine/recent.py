"""Recent: decoded chunks of an image that outlast a task, for the next one on the same worker."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

__all__ = ["RecentChunks"]


class RecentChunks:
    """Keeps the chunks that were asked for last, up to a budget. A copy on another worker begins empty.

    Parameters
    ----------
    budget
        Bytes of decoded chunks.

    Examples
    --------
    >>> recent = RecentChunks(budget=100)
    >>> recent.get("a", lambda: np.zeros(100, dtype=np.uint8)).sum()
    np.uint64(0)
    >>> recent.get("a", lambda: np.ones(100, dtype=np.uint8)).sum()
    np.uint64(0)
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._bytes = budget, 0
        self._chunks: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[RecentChunks], tuple[int]]:
        return RecentChunks, (self._budget,)

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """A chunk that is there, or else is decoded; two threads that ask at once may both decode it."""
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
        pixels = decode()
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > self._budget:
                _, dropped = self._chunks.popitem(last=False)
                self._bytes -= dropped.nbytes
        return pixels
