"""Chunks: every block of a lazy image is decoded once, kept while a field still needs it, and then dropped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from xarray import DataArray

    from pastpy.engine.read import Window

__all__ = ["CHUNK_BYTES", "ChunkedLevel", "DecodedChunks", "Recall"]

#: Decoded chunks that are kept for fields yet to come, bytes. Enough for a row of 1024-px chunks of any slide.
CHUNK_BYTES = 384 * 2**20
#: Chunks along each side of the part of a dask graph that is unfolded at once.
_REGION = 16
#: Unfolded parts that are kept.
_REGIONS = 4

Key = tuple[int, int]
#: Gives a chunk of an image, by its name, from memory, or else by the function that decodes it.
Recall = Callable[[Hashable, Callable[[], np.ndarray]], np.ndarray]


class ChunkedLevel:
    """A lazy (c, y, x) array as a grid of chunks.

    Dask blocks are the chunks; a lazy array that is not dask's is divided as its file says. An image in memory has
    none: it is sliced.

    Parameters
    ----------
    level
        The array.
    recall
        Finds chunks that were decoded for others, and keeps those decoded here.

    Attributes
    ----------
    edges
        int64 arrays: where chunks begin and end along y and x; ``None`` without chunks.
    decoded
        How many chunks were decoded.
    """

    def __init__(self, level: DataArray, recall: Recall | None = None) -> None:
        self._level, self._recall = level, recall
        self.decoded = 0
        self._lock = threading.Lock()
        self._regions: OrderedDict[Key, tuple[dict[Any, Any], list[Any]]] = OrderedDict()
        sizes = _chunk_sizes(level)
        self.edges = None if sizes is None else tuple(np.r_[0, np.cumsum(s)].astype(np.int64) for s in sizes)

    def keys(self, window: Window) -> list[Key]:
        """Chunks that a window touches, row by row."""
        if self.edges is None:
            return []
        (y0, y1), (x0, x1) = (
            (int(np.searchsorted(e, low, side="right")) - 1, int(np.searchsorted(e, high, side="left")))
            for e, (low, high) in zip(self.edges, window, strict=True)
        )
        return [(y, x) for y in range(y0, y1) for x in range(x0, x1)]

    def window_of(self, key: Key) -> Window:
        """Rows and columns of a chunk."""
        assert self.edges is not None
        (y, x), (ys, xs) = key, self.edges
        return (int(ys[y]), int(ys[y + 1])), (int(xs[x]), int(xs[x + 1]))

    def chunk(self, key: Key) -> np.ndarray:
        """Pixels of a chunk, (3, h, w)."""
        if self._recall is None:
            return self._decode(key)
        # the levels of an image differ in size
        return self._recall((self._level.shape, key), lambda: self._decode(key))

    def _decode(self, key: Key) -> np.ndarray:
        with self._lock:
            self.decoded += 1
        if self._level.chunks is None:
            return self.slice(self.window_of(key))
        from dask.local import get_sync
        from dask.optimization import cull

        graph, blocks = self._region(key)
        wanted = [channel[key[0] % _REGION][key[1] % _REGION] for channel in blocks]
        needed, _ = cull(graph, wanted)
        # the caller's threads are the parallelism
        return np.concatenate([np.asarray(part) for part in get_sync(needed, wanted)])

    def slice(self, window: Window) -> np.ndarray:
        """Pixels of a window, without regard to chunks."""
        rows, columns = window
        return np.asarray(self._level[:, slice(*rows), slice(*columns)].data)

    def _region(self, key: Key) -> tuple[dict[Any, Any], list[Any]]:
        """Tasks of the region around a chunk: those of a whole slide would take long to unfold, and much memory."""
        at = key[0] // _REGION, key[1] // _REGION
        with self._lock:
            if at not in self._regions:
                rows, columns = (slice(i * _REGION, (i + 1) * _REGION) for i in at)
                part = self._level.data.blocks[:, rows, columns]
                self._regions[at] = (
                    dict(part.__dask_graph__().cull(set(_flat(part.__dask_keys__())))),
                    (part.__dask_keys__()),
                )
                if len(self._regions) > _REGIONS:
                    self._regions.popitem(last=False)
            self._regions.move_to_end(at)
            return self._regions[at]


def _flat(keys: list[Any]) -> list[Any]:
    return [key for part in keys for key in (_flat(part) if isinstance(part, list) else [part])]


def _chunk_sizes(level: DataArray) -> tuple[Sequence[int], Sequence[int]] | None:
    """Sizes of the chunks along y and x, or ``None`` where the pixels are in memory or nothing is said."""
    if level.chunks is not None:
        _, ys, xs = level.chunks
        return ys, xs
    if isinstance(level.variable._data, np.ndarray):
        return None
    preferred = level.encoding.get("preferred_chunks", {})
    if not {"y", "x"} <= set(preferred):
        return None
    return tuple(  # type: ignore[return-value]
        [min(preferred[d], level.sizes[d] - start) for start in range(0, level.sizes[d], preferred[d])]
        for d in ("y", "x")
    )


class DecodedChunks:
    """Gives the windows of a run, in their order, and decodes each chunk once.

    It is known in advance which windows need a chunk. A chunk is dropped after the last of them; if chunks that wait
    for later windows exceed the budget, those needed last are dropped, to be decoded again. None that the next window
    needs is, however large.

    Parameters
    ----------
    level
        The image.
    windows
        What will be asked for, in this order.
    decoder
        Threads that decode.
    budget
        Bytes of decoded chunks to keep for later windows.
    """

    def __init__(
        self, level: ChunkedLevel, windows: Sequence[Window], decoder: Executor, *, budget: int = CHUNK_BYTES
    ) -> None:
        self._level, self._windows, self._decoder, self._budget = level, windows, decoder, budget
        self._lock = threading.Lock()
        self._cache: dict[Key, Future[np.ndarray]] = {}
        self._uses: dict[Key, list[int]] = {}
        self._in_use: dict[Key, int] = {}
        for i in reversed(range(len(windows))):
            for key in level.keys(windows[i]):
                self._uses.setdefault(key, []).append(i)

    def get(self, i: int) -> np.ndarray:
        """Pixels of window ``i``, (3, h, w)."""
        window = self._windows[i]
        keys = self._level.keys(window)
        if not keys:
            return self._level.slice(window)
        with self._lock:
            parts = {key: self._ask(key) for key in keys}
        try:
            return self._assemble(window, parts)
        finally:
            self._release(i, keys)

    def _ask(self, key: Key) -> Future[np.ndarray]:
        self._in_use[key] = self._in_use.get(key, 0) + 1
        if key not in self._cache:
            self._cache[key] = self._decoder.submit(self._level.chunk, key)
        return self._cache[key]

    def _assemble(self, window: Window, parts: dict[Key, Future[np.ndarray]]) -> np.ndarray:
        (top, bottom), (left, right) = window
        out: np.ndarray | None = None
        for key, part in parts.items():
            pixels = part.result()
            if out is None:
                out = np.empty((len(pixels), bottom - top, right - left), dtype=pixels.dtype)
            (y0, y1), (x0, x1) = self._level.window_of(key)
            ya, yb, xa, xb = max(y0, top), min(y1, bottom), max(x0, left), min(x1, right)
            out[:, ya - top : yb - top, xa - left : xb - left] = pixels[:, ya - y0 : yb - y0, xa - x0 : xb - x0]
        assert out is not None
        return out

    def _release(self, i: int, keys: Sequence[Key]) -> None:
        with self._lock:
            for key in keys:
                self._in_use[key] -= 1
                self._uses[key].remove(i)
                if not self._in_use[key]:
                    del self._in_use[key]
                    if not self._uses[key]:
                        del self._cache[key], self._uses[key]
            idle = [key for key in self._cache if key not in self._in_use]
            total = sum(self._bytes(key) for key in idle)
            for key in sorted(idle, key=self._next_use, reverse=True):
                if total <= self._budget or self._next_use(key) <= i + 1:
                    break
                total -= self._bytes(key)
                del self._cache[key]

    def _next_use(self, key: Key) -> int:
        return self._uses[key][-1]

    def _bytes(self, key: Key) -> int:
        """Size of an idle chunk; one whose decoding failed has none."""
        part = self._cache[key]
        return part.result().nbytes if part.done() and part.exception() is None else 0
