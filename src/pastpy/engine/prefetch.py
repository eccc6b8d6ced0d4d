"""Prefetch: pixels of fields, read ahead of the encoder."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from pastpy.engine.chunks import ChunkedLevel, DecodedChunks, Recall
from pastpy.engine.read import FieldPixels

if TYPE_CHECKING:
    import numpy as np

    from pastpy.engine.plan import Field
    from pastpy.engine.read import FieldReader

__all__ = ["Prefetch", "whole_fields"]

#: Threads that decode chunks; decoders release the interpreter.
_DECODE_THREADS = 4


class Prefetch:
    """Reads fields in threads, each chunk of the image once.

    Parameters
    ----------
    reader
        The image.
    fields
        What will be read, in this order.
    recall
        Finds chunks that were decoded for others.
    """

    def __init__(self, reader: FieldReader, fields: Sequence[Field], recall: Recall | None = None) -> None:
        self._reader, self._fields = reader, fields
        self._decode = ThreadPoolExecutor(min(_DECODE_THREADS, os.cpu_count() or 1), thread_name_prefix="pastpy-decode")
        self._read = ThreadPoolExecutor(1, thread_name_prefix="pastpy-read")
        self._level = ChunkedLevel(reader.level, recall)
        self._chunks = DecodedChunks(self._level, [reader.window(field) for field in fields], self._decode)

    @property
    def decoded(self) -> int:
        """How many chunks were decoded."""
        return self._level.decoded

    def start(self, i: int) -> Future[FieldPixels]:
        """Begin to read field ``i``."""
        return self._read.submit(lambda: FieldPixels(self._reader, self._fields[i], self._chunks.get(i)))

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._read.shutdown(cancel_futures=True)
        self._decode.shutdown(cancel_futures=True)


def whole_fields(reader: FieldReader, fields: Sequence[Field], recall: Recall | None = None) -> Generator[np.ndarray]:
    """All pixels of each field in order, (3, height, width), as :meth:`FieldPixels.whole` gives them."""
    with Prefetch(reader, fields, recall) as prefetch:
        for i in range(len(fields)):
            yield prefetch.start(i).result().whole()
