"""Run: fields through reader, encoder, pooling and head, into a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from pastpy._settings import show_progress
from pastpy.engine.plan import Field, plan_fields
from pastpy.engine.pool import Region, UnitShapes, pool_tokens

if TYPE_CHECKING:
    import torch

    from pastpy.engine.encode import TokenEncoder
    from pastpy.engine.read import FieldReader
    from pastpy.engine.write import Sink

__all__ = ["run"]

#: Side of a field's core, target pixels: the halo then costs about a third, and a field takes about 100 MB.
CORE_PX = 1024
#: Fields read ahead of the encoder; bounds memory together with the batch size.
READ_AHEAD = 2

Head = Callable[["torch.Tensor", np.ndarray], Mapping[str, "torch.Tensor"]]


def run(
    reader: FieldReader,
    shapes: UnitShapes,
    encoder: TokenEncoder,
    regions: Sequence[Region],
    head: Head,
    sink: Sink,
    *,
    target_mpp: float,
    device: torch.device,
    batch_size: int = 1,
    one_each: bool = False,
    core_px: int = CORE_PX,
    progress: bool = True,
) -> None:
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
        Receives the outputs of each batch of fields.
    target_mpp
        µm per target pixel.
    device
        Where to compute.
    batch_size
        Fields encoded together.
    one_each
        A field per unit instead of shared ones: the reference, many times slower.
    core_px
        Side of a field's core, target pixels.
    progress
        Show a progress bar.
    """
    import torch
    from tqdm.auto import tqdm

    fields = plan_units(reader, shapes, encoder, regions, target_mpp=target_mpp, core_px=core_px, one_each=one_each)
    bar = tqdm(
        total=sum(len(f.units) for f in fields), desc="pastpy", unit="cells", disable=not show_progress(progress)
    )
    with bar, torch.inference_mode():
        for batch, pixels in _batches(reader, fields, batch_size):
            tokens = encoder.tokens(torch.from_numpy(pixels).to(device, non_blocking=True)).float().cpu().numpy()
            for field, grid in zip(batch, tokens, strict=True):
                pooled = pool_tokens(
                    grid,
                    shapes.take(field.units, (field.x, field.y)),
                    regions,
                    stride=encoder.stride,
                    token_centre=encoder.token_centre,
                    target_mpp=target_mpp,
                    inside=(-field.x, -field.y, reader.width - field.x, reader.height - field.y),
                )
                usable = np.isfinite(pooled).all(axis=(1, 2))
                if usable.any():
                    outputs = head(torch.from_numpy(pooled[usable]).to(device), field.units[usable])
                    sink.write(field.units[usable], {k: v.float().cpu().numpy() for k, v in outputs.items()})
                bar.update(len(field.units))


def plan_units(
    reader: FieldReader,
    shapes: UnitShapes,
    encoder: TokenEncoder,
    regions: Sequence[Region],
    *,
    target_mpp: float,
    core_px: int = CORE_PX,
    one_each: bool = False,
) -> list[Field]:
    """Fields for the units that are centred on the image, wide enough for every region."""
    x, y = shapes.centroids.T
    on_image = (x >= 0) & (y >= 0) & (x <= reader.width) & (y <= reader.height)
    widest = max((r.radius_um for r in regions), default=0.0) / target_mpp
    return plan_fields(
        np.where(on_image[:, None], shapes.centroids, np.nan),
        np.maximum(shapes.extent, widest) + encoder.stride,
        core_px=core_px,
        halo=encoder.halo,
        alignment=encoder.alignment,
        one_each=one_each,
    )


def _batches(reader: FieldReader, fields: Sequence[Field], batch_size: int) -> Iterator[tuple[list[Field], np.ndarray]]:
    """Fields in batches of equal size with their pixels, read ahead in a thread."""
    groups = [list(fields[i : i + batch_size]) for i in range(0, len(fields), batch_size)]
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pastpy-read") as pool:
        waiting: list[tuple[list[Field], Future[np.ndarray]]] = []
        for group in groups:
            width, height = max(f.width for f in group), max(f.height for f in group)
            # a larger rectangle from the same corner leaves the tokens of the smaller field as they are
            same = [Field(f.x, f.y, width, height, f.units) for f in group]
            waiting.append((same, pool.submit(_read_all, reader, same)))
            if len(waiting) > READ_AHEAD:
                yield _ready(waiting)
        while waiting:
            yield _ready(waiting)


def _ready(waiting: list[tuple[list[Field], Future[np.ndarray]]]) -> tuple[list[Field], np.ndarray]:
    group, pixels = waiting.pop(0)
    return group, pixels.result()


def _read_all(reader: FieldReader, fields: Iterable[Field]) -> np.ndarray:
    return np.stack([reader.read(f) for f in fields])
