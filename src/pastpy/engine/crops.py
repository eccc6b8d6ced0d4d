"""Crops: squares centred on units, cut from fields that are read once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pastpy.engine.plan import Field, plan_crops
from pastpy.engine.prefetch import Prefetch

if TYPE_CHECKING:
    from pastpy.engine.read import FieldPixels, FieldReader
    from pastpy.engine.shapes import Units

__all__ = ["cut_crops", "read_crops"]


def read_crops(
    reader: FieldReader, shapes: Units, *, crop_px: int, core_px: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Crops centred on all units that are centred on the image, each chunk of the image decoded once.

    Parameters
    ----------
    reader
        The image, at the µm/px of the crops.
    shapes
        Units in target pixels.
    crop_px
        Side of a crop, target pixels.
    core_px
        Side of a field's core, target pixels; bounds memory.

    Yields
    ------
    Positions of units, int64 (n,), and their crops, (n, 3, crop_px, crop_px): of the image's own type where its
    resolution is the reader's, else float32 in [0, 1]; black beyond the image.

    Examples
    --------
    >>> from xarray import DataArray
    >>> from pastpy.engine import FieldReader, UnitShapes
    >>> image = DataArray(np.full((3, 64, 64), 255, dtype=np.uint8), dims=("c", "y", "x"))
    >>> one = UnitShapes(np.array([[32.0, 32.0]]), np.array([4.0]), np.zeros((0, 4)), np.zeros(2, dtype=int))
    >>> [
    ...     (units.tolist(), crops.shape)
    ...     for units, crops in read_crops(FieldReader([image], mpp=0.5, target_mpp=0.5), one, crop_px=16)
    ... ]
    [([0], (1, 3, 16, 16))]
    """
    fields = plan_crops(reader, shapes, crop_px=crop_px, core_px=core_px)
    size = (reader.width, reader.height)
    with Prefetch(reader, fields) as prefetch:
        coming = prefetch.start(0) if fields else None
        for i, field in enumerate(fields):
            assert coming is not None
            pixels = coming.result()
            coming = prefetch.start(i + 1) if i + 1 < len(fields) else None
            centroids = shapes.centroids[field.units] - [field.x, field.y]
            yield field.units, np.stack(list(cut_crops(field, pixels, centroids, crop_px, size)))


def cut_crops(
    field: Field, pixels: FieldPixels, centroids: np.ndarray, crop_px: int, size: tuple[float, float]
) -> Iterator[np.ndarray]:
    """Square crops of a field, views (3, crop_px, crop_px), centred to the nearest pixel.

    Parameters
    ----------
    field, pixels
        The field.
    centroids
        float (n, 2), x and y relative to the field's corner.
    crop_px
        Side of a crop.
    size
        Width and height of the image in target pixels; beyond it a crop is black.
    """
    whole = _black_beyond(pixels.whole(), field, size)
    for x, y in np.round(centroids - crop_px / 2).astype(int).tolist():
        yield whole[:, y : y + crop_px, x : x + crop_px]


def _black_beyond(pixels: np.ndarray, field: Field, size: tuple[float, float]) -> np.ndarray:
    """Pixels of a field, zero where their centre lies beyond the image."""
    width, height = size
    if field.x >= 0 and field.y >= 0 and field.x + field.width <= width and field.y + field.height <= height:
        return pixels
    x, y = field.x + np.arange(field.width) + 0.5, field.y + np.arange(field.height) + 0.5
    within = ((y > 0) & (y < height))[:, None] & ((x > 0) & (x < width))
    return pixels * within.astype(pixels.dtype)
