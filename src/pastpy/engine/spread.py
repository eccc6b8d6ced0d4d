"""Spread: fields over the workers of a Dask cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pastpy.engine.chunks import CHUNK_BYTES
from pastpy.engine.device import resolve_device
from pastpy.engine.memory import keep_freed_memory
from pastpy.engine.prefetch import whole_fields
from pastpy.engine.recent import RecentChunks

if TYPE_CHECKING:
    import numpy as np

    from pastpy.engine.pipeline import Job
    from pastpy.engine.plan import Field
    from pastpy.engine.read import FieldReader
    from pastpy.engine.shapes import Units, UnitShapes
    from pastpy.engine.steps import Rows

__all__ = ["Stretches", "Workers"]

#: Most consecutive fields of a task: they share chunks of the image, which a worker then decodes once.
_FIELDS = 4
#: And at most this part of a stretch, so that it ends in single fields and workers end together.
_SHARE = 2
#: Tasks under way for each thread of the cluster; bounds the rows and outlines that wait.
_UNDER_WAY = 2
#: How often it is looked for workers that have joined, seconds.
_LOOK_SECONDS = 1.0
#: The threads of a worker share one job, whose network moves once.
_moving = Lock()
#: What this process, if it is a worker, has decoded last. Dask would not keep it: of data that several workers have, it
#: drops all copies but one wherever no task waits for them.
_recent = RecentChunks(CHUNK_BYTES)


class Workers:
    """The workers of a Dask cluster, for the runs over one image; a context that ends with them.

    What a worker has decoded last it keeps for its next tasks, those of a further run among them.

    Parameters
    ----------
    client
        ``dask.distributed.Client``.

    Raises
    ------
    TypeError
        If ``client`` is something else.
    """

    def __init__(self, client: Any) -> None:
        client_type, self._as_completed = _distributed()
        if not isinstance(client, client_type):
            raise TypeError(f"client must be a dask.distributed.Client, got {type(client).__name__}")
        self._client, self._image = client, uuid4().hex

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.run(_forget, self._image, on_error="ignore")

    def rows(self, job: Job, fields: Sequence[Field], shapes: Units) -> Generator[tuple[int, Rows, int]]:
        """Rows of every field as workers finish them: its position, the rows, and the chunks decoded so far.

        Parameters
        ----------
        job
            What to do; sent to every worker once.
        fields
            What to do it with.
        shapes
            Outlines of the whole slide; each task is sent those of its own fields.
        """

        def parts_of(positions: range) -> tuple[list[Field], list[UnitShapes]]:
            part = [fields[i] for i in positions]
            return part, [shapes.take(f.units, (f.x, f.y)) for f in part]

        chunks = 0
        for positions, (rows, decoded) in self._spread(_work, job, len(fields), parts_of):
            for i, part in zip(positions, rows, strict=True):
                yield i, part, chunks + decoded
            chunks += decoded

    def pixels(self, reader: FieldReader, fields: Sequence[Field]) -> Generator[tuple[int, np.ndarray]]:
        """Pixels of every field as workers have read them: its position, and what ``reader`` gives.

        Parameters
        ----------
        reader
            The image; sent to every worker once.
        fields
            What to read; several share chunks of the image.
        """
        for positions, found in self._spread(_read, reader, len(fields), lambda part: ([fields[i] for i in part],)):
            yield from zip(positions, found, strict=True)

    def _spread(
        self, function: Callable[..., Any], what: Any, n: int, parts_of: Callable[[range], tuple[Any, ...]]
    ) -> Generator[tuple[range, Any]]:
        """Positions and ``function(what, image, *parts_of(positions))`` as workers finish, for all of ``n`` positions.

        Workers that join meanwhile are given work too; that of one that is lost goes to another.
        """
        self._client.wait_for_workers(1)
        stretches, given = Stretches(n, list(self._client.nthreads())), {}
        what = self._client.scatter(what, broadcast=True, hash=False)
        under_way = self._as_completed()

        def give(worker: str) -> bool:
            positions = stretches.take(worker)
            if not positions:
                return False
            # another one where this one is lost
            future = self._client.submit(
                function, what, self._image, *parts_of(positions), pure=False, workers=[worker],
                allow_other_workers=True,
            )  # fmt: skip
            given[future.key] = worker, positions
            under_way.add(future)
            return True

        def give_all() -> None:
            for worker, n_threads in self._client.nthreads().items():
                busy = sum(other == worker for other, _ in given.values())
                while busy < _UNDER_WAY * n_threads and give(worker):
                    busy += 1

        give_all()
        looked = time.monotonic()
        for future in under_way:
            worker, positions = given.pop(future.key)
            # before the result is fetched, so that no worker waits meanwhile
            give(worker)
            if time.monotonic() - looked > _LOOK_SECONDS:
                give_all()
                looked = time.monotonic()
            result = future.result()
            future.release()
            yield positions, result


class Stretches:
    """Shares out positions: a worker goes along a stretch of neighbours, and then takes half of the longest one left.

    Neighbouring fields share chunks of the image, which a worker then decodes once.

    Parameters
    ----------
    n
        How many positions.
    workers
        Who is there at the start, one or more; each has as much. Others may come.

    Examples
    --------
    >>> stretches = Stretches(10, ["a", "b"])
    >>> [list(stretches.take(worker)) for worker in "abacbab"]
    [[0, 1, 2], [5, 6, 7], [3], [9], [8], [4], []]
    """

    def __init__(self, n: int, workers: Sequence[str]) -> None:
        k = len(workers)
        self._left = {worker: range(n * i // k, n * (i + 1) // k) for i, worker in enumerate(workers)}

    def take(self, worker: str) -> range:
        """The worker's next positions, several while its stretch is long; none when all are given out."""
        own = self._left.get(worker, range(0))
        if not own:
            longest = max(self._left, key=lambda other: len(self._left[other]))
            whole = self._left[longest]
            kept = len(whole) // 2
            self._left[longest], own = whole[:kept], whole[kept:]
        size = min(_FIELDS, -(-len(own) // _SHARE))
        self._left[worker] = own[size:]
        return own[:size]


def _distributed() -> tuple[Any, Any]:
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("client= needs the package 'distributed'; pip install distributed") from error
    return Client, as_completed


def _work(job: Job, image: str, fields: Sequence[Field], shapes: Sequence[UnitShapes]) -> tuple[list[Rows], int]:
    """Compute some fields on a worker; returns their rows, and the chunks that were decoded."""
    keep_freed_memory()
    with _moving:
        job.step.to(resolve_device(job.device))
    results = list(job.rows(fields, shapes, partial(_recent.get, image)))
    return [rows for _, rows, _ in results], max(decoded for _, _, decoded in results)


def _read(reader: FieldReader, image: str, fields: Sequence[Field]) -> list[np.ndarray]:
    """Read some fields on a worker."""
    return list(whole_fields(reader, fields, partial(_recent.get, image)))


def _forget(image: str) -> None:
    """Give back what a worker keeps of an image."""
    _recent.forget(image)
