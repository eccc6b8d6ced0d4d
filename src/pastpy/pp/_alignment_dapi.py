"""A DAPI image as the scene in which the nuclei of an H&E image are looked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _elements
from pastpy.pp._alignment_fit import MAP_MPP, Pose

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray

__all__ = ["dapi_scene"]

_CHANNEL = "DAPI"

Scene = Callable[[np.ndarray, int], "np.ndarray | None"]


def dapi_scene(
    sdata: SpatialData, dapi_key: str, image_key: str, *, mpp: float, coordinate_system: str, size: tuple[float, float]
) -> Callable[[Pose], Scene]:
    """Maps of a DAPI image, laid on an H&E image in a pose.

    Parameters
    ----------
    sdata
        Object with both images.
    dapi_key, image_key
        Their names.
    mpp
        µm per level-0 pixel of the H&E.
    coordinate_system
        Where they meet.
    size
        Width and height of the H&E, µm.

    Returns
    -------
    A function of a pose that gives a scene: a function of a corner (x, y), µm of the H&E, and a side that gives the
    DAPI there, float32 (side, side) at 1 µm/px, or ``None`` where there is none.

    Raises
    ------
    ValueError
        If the image has several channels and none is called DAPI, or is not in the coordinate system.
    """
    levels = [_channel(level, dapi_key) for level in _elements.image_levels(sdata, dapi_key)]
    to_um = np.diag([mpp, mpp, 1.0]) @ _elements.level0_affine(
        sdata, sdata.images[dapi_key], image_key, name=dapi_key, coordinate_system=coordinate_system
    )
    dapi_mpp = float(np.sqrt(abs(np.linalg.det(to_um[:2, :2]))))
    scales = [levels[0].sizes["x"] / level.sizes["x"] for level in levels]
    chosen = max(i for i, scale in enumerate(scales) if i == 0 or scale * dapi_mpp <= MAP_MPP * (1 + 1e-6))
    level, from_um = levels[chosen], np.linalg.inv(to_um)

    def posed(pose: Pose) -> Scene:
        def scene(corner: np.ndarray, side: int) -> np.ndarray | None:
            at = corner + (np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1) + 0.5) * MAP_MPP
            level0 = pose.undo(at.reshape(-1, 2), size) @ from_um[:2, :2].T + from_um[:2, 2]
            return _sampled(level, level0 / scales[chosen], scales[chosen] * dapi_mpp, side)

        return scene

    return posed


def _channel(level: DataArray, name: str) -> DataArray:
    names = [str(c) for c in level.coords["c"].values] if "c" in level.coords else []
    if _CHANNEL in names:
        return level.isel(c=names.index(_CHANNEL))
    if level.sizes["c"] == 1:
        return level.isel(c=0)
    raise ValueError(f"image {name!r} has {level.sizes['c']} channels ({names}), and none is called {_CHANNEL!r}")


def _sampled(level: DataArray, xy: np.ndarray, px_um: float, side: int) -> np.ndarray | None:
    """Values at positions in pixels of a level, smoothed to the resolution of the map."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    limit = np.array([level.sizes["x"], level.sizes["y"]])
    inside = ((xy >= 0) & (xy < limit)).all(axis=1)
    if inside.mean() < 0.25:
        return None
    low = np.floor(np.clip(xy.min(axis=0), 0, limit)).astype(int)
    high = np.ceil(np.clip(xy.max(axis=0) + 1, 0, limit)).astype(int)
    pixels = np.asarray(level[low[1] : high[1], low[0] : high[0]].data).astype(np.float32)
    pixels = gaussian_filter(pixels, MAP_MPP / px_um)
    x, y = (xy - low - 0.5).T
    return map_coordinates(pixels, [y, x], order=1, mode="nearest").reshape(side, side) * inside.reshape(side, side)
