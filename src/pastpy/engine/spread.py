"""Spread: fields over the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pastpy.engine.chunks import CHUNK_BYTES
from pastpy.engine.device import resolve_device
from pastpy.engine.memory import keep_freed_memory
from pastpy.engine.recent import RecentChunks

if TYPE_CHECKING:
    from pastpy.engine.pipeline import Job
    from pastpy.engine.plan import Field
    from pastpy.engine.shapes import Units, UnitShapes
    from pastpy.engine.steps import Rows

__all__ = ["Workers", "divide"]

#: Most consecutive fields of a task: they share chunks of the image, which a worker then decodes once.
_FIELDS = 4
#: Of what is left, a task takes this share of each thread's part.
_SHARE = 2
#: Tasks under way for each thread of the cluster; bounds the rows and outlines that wait.
_UNDER_WAY = 2
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
        n_threads = sum(self._client.nthreads().values()) or 1
        # the largest first, so that none is left over for one worker at the end
        parts = sorted(divide(len(fields), n_threads), key=lambda part: -sum(len(fields[i].units) for i in part))
        tasks, sent = iter(parts), self._client.scatter(job, broadcast=True, hash=False)

        def submit(positions: range) -> Any:
            part = [fields[i] for i in positions]
            outlines = [shapes.take(f.units, (f.x, f.y)) for f in part]
            return self._client.submit(_work, sent, part, outlines, self._image, positions.start, pure=False)

        under_way = self._as_completed()
        for positions in islice(tasks, _UNDER_WAY * n_threads):
            under_way.add(submit(positions))
        chunks = 0
        for future in under_way:
            # before the rows are fetched, so that no worker waits meanwhile
            for positions in islice(tasks, 1):
                under_way.add(submit(positions))
            first, rows, decoded = future.result()
            future.release()
            for i, part in enumerate(rows):
                yield first + i, part, chunks + decoded
            chunks += decoded


def divide(n_fields: int, n_threads: int) -> Iterator[range]:
    """Tasks of consecutive fields: large ones first, single fields at the end, for threads to end together.

    Examples
    --------
    >>> [len(part) for part in divide(25, 2)]
    [4, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1]
    """
    start = 0
    while start < n_fields:
        size = max(1, min(_FIELDS, (n_fields - start) // (_SHARE * n_threads)))
        yield range(start, start + size)
        start += size


def _distributed() -> tuple[Any, Any]:
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("client= needs the package 'distributed'; pip install distributed") from error
    return Client, as_completed


def _work(
    job: Job, fields: Sequence[Field], shapes: Sequence[UnitShapes], image: str, first: int
) -> tuple[int, list[Rows], int]:
    """Compute some fields on a worker."""
    keep_freed_memory()
    with _moving:
        job.step.to(resolve_device(job.device))
    results = list(job.rows(fields, shapes, partial(_recent.get, image)))
    return first, [rows for _, rows, _ in results], max(decoded for _, _, decoded in results)


def _forget(image: str) -> None:
    """Give back what a worker keeps of an image."""
    _recent.forget(image)
