"""Spread: fields over the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

from pastpy.engine.device import resolve_device
from pastpy.engine.memory import keep_freed_memory

if TYPE_CHECKING:
    from pastpy.engine.pipeline import Job
    from pastpy.engine.plan import Field
    from pastpy.engine.shapes import Units, UnitShapes
    from pastpy.engine.steps import Rows

__all__ = ["rows_from_workers"]

#: Most consecutive fields of a task: they share chunks of the image, which a worker then decodes once.
_FIELDS = 4
#: Tasks for each thread, where there are fields enough: with few, some threads would wait for the last ones.
_TASKS_PER_THREAD = 8
#: Tasks under way for each thread of the cluster; bounds the rows and outlines that wait.
_UNDER_WAY = 2
#: The threads of a worker share one job, whose network moves once.
_moving = Lock()


def rows_from_workers(
    job: Job, fields: Sequence[Field], shapes: Units, client: Any
) -> Generator[tuple[int, Rows, int]]:
    """Rows of every field as workers finish them: its position, the rows, and the chunks decoded so far.

    Parameters
    ----------
    job
        What to do; sent to every worker once.
    fields
        What to do it with.
    shapes
        Outlines of the whole slide; each task is sent those of its own fields.
    client
        ``dask.distributed.Client``.

    Raises
    ------
    TypeError
        If ``client`` is something else.
    """
    client_type, as_completed = _distributed()
    if not isinstance(client, client_type):
        raise TypeError(f"client must be a dask.distributed.Client, got {type(client).__name__}")
    n_threads = sum(client.nthreads().values()) or 1
    per_task = max(1, min(_FIELDS, len(fields) // (_TASKS_PER_THREAD * n_threads)))
    parts = [range(i, min(i + per_task, len(fields))) for i in range(0, len(fields), per_task)]
    # the largest first, so that none is left over for one worker at the end
    tasks = iter(sorted(parts, key=lambda part: -sum(len(fields[i].units) for i in part)))
    sent = client.scatter(job, broadcast=True, hash=False)

    def submit(positions: range) -> Any:
        part = [fields[i] for i in positions]
        outlines = [shapes.take(f.units, (f.x, f.y)) for f in part]
        return client.submit(_work, sent, part, outlines, positions.start, pure=False)

    under_way = as_completed()
    for positions in islice(tasks, _UNDER_WAY * n_threads):
        under_way.add(submit(positions))
    chunks = 0
    for future in under_way:
        first, rows, decoded = future.result()
        future.release()
        for positions in islice(tasks, 1):
            under_way.add(submit(positions))
        for i, part in enumerate(rows):
            yield first + i, part, chunks + decoded
        chunks += decoded


def _distributed() -> tuple[Any, Any]:
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("client= needs the package 'distributed'; pip install distributed") from error
    return Client, as_completed


def _work(job: Job, fields: Sequence[Field], shapes: Sequence[UnitShapes], first: int) -> tuple[int, list[Rows], int]:
    """Compute some fields on a worker."""
    keep_freed_memory()
    with _moving:
        job.step.to(resolve_device(job.device))
    results = list(job.rows(fields, shapes))
    return first, [rows for _, rows, _ in results], max(decoded for _, _, decoded in results)
