"""Read: pixels of a field at the model's µm/px, from the nearest finer pyramid level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from xarray import DataArray

    from pastpy.engine.plan import Field

__all__ = ["FieldReader", "resampling_weights", "rgb_channels", "unit_range"]


def rgb_channels(level: DataArray, name: str) -> DataArray:
    """The three colour channels of a (c, y, x) image; an alpha channel is dropped.

    Raises
    ------
    ValueError
        If the image has neither three nor four channels.
    """
    n = level.sizes["c"]
    if n not in (3, 4):
        raise ValueError(
            f"image {name!r} has {n} channels; an H&E image has 3 (RGB) or 4 (RGBA). Pass the H&E with image_key="
        )
    return level.isel(c=slice(0, 3))


def unit_range(pixels: np.ndarray, name: str) -> np.ndarray:
    """Pixels as float32 in [0, 1]: integers are divided by their type's maximum, floats must lie there already.

    Raises
    ------
    ValueError
        If float pixels exceed 1, or the type is not a number.
    """
    if np.issubdtype(pixels.dtype, np.integer):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"image {name!r} has dtype {pixels.dtype}; expected integers, or floats between 0 and 1")
    top = float(np.nanmax(pixels)) if pixels.size else 0.0
    if top > 1.0 + 1e-6:
        raise ValueError(f"image {name!r} has float pixels up to {top:g}; store them as uint8, or scale them to [0, 1]")
    return pixels.astype(np.float32)


class FieldReader:
    """Reads fields at ``target_mpp`` from a lazy pyramid.

    Every target pixel is the tent-weighted mean of the level's pixels around it (an antialiased linear filter on
    absolute coordinates), so a pixel has the same value whichever field it was read in. Beyond the edge the nearest
    pixel is repeated.

    Parameters
    ----------
    levels
        Lazy (c, y, x) arrays, level 0 first.
    mpp
        µm per level-0 pixel.
    target_mpp
        µm per pixel of the fields.
    name
        Name of the image, for messages.

    Raises
    ------
    ValueError
        If the image is not RGB or RGBA.
    """

    def __init__(self, levels: Sequence[DataArray], *, mpp: float, target_mpp: float, name: str = "image") -> None:
        rgb = [rgb_channels(level, name) for level in levels]
        full_width, full_height = rgb[0].sizes["x"], rgb[0].sizes["y"]
        self.name = name
        self.target_per_level0 = mpp / target_mpp
        self.width = full_width * self.target_per_level0
        self.height = full_height * self.target_per_level0
        # level-to-level factors are the ratio of sizes, as SpatialData defines them
        scales = [(full_width / level.sizes["x"], full_height / level.sizes["y"]) for level in rgb]
        fine_enough = [i for i, (sx, sy) in enumerate(scales) if max(sx, sy) * mpp <= target_mpp * (1 + 1e-6)]
        chosen = fine_enough[-1] if fine_enough else 0
        self.level = rgb[chosen]
        #: target pixels per level pixel, x and y
        self.zoom = tuple(s * self.target_per_level0 for s in scales[chosen])

    def read(self, field: Field) -> np.ndarray:
        """Pixels of a field: float32 (3, height, width) in [0, 1]."""
        cols, wx = resampling_weights(field.x, field.width, self.zoom[0], self.level.sizes["x"])
        rows, wy = resampling_weights(field.y, field.height, self.zoom[1], self.level.sizes["y"])
        block = np.asarray(self.level[:, rows[0] : rows[1], cols[0] : cols[1]].data)
        return np.ascontiguousarray(wy @ unit_range(block, self.name) @ wx.T, dtype=np.float32)


def resampling_weights(start: int, n: int, zoom: float, size: int) -> tuple[tuple[int, int], np.ndarray]:
    """Source range and (n, n_source) weights of ``n`` target pixels from ``start`` along one axis."""
    centre = (np.arange(start, start + n) + 0.5) / zoom - 0.5
    if abs(zoom - 1) < 1e-6:
        centre = np.round(centre)
    support = max(1.0, 1.0 / zoom)
    first = np.floor(centre - support).astype(int) + 1
    taps = first[:, None] + np.arange(int(np.ceil(2 * support)))
    weight = np.clip(1 - np.abs(taps - centre[:, None]) / support, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    taps = np.clip(taps, 0, size - 1)
    low, high = int(taps.min()), int(taps.max()) + 1
    matrix = np.zeros((n, high - low), dtype=np.float32)
    np.add.at(matrix, (np.arange(n)[:, None], taps - low), weight.astype(np.float32))
    return (low, high), matrix
