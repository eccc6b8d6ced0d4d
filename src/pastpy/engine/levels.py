"""Levels: where the pixels of a pyramid level lie on level 0, measured on the pixels themselves.

The ratio of two levels' sizes tells it only where they divide evenly and nothing was cut. Writers that halve an odd
side drop a row of pixels at one end or the other, resize, or round up, and a crop of a pyramid cuts every level at its
own pixels: a position is then off by up to one pixel of the coarser level, and no metadata say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from xarray import DataArray

__all__ = ["LevelGeometry", "level_geometry"]

#: Side of the windows that are compared, pixels of the coarser level.
_WINDOW = 48
#: The windows are the ones with the most contrast in each cell of a grid of so many a side.
_GRID = 3
#: A coarser level of up to so many pixels is searched for contrast as a whole; of a larger one each grid cell's middle.
_WHOLE_PX = 4_000_000
#: Contrast (standard deviation, grey levels from 0 to 1) below which a window tells nothing.
_FLAT = 0.01
#: A measured geometry replaces the ratio of sizes if it explains the windows better by this, pixels of the finer level.
_BETTER = 0.1

_Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class LevelGeometry:
    """Where a pyramid level lies on level 0.

    Attributes
    ----------
    scale
        Level-0 pixels per pixel of the level, x and y.
    offset
        Top-left corner of the level in level-0 pixels, x and y.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]


def level_geometry(levels: Sequence[DataArray], index: int) -> LevelGeometry:
    """Where level ``index`` lies on level 0, measured from each level to the next finer one.

    The ratio of sizes holds unless windows of the two levels fit better with a whole-number factor and a shift by whole
    pixels. Reads nine small windows of every level up to ``index``, and coarse levels as a whole.

    Parameters
    ----------
    levels
        Lazy (c, y, x) arrays, level 0 first.
    index
        The level.

    Examples
    --------
    >>> from xarray import DataArray
    >>> fine = np.random.default_rng(0).random((3, 301, 301)).astype(np.float32)
    >>> coarse = fine[:, 1:, 1:].reshape(3, 150, 2, 150, 2).mean(axis=(2, 4))
    >>> level_geometry([DataArray(a, dims=("c", "y", "x")) for a in (fine, coarse)], 1)
    LevelGeometry(scale=(2.0, 2.0), offset=(1.0, 1.0))
    """
    scale, offset = np.ones(2), np.zeros(2)
    for finer, coarser in zip(levels[:index], levels[1 : index + 1], strict=True):
        factor, shift = _step(finer, coarser)
        offset, scale = offset + scale * shift, scale * factor
    return LevelGeometry((float(scale[0]), float(scale[1])), (float(offset[0]), float(offset[1])))


def _step(finer: DataArray, coarser: DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of ``finer`` per pixel of ``coarser``, and the latter's corner in pixels of the former; x and y."""
    ratio = _size(finer) / _size(coarser)
    whole = np.round(ratio).astype(int)
    # Any other factor comes of resizing, which keeps the corners where they are.
    if (whole < 2).any() or (np.abs(ratio - whole) * _size(coarser) > 2 * whole).any():
        return ratio, np.zeros(2)
    corners, sought = _windows(coarser)
    starts = np.round(corners * ratio).astype(int) - 2 * whole
    side = np.minimum(_WINDOW, _size(coarser))
    there = _padded(finer, [(*start, *(start + (side + 4) * whole)) for start in starts])
    found = [_match(window, area, whole) for window, area in zip(sought, there, strict=True)]
    known = [i for i, at in enumerate(found) if at is not None]
    if not known:
        return ratio, np.zeros(2)
    # where each window's corner lies, if its pixels are `whole` wide
    lies = starts[known] + np.array([found[i] for i in known])
    from_whole = lies - whole * corners[known]
    shift = np.round(np.median(from_whole, axis=0))
    from_ratio = lies + (whole - ratio) * side / 2 - ratio * corners[known]
    better = np.abs(from_whole - shift).mean(axis=0) < np.abs(from_ratio).mean(axis=0) - _BETTER
    return np.where(better, whole, ratio), np.where(better, shift, 0.0)


def _size(level: DataArray) -> np.ndarray:
    return np.array([level.sizes["x"], level.sizes["y"]])


def _windows(level: DataArray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Corners (n, 2), x and y, and grey pixels of windows that hold contrast, spread over the level."""
    size = _size(level)
    side = np.minimum(_WINDOW, size)
    per_cell = 3 if size.prod() <= _WHOLE_PX else 1
    steps = [((np.arange(_GRID * per_cell) + 0.5) / (_GRID * per_cell) * (end)).astype(int) for end in size - side + 1]
    corners = np.array([(x, y) for y in steps[1] for x in steps[0]])
    if per_cell == 1:
        pixels = _padded(level, [(*corner, *(corner + side)) for corner in corners])
    else:
        (whole,) = _padded(level, [(0, 0, *size)])
        pixels = [whole[y : y + side[1], x : x + side[0]] for x, y in corners]
    contrast = np.array([p.std() for p in pixels])
    cell = np.array([i // per_cell for _ in steps[1] for i in range(len(steps[0]))]) + _GRID * np.repeat(
        np.arange(len(steps[1])) // per_cell, len(steps[0])
    )
    best = [np.flatnonzero(cell == c)[np.argmax(contrast[cell == c])] for c in np.unique(cell)]
    kept = [i for i in best if contrast[i] > _FLAT]
    return corners[kept], [pixels[i] for i in kept]


def _match(sought: np.ndarray, area: np.ndarray, whole: np.ndarray) -> np.ndarray | None:
    """Where in ``area`` the window's corner lies, x and y; ``None`` where the area hardly overlaps the image."""
    means = _block_means(area, whole)
    height, width = sought.shape
    nominal = 2 * whole
    best, found = np.inf, None
    steps = [range(0, 4 * w + 1, max(1, int(w) // 8)) for w in whole]
    for dy in steps[1]:
        for dx in steps[0]:
            candidate = means[dy :: whole[1], dx :: whole[0]][:height, :width]
            seen = np.isfinite(candidate)
            if seen.mean() < 0.5:
                continue
            moved = np.array([dx, dy]) - nominal
            # among equals, as in a repeating pattern, the nearest
            miss = float(((candidate - sought)[seen] ** 2).mean()) + 1e-9 * float(moved @ moved)
            if miss < best:
                best, found = miss, np.array([dx, dy])
    return found


def _block_means(grey: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Mean over the block of ``side`` (x, y) pixels that begins at each pixel; NaN where it leaves the image."""
    width, height = (int(s) for s in side)
    total = np.zeros((grey.shape[0] - height + 1, grey.shape[1] - width + 1))
    for dy in range(height):
        for dx in range(width):
            total += grey[dy : dy + total.shape[0], dx : dx + total.shape[1]]
    return total / (width * height)


def _padded(level: DataArray, boxes: list[_Box]) -> list[np.ndarray]:
    """Mean over the channels of boxes (x0, y0, x1, y1), 0 to 1 for integers, NaN beyond the level; read in one go."""
    from dask.base import compute

    width, height = (int(s) for s in _size(level))
    cut = [(max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)) for x0, y0, x1, y1 in boxes]
    lazy: list[Any] = [level[:, y0:y1, x0:x1].data for x0, y0, x1, y1 in cut]
    out = []
    # in this process: workers of a Dask client would only send the pixels here
    read = compute(*lazy, scheduler="threads")
    for pixels, (x0, y0, x1, y1), outer in zip(read, cut, boxes, strict=True):
        top = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1
        grey = np.asarray(pixels).mean(axis=0, dtype=np.float32) / np.float32(top)
        beyond = (y0 - outer[1], outer[3] - y1), (x0 - outer[0], outer[2] - x1)
        out.append(np.pad(grey, beyond, constant_values=np.nan))
    return out
