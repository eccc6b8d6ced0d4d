"""Spread: fields over the workers of a Dask cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pastpy._settings import settings
from pastpy.engine.chunks import CHUNK_BYTES
from pastpy.engine.device import autocast_dtype, resolve_device
from pastpy.engine.memory import keep_freed_memory
from pastpy.engine.prefetch import whole_fields
from pastpy.engine.recent import RecentChunks

if TYPE_CHECKING:
    import numpy as np

    from pastpy.engine.chunks import Recall
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
#: How often it is looked for workers that have joined, seconds; and how long to wait before data is sent once more.
_LOOK_SECONDS = 1.0
#: So often a task, or what all of them need, is given out at most where workers are lost.
_ATTEMPTS = 3
#: The threads of a worker share one job, whose network moves once.
_moving = Lock()
#: What this process, if it is a worker, has decoded last. Dask would not keep it: of data that several workers have, it
#: drops all copies but one wherever no task waits for them.
_recent = RecentChunks(CHUNK_BYTES)


class Workers:
    """The workers of a Dask cluster, for the runs over the images of one object; a context that ends with them.

    What a worker has decoded last it keeps for its next tasks, those of a further run over that image among them.

    Parameters
    ----------
    client
        ``dask.distributed.Client``.

    Raises
    ------
    TypeError
        If ``client`` is something else.
    ValueError
        If it is not connected to a scheduler.
    """

    def __init__(self, client: Any) -> None:
        client_type, self._as_completed = _distributed()
        if not isinstance(client, client_type):
            raise TypeError(f"client must be a dask.distributed.Client, got {type(client).__name__}")
        _check_connected(client)
        self._client, self._object = client, uuid4().hex

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # without a scheduler there are no workers either, and the error that tells so must come through
        if self._client.status == "running":
            self._client.run(_forget, self._object, on_error="ignore")

    def precision(self, device: str) -> str:
        """Precision in which the workers compute on their ``device``; all of them where they differ."""
        self._threads()
        found = self._client.run(_precision, device, settings.precision)
        return ", ".join(sorted(set(found.values())))

    def rows(self, job: Job, fields: Sequence[Field], shapes: Units) -> Generator[tuple[int, Rows, int]]:
        """Rows of every field as workers finish them: its position, the rows, and the chunks decoded so far.

        Parameters
        ----------
        job
            What to do; every worker fetches it once.
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
            The image; every worker fetches it once.
        fields
            What to read; several share chunks of the image.
        """
        for positions, found in self._spread(_read, reader, len(fields), lambda part: ([fields[i] for i in part],)):
            yield from zip(positions, found, strict=True)

    def _spread(
        self, function: Callable[..., Any], what: Any, n: int, parts_of: Callable[[range], tuple[Any, ...]]
    ) -> Generator[tuple[range, Any]]:
        """Positions and ``function(what, object, *parts_of(positions))`` as workers finish, for all ``n`` positions.

        Workers that join meanwhile are given work too; that of one that is lost goes to another. With it may be lost
        what was sent, for which Dask keeps no recipe; then it is sent once more.
        """
        lost = _lost()
        sent = self._send(what)
        stretches, given = Stretches(n, list(self._threads())), {}
        attempts: Counter[range] = Counter()
        under_way = self._as_completed()

        def submit(worker: str, positions: range) -> None:
            # another one where this one is lost
            future = self._client.submit(
                function, sent, self._object, *parts_of(positions), pure=False, workers=[worker],
                allow_other_workers=True,
            )  # fmt: skip
            attempts[positions] += 1
            given[future.key] = worker, positions, sent
            under_way.add(future)

        def give(worker: str) -> bool:
            positions = stretches.take(worker)
            if positions:
                submit(worker, positions)
            return bool(positions)

        def give_all() -> None:
            for worker, n_threads in self._threads().items():
                busy = sum(other == worker for other, *_ in given.values())
                while busy < _UNDER_WAY * n_threads and give(worker):
                    busy += 1

        give_all()
        looked = time.monotonic()
        for future in under_way:
            worker, positions, used = given.pop(future.key)
            # before the result is fetched, so that no worker waits meanwhile; unless what was sent may be lost
            if future.status == "finished":
                give(worker)
                if time.monotonic() - looked > _LOOK_SECONDS:
                    give_all()
                    looked = time.monotonic()
            try:
                result = future.result()
            except lost as error:
                if attempts[positions] == _ATTEMPTS:
                    raise _given_up(error) from error
                # many tasks are lost at once, and the first of them has it sent for all
                if used is sent:
                    sent = self._send(what)
                submit(worker, positions)
                continue
            future.release()
            yield positions, result

    def _threads(self) -> dict[str, int]:
        """Threads of every worker, waiting for the first: those that were there may just have been lost."""
        while not (threads := self._client.nthreads()):
            self._client.wait_for_workers(1)
        return dict(threads)

    def _send(self, what: Any) -> Any:
        """Send data to a worker, waiting for the first; others fetch it there. Once more where that one is lost.

        Not to all of them at once (``broadcast``): if one is lost then, Dask goes on trying to reach it for ever.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            _check_connected(self._client)
            try:
                self._client.wait_for_workers(1)
                return self._client.scatter(what, hash=False)
            # a connection was closed, or there was no worker any more; KeyError is Dask's for one it has just removed
            except (OSError, KeyError) as error:
                if attempt == _ATTEMPTS:
                    raise _given_up(error) from error
            # until it is known who is gone, the scheduler perhaps
            time.sleep(_LOOK_SECONDS)


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


def _check_connected(client: Any) -> None:
    if client.status != "running":
        raise ValueError(
            f"client= is {client.status}, expected one with a scheduler at work; make a new dask.distributed.Client, "
            "and keep it and its cluster open until the call returns"
        )


def _lost() -> tuple[type[BaseException], ...]:
    """What is raised where a worker is lost."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    return CancelledError, KilledWorker, CommClosedError


def _given_up(error: BaseException) -> RuntimeError:
    return RuntimeError(
        f"workers of client= were lost {_ATTEMPTS} times in a row under the same fields ({error}); look into their "
        "logs (too little memory is the usual cause), and pass resume= to keep the fields that are finished"
    )


def _precision(device: str, precision: str) -> str:
    """Precision of a worker's device."""
    return str(autocast_dtype(resolve_device(device), precision))


def _work(job: Job, of: str, fields: Sequence[Field], shapes: Sequence[UnitShapes]) -> tuple[list[Rows], int]:
    """Compute some fields on a worker; returns their rows, and the chunks that were decoded."""
    keep_freed_memory()
    with _moving:
        job.step.to(resolve_device(job.device))
    results = list(job.rows(fields, shapes, _recall(job.reader, of)))
    return [rows for _, rows, _ in results], max(decoded for _, _, decoded in results)


def _read(reader: FieldReader, of: str, fields: Sequence[Field]) -> list[np.ndarray]:
    """Read some fields on a worker."""
    return list(whole_fields(reader, fields, _recall(reader, of)))


def _recall(reader: FieldReader, of: str) -> Recall:
    """Finds chunks of an image that this worker has decoded last."""
    return lambda chunk, decode: _recent.get(of, (reader.name, chunk), decode)


def _forget(of: str) -> None:
    """Give back what a worker keeps of an object's images."""
    _recent.forget(of)
