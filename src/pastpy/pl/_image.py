"""The tissue under a plot: a view of an image in µm, read from the pyramid level that fits the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pastpy._elements import image_levels
from pastpy.engine.read import rgb_channels, unit_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["View", "draw_view", "read_view"]

#: Longest side of what is drawn, px.
MAX_PX = 1600


@dataclass(frozen=True)
class View:
    """Part of an image.

    Attributes
    ----------
    rgb
        float32 (height, width, 3) in [0, 1].
    extent
        x0, y0, x1, y1 of ``rgb``, µm from the image's top-left corner.
    crop
        x0, y0, x1, y1 that was asked for, within the image.
    """

    rgb: np.ndarray
    extent: tuple[float, float, float, float]
    crop: tuple[float, float, float, float]


def read_view(sdata: SpatialData, image_key: str, *, mpp: float, crop: Sequence[float] | None) -> View:
    """Read a crop (x0, y0, x1, y1 in µm; ``None``: all) at a resolution fit for drawing.

    Raises
    ------
    ValueError
        If the crop is not four numbers, is empty, or lies beside the image.
    """
    levels = [rgb_channels(level, image_key) for level in image_levels(sdata, image_key)]
    width, height = levels[0].sizes["x"] * mpp, levels[0].sizes["y"] * mpp
    x0, y0, x1, y1 = _checked_crop(crop, width, height, image_key)
    # the coarsest level that still has MAX_PX in the crop, else the finest
    longest = [max((x1 - x0) / width * level.sizes["x"], (y1 - y0) / height * level.sizes["y"]) for level in levels]
    level = levels[max((i for i, px in enumerate(longest) if px >= MAX_PX), default=0)]
    um_x, um_y = width / level.sizes["x"], height / level.sizes["y"]
    left, top = int(x0 / um_x + 1e-6), int(y0 / um_y + 1e-6)
    right = min(int(np.ceil(x1 / um_x - 1e-6)), level.sizes["x"])
    bottom = min(int(np.ceil(y1 / um_y - 1e-6)), level.sizes["y"])
    block = level.data[:, top:bottom, left:right]
    skip = max(1, int(np.ceil(max(block.shape[1:]) / MAX_PX)))
    if skip > 1:
        block = _binned(block, skip)
    rgb = unit_range(np.asarray(block), image_key).transpose(1, 2, 0)
    return View(rgb, (left * um_x, top * um_y, right * um_x, bottom * um_y), (x0, y0, x1, y1))


def _binned(block: np.ndarray, n: int) -> np.ndarray:
    """Means of n × n pixels in the block's own type, lazily; the last row or column of an uneven image is repeated."""
    import dask.array as da

    lazy = da.asarray(block)
    padding = [(0, 0)] + [(0, -size % n) for size in lazy.shape[1:]]
    return da.coarsen(np.mean, da.pad(lazy, padding, mode="edge"), {1: n, 2: n}).astype(block.dtype)


def _checked_crop(
    crop: Sequence[float] | None, width: float, height: float, image_key: str
) -> tuple[float, float, float, float]:
    if crop is None:
        return 0.0, 0.0, width, height
    numbers = [float(value) for value in crop]
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise ValueError(f"crop must be four numbers x0, y0, x1, y1 in µm, got {list(crop)}")
    x0, y0, x1, y1 = numbers
    inside = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        raise ValueError(
            f"crop {numbers} holds nothing of image {image_key!r}, which reaches from 0, 0 to {width:.0f}, "
            f"{height:.0f} µm; give x0, y0, x1, y1 with x0 < x1 and y0 < y1"
        )
    return inside


def draw_view(ax: Axes, view: View, *, fade: float = 0.0) -> None:
    """Show a view on axes in µm, y downwards, ticks hidden; ``fade`` mixes it with white."""
    x0, y0, x1, y1 = view.extent
    ax.imshow(view.rgb * (1 - fade) + fade, extent=(x0, x1, y1, y0), interpolation="antialiased", zorder=0)
    ax.set_xlim(view.crop[0], view.crop[2])
    ax.set_ylim(view.crop[3], view.crop[1])
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
