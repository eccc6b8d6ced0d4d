"""Recent: decoded chunks that outlast a task, for the next one in the same process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

__all__ = ["RecentChunks"]


class RecentChunks:
    """Keeps the chunks that were asked for last, up to a budget.

    Parameters
    ----------
    budget
        Bytes of decoded chunks, of all owners together.

    Examples
    --------
    >>> recent = RecentChunks(budget=100)
    >>> [recent.get("slide", 0, lambda: np.full(100, v, dtype=np.uint8))[0].item() for v in (1, 2)]
    [1, 1]
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._bytes = budget, 0
        self._chunks: OrderedDict[tuple[Hashable, Hashable], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, owner: Hashable, chunk: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """A chunk that is there, or else is decoded; two threads that ask at once may both decode it."""
        key = owner, chunk
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
                self._drop(next(iter(self._chunks)))
        return pixels

    def forget(self, owner: Hashable) -> None:
        """Drop all chunks of an owner."""
        with self._lock:
            for key in [key for key in self._chunks if key[0] == owner]:
                self._drop(key)

    def _drop(self, key: tuple[Hashable, Hashable]) -> None:
        self._bytes -= self._chunks.pop(key).nbytes
