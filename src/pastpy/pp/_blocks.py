"""A slide as blocks with a halo, read at a working resolution; every object belongs to the block of its centroid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pastpy.engine.read import FieldReader, resampling_weights, unit_range

if TYPE_CHECKING:
    from xarray import DataArray

__all__ = ["Block", "WorkingImage", "plan_blocks"]

# A resolution this near the target is used as it is: resampling would only blur.
_NEAR = 1.1


@dataclass(frozen=True)
class Block:
    """A rectangle (top, bottom, left, right) in working pixels, bottom and right excluded, with and without its halo.

    Attributes
    ----------
    core
        What the block is responsible for; cores tile the image.
    outer
        What is read: the core and its halo, cut off at the image's edge.
    """

    core: tuple[int, int, int, int]
    outer: tuple[int, int, int, int]


def plan_blocks(height: int, width: int, *, block_px: int, halo_px: int) -> list[Block]:
    """Tile an image with blocks, row by row.

    Examples
    --------
    >>> [b.core for b in plan_blocks(10, 25, block_px=16, halo_px=4)]
    [(0, 10, 0, 16), (0, 10, 16, 25)]
    """
    blocks = []
    for top in range(0, height, block_px):
        for left in range(0, width, block_px):
            bottom, right = min(top + block_px, height), min(left + block_px, width)
            outer = (
                max(top - halo_px, 0),
                min(bottom + halo_px, height),
                max(left - halo_px, 0),
                min(right + halo_px, width),
            )
            blocks.append(Block((top, bottom, left, right), outer))
    return blocks


class WorkingImage:
    """A lazy H&E image seen at a working resolution.

    A pixel has the same value whichever rectangle it was read in. Integers of 8 bits are used as they are, other
    integers are divided by their type's maximum, floats must lie between 0 and 1.

    Parameters
    ----------
    levels
        Lazy (c, y, x) arrays, level 0 first; RGB or RGBA (alpha is dropped).
    mpp
        µm per level-0 pixel.
    target_mpp
        µm per working pixel; level 0 itself where its ``mpp`` is within 10 % of this.
    name
        Name of the image, for messages.

    Attributes
    ----------
    shape
        Height and width in working pixels.
    mpp
        µm per working pixel.
    level0_px
        Level-0 pixels per working pixel, x and y.

    Raises
    ------
    ValueError
        If the image has neither three nor four channels.
    """

    def __init__(self, levels: Sequence[DataArray], *, mpp: float, target_mpp: float, name: str) -> None:
        as_it_is = 1 / _NEAR <= mpp / target_mpp <= _NEAR
        reader = FieldReader(levels, mpp=mpp, target_mpp=mpp if as_it_is else target_mpp, name=name)
        self._level, self._name = reader.level, name
        # A whole number of working pixels covers the image, so their size gives way by less than one in the side.
        self.shape = max(1, round(reader.height)), max(1, round(reader.width))
        self.level0_px = levels[0].sizes["x"] / self.shape[1], levels[0].sizes["y"] / self.shape[0]
        # where the level lies, from the reader's target pixels to working pixels
        fit = [1 / (reader.target_per_level0 * px) for px in self.level0_px]
        self._zoom = reader.zoom[0] * fit[0], reader.zoom[1] * fit[1]
        self._corner = reader.corner[0] * fit[0], reader.corner[1] * fit[1]
        self.mpp = mpp * float(np.mean(self.level0_px))

    def read(self, rectangle: tuple[int, int, int, int]) -> np.ndarray:
        """Pixels of a rectangle (top, bottom, left, right): uint8 (h, w, 3)."""
        top, bottom, left, right = rectangle
        if self._zoom == (1.0, 1.0) and self._corner == (0.0, 0.0):
            return np.ascontiguousarray(self._pixels(slice(top, bottom), slice(left, right)).transpose(1, 2, 0))
        height, width = self._level.sizes["y"], self._level.sizes["x"]
        rows, by_row = resampling_weights(top, bottom - top, self._zoom[1], height, self._corner[1])
        columns, by_column = resampling_weights(left, right - left, self._zoom[0], width, self._corner[0])
        pixels = self._pixels(slice(*rows), slice(*columns))
        return np.stack([_resampled(channel, by_row, by_column) for channel in pixels], axis=-1)

    def _pixels(self, rows: slice, columns: slice) -> np.ndarray:
        """Pixels of the level that is read: uint8 (3, h, w)."""
        pixels = np.asarray(self._level[:, rows, columns].data)
        if pixels.dtype == np.uint8:
            return pixels
        return np.rint(unit_range(pixels, self._name) * 255).astype(np.uint8)


def _resampled(channel: np.ndarray, by_row: np.ndarray, by_column: np.ndarray) -> np.ndarray:
    """Weighted sums of a uint8 (h, w) channel, rounded.

    Sparse products add a pixel's terms one by one in the order of the source, hence to the same bits in every block;
    those of the dense matrices do not.
    """
    from scipy.sparse import csr_array

    rows = csr_array(by_row) @ channel.astype(np.float32)
    both = csr_array(by_column) @ np.ascontiguousarray(rows.T)
    return np.rint(both.T).astype(np.uint8)
