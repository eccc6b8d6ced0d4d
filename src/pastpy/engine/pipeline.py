"""Run: fields through reader, encoder, pooling and head, into a sink."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pastpy._settings import settings
from pastpy.engine.device import resolve_device
from pastpy.engine.encode import FieldEncoder
from pastpy.engine.memory import return_freed_memory
from pastpy.engine.plan import Field
from pastpy.engine.prefetch import Prefetch
from pastpy.engine.progress import Progress
from pastpy.engine.steps import Head, Rows, Step, TokenStep

if TYPE_CHECKING:
    import torch

    from pastpy.engine.chunks import Recall
    from pastpy.engine.encode import TokenEncoder
    from pastpy.engine.pool import Region
    from pastpy.engine.read import FieldPixels, FieldReader
    from pastpy.engine.shapes import Units, UnitShapes
    from pastpy.engine.spread import Workers
    from pastpy.engine.write import Sink

__all__ = ["Job", "RunStats", "run", "run_step"]

#: Fields that are computed side by side on a CPU, each with its share of the threads.
_MAX_LANES = 8
#: On a GPU one lane pools while another encodes.
_GPU_LANES = 2
#: Fields read ahead; bounds memory together with the lanes.
_READ_AHEAD = 2
#: After so many fields, what threads have freed is given back: on a large slide their heaps would go on growing.
_TRIM_FIELDS = 8


@dataclass(frozen=True)
class RunStats:
    """What a run did.

    Attributes
    ----------
    cells, fields
        How many were computed, without those that an earlier run had finished.
    chunks
        Chunks of the image that were decoded.
    seconds
        Duration.
    """

    cells: int
    fields: int
    chunks: int
    seconds: float


@dataclass
class Job:
    """All that is needed to make rows of fields, on this machine or another.

    Attributes
    ----------
    reader
        Source of pixels.
    step
        What is made of them.
    device
        Where to compute; ``"auto"`` lets every machine find its own.
    batch_size
        Tiles or crops encoded together; found by itself if ``None``.
    n_fields
        Fields of the whole run, also those that are finished already.
    precision, compile
        As in :class:`pastpy.settings <pastpy._settings.Settings>`: another machine has settings of its own.
    """

    reader: FieldReader
    step: Step
    device: str
    batch_size: int | None
    n_fields: int
    precision: str = field(default_factory=lambda: settings.precision)
    compile: bool = field(default_factory=lambda: settings.compile)

    def rows(
        self, fields: Sequence[Field], shapes: Sequence[UnitShapes] | Units, recall: Recall | None = None
    ) -> Generator[tuple[int, Rows, int]]:
        """Rows of every field in order: its position, the rows, and the chunks decoded so far.

        ``shapes`` are the outlines of the whole slide, or those of each field, relative to the field's corner.
        ``recall`` finds chunks that were decoded for other fields.
        """
        device = resolve_device(self.device)
        encode = FieldEncoder(
            self.step.encode, device=device, batch_size=self.batch_size, precision=self.precision,
            compile=self.compile, name=self.reader.name,
        )  # fmt: skip
        size = (self.reader.width, self.reader.height)

        def compute(field: Field, pixels: Future[FieldPixels], outlines: UnitShapes) -> Rows:
            import torch

            with torch.inference_mode():
                return self.step.rows(field, pixels.result(), outlines, encode, size)

        with Prefetch(self.reader, fields, recall) as prefetch, _lanes(device, self.n_fields) as (lanes, n_lanes):
            waiting: deque[Future[Rows]] = deque()
            for i, field in enumerate(fields):
                outlines = _outlines(shapes, i, field)
                waiting.append(lanes.submit(compute, field, prefetch.start(i), outlines))
                if len(waiting) > n_lanes + _READ_AHEAD:
                    yield i + 1 - len(waiting), waiting.popleft().result(), prefetch.decoded
            while waiting:
                yield len(fields) - len(waiting), waiting.popleft().result(), prefetch.decoded


def run(
    reader: FieldReader,
    shapes: Units,
    encoder: TokenEncoder,
    regions: Sequence[Region],
    head: Head,
    sink: Sink,
    *,
    target_mpp: float,
    device: torch.device | str,
    batch_size: int | None = None,
    one_each: bool = False,
    core_px: int | None = None,
    workers: Workers | None = None,
    progress: bool = True,
) -> RunStats:
    """Encode every field once and write one row per unit.

    Parameters
    ----------
    reader
        Source of pixels at ``target_mpp``.
    shapes
        Units in target pixels of the whole image. Units centred beyond the image get no row.
    encoder
        Turns pixels into tokens; its parameters are on ``device``.
    regions
        What is pooled for every unit.
    head
        Maps pooled tokens, float32 (n, regions, channels), and the positions of their units to named outputs, (n, …).
    sink
        Receives the outputs of each field.
    target_mpp
        µm per target pixel.
    device
        Where to compute; with workers and ``"auto"`` each finds its own.
    batch_size
        Tiles of a field encoded together; ``None`` finds it by itself. Halved when memory runs out.
    one_each
        Encode every unit in a rectangle of its own instead of with others: the reference, many times slower.
    core_px
        Side of a field's core, target pixels; ``None`` takes 1024 µm, less on small slides.
    workers
        Workers of a Dask cluster over which the fields are spread.
    progress
        Show a progress bar.
    """
    step = TokenStep(encoder, tuple(regions), head, target_mpp, one_each)
    return run_step(
        reader, shapes, step, sink, device=device, batch_size=batch_size, core_px=core_px, workers=workers,
        progress=progress,
    )  # fmt: skip


def run_step(
    reader: FieldReader,
    shapes: Units,
    step: Step,
    sink: Sink,
    *,
    device: torch.device | str,
    batch_size: int | None = None,
    core_px: int | None = None,
    workers: Workers | None = None,
    progress: bool = True,
) -> RunStats:
    """As :func:`run`, for any step."""
    fields = step.plan(reader, shapes, core_px=core_px)
    start, chunks, cells = time.perf_counter(), 0, 0
    job = Job(reader, step, str(device), batch_size, len(fields))
    try:
        finished = set(sink.begin(fields))
        todo = [i for i in range(len(fields)) if i not in finished]
        before = sum(len(fields[i].units) for i in finished), len(finished)
        total = sum(len(f.units) for f in fields)
        with (
            closing(_results(job, [fields[i] for i in todo], shapes, workers)) as results,
            Progress(total, len(fields), finished=before, show=progress) as bar,
        ):
            for n_done, (i, (units, outputs), decoded) in enumerate(results, start=1):
                if n_done % _TRIM_FIELDS == 0:
                    return_freed_memory()
                sink.write(todo[i], units, outputs)
                chunks, cells = decoded, cells + len(fields[todo[i]].units)
                bar.advance(len(fields[todo[i]].units))
    finally:
        sink.end()
        return_freed_memory()
    return RunStats(cells, len(todo), chunks, time.perf_counter() - start)


def _results(job: Job, fields: list[Field], shapes: Units, workers: Workers | None) -> Generator[tuple[int, Rows, int]]:
    return job.rows(fields, shapes) if workers is None else workers.rows(job, fields, shapes)


def _outlines(shapes: Sequence[UnitShapes] | Units, i: int, field: Field) -> UnitShapes:
    return shapes[i] if isinstance(shapes, Sequence) else shapes.take(field.units, (field.x, field.y))


@contextmanager
def _lanes(device: torch.device, n_fields: int) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that compute fields side by side; on a CPU they share out torch's threads.

    How many threads a field gets does not depend on what an earlier run has finished, so that a run that is resumed
    computes to the same bits.
    """
    import torch

    threads = torch.get_num_threads()
    n = max(1, min(threads, _MAX_LANES, n_fields)) if device.type == "cpu" else _GPU_LANES
    each = max(1, threads // n)
    pool = ThreadPoolExecutor(n, thread_name_prefix="pastpy-lane", initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield pool, n
    finally:
        pool.shutdown(cancel_futures=True)
        # threads that are begun later take over what a lane has set
        torch.set_num_threads(threads)
