"""A whole slide, or small parts of it, as RGB arrays at a stated µm/px."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pastpy.engine.plan import Field
from pastpy.engine.prefetch import whole_fields
from pastpy.engine.read import FieldReader, as_unit

if TYPE_CHECKING:
    from xarray import DataArray

    from pastpy.engine import Workers

__all__ = ["Overview", "read_overview", "read_windows"]

#: Side of what is read at once, pixels of the overview; bounds memory where the slide has no coarse level.
_BLOCK = 128
#: A level of up to so many pixels is read in one go.
_WHOLE_PX = 20_000_000


@dataclass(frozen=True)
class Overview:
    """A slide at a coarse resolution.

    Attributes
    ----------
    rgb
        uint8 (h, w, 3).
    mpp
        µm per pixel of ``rgb``; its (0, 0) corner is the image's.
    """

    rgb: np.ndarray
    mpp: float


def read_overview(
    levels: Sequence[DataArray], *, mpp: float, target_mpp: float, name: str, workers: Workers | None = None
) -> Overview:
    """The whole image at ``target_mpp``, or at its own µm/px where that is coarser.

    Parameters
    ----------
    levels
        Lazy (c, y, x) arrays, level 0 first; RGB or RGBA.
    mpp
        µm per level-0 pixel.
    target_mpp
        µm per pixel of the overview.
    name
        Name of the image, for messages.
    workers
        Of a Dask cluster: they read a large level; a small one, and what is in memory, is read here.
    """
    target_mpp = max(mpp, target_mpp)
    # where a coarse level's pixels lie to the fraction of a pixel does not matter here, so it is not measured
    scales = [levels[0].sizes["x"] / level.sizes["x"] for level in levels]
    chosen = max(i for i, scale in enumerate(scales) if i == 0 or scale * mpp <= target_mpp * (1 + 1e-6))
    level, level_mpp = levels[chosen], mpp * scales[chosen]
    if level.sizes["x"] * level.sizes["y"] <= _WHOLE_PX:
        # a level that is computed from the next finer one costs as much for a part as for all of it; in threads of this
        # process, since a Dask client would have workers send all these pixels here
        level = level.compute(scheduler="threads")
    reader = FieldReader([level], mpp=level_mpp, target_mpp=target_mpp, name=name)
    width, height = (max(1, round(side)) for side in (reader.width, reader.height))
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    blocks = [
        Field(x, y, min(_BLOCK, width - x), min(_BLOCK, height - y), np.arange(0))
        for y in range(0, height, _BLOCK)
        for x in range(0, width, _BLOCK)
    ]
    for i, pixels in _read(reader, blocks, workers if level.chunks else None):
        block = blocks[i]
        rgb[block.y : block.y + block.height, block.x : block.x + block.width] = pixels
    return Overview(rgb, target_mpp)


def read_windows(
    levels: Sequence[DataArray], corners_um: np.ndarray, side_um: float, *, mpp: float, target_mpp: float, name: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Square windows at ``target_mpp``.

    Parameters
    ----------
    levels
        Lazy (c, y, x) arrays, level 0 first; RGB or RGBA.
    corners_um
        float (n, 2), x and y of their top-left corners, µm; moved to whole pixels of ``target_mpp``.
    side_um
        Side of a window, µm.
    mpp, target_mpp
        µm per level-0 pixel, and per pixel of the windows.
    name
        Name of the image, for messages.

    Returns
    -------
    windows
        uint8 (side, side, 3) each; beyond the image's edge its last pixels are repeated.
    corners_um
        float (n, 2), where the corners came to lie.
    """
    reader = FieldReader(levels, mpp=mpp, target_mpp=target_mpp, name=name)
    side = round(side_um / target_mpp)
    corners = np.round(corners_um / target_mpp).astype(int)
    windows = [Field(int(x), int(y), side, side, np.arange(0)) for x, y in corners]
    return [pixels for _, pixels in _read(reader, windows)], corners * target_mpp


def _read(
    reader: FieldReader, fields: Sequence[Field], workers: Workers | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Position and pixels of rectangles, uint8 (height, width, 3), each chunk decoded once; workers in no order."""
    found = enumerate(whole_fields(reader, fields)) if workers is None else workers.pixels(reader, fields)
    for i, pixels in found:
        unit = as_unit(pixels, reader.name)
        yield i, np.rint(np.clip(unit, 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
