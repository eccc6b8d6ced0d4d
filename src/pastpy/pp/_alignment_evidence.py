"""What the alignment check looks at: units in µm, an overview with its tissue, windows of the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _elements, _keys
from pastpy.pp._alignment_dapi import Scene, dapi_scene
from pastpy.pp._alignment_fit import MAP_MPP, Pose
from pastpy.pp._alignment_shift import expression_profiles
from pastpy.pp._overview import Overview, read_windows
from pastpy.pp._tissue import tissue_overview
from pastpy.pp._tissue_mask import TissueMaskParameters
from pastpy.pp._watershed import haematoxylin

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from pastpy._elements import UnitGeometry
    from pastpy.engine import Workers

__all__ = ["Evidence", "gather_evidence"]

#: Wider units are spots that hold many cells, µm.
CELL_DIAMETER_UM = 25.0
#: Side of a window, µm, and its µm/px: nuclei are measured at this, maps are compared at half of it.
_WINDOW_UM, _WINDOW_MPP = 256.0, 0.5
#: On coarser pixels no nuclei are seen.
_COARSEST_MPP = 2.0


@dataclass(frozen=True)
class Evidence:
    """Units and image, ready to be compared.

    Attributes
    ----------
    unit
        ``"cell"`` or ``"spot"``.
    points
        float (n, 2): centroids of the units, µm from the image's top-left corner.
    counts
        float (n,): log1p of each unit's total counts, or ``None`` where the table has no genes.
    profiles
        float (n, k): expression of each spot in few numbers, or ``None`` for cells and where it is not to be had.
    radius_um
        Median radius of the units.
    read_width_um
        How wide the spots were said to be when they were read; NaN where no reader of pastpy's noted it.
    size_um
        Width and height of the image.
    overview, tissue
        The slide at some 8 µm/px and its tissue mask.
    windows, corners_um
        uint8 (side, side, 3) each at :data:`window_mpp`, on tissue, and their top-left corners; none where pixels are
        too coarse for nuclei.
    dapi
        Scenes of a DAPI image by pose, or ``None``.
    """

    unit: str
    points: np.ndarray
    counts: np.ndarray | None
    profiles: np.ndarray | None
    radius_um: float
    read_width_um: float
    size_um: tuple[float, float]
    overview: Overview
    tissue: np.ndarray
    windows: list[np.ndarray]
    corners_um: np.ndarray
    dapi: Callable[[Pose], Scene] | None
    window_mpp: float = _WINDOW_MPP

    @property
    def pitch_um(self) -> float:
        """Median distance of the units to their nearest one."""
        from scipy.spatial import KDTree

        return float(np.median(KDTree(self.points).query(self.points, k=2)[0][:, 1]))

    @property
    def on_image(self) -> float:
        """Share of the units that lie on the image."""
        if not len(self.points):
            return float("nan")
        return float(((self.points >= 0) & (self.points <= self.size_um)).all(axis=1).mean())

    def on_tissue(self, points: np.ndarray) -> float:
        """Share of points (n, 2), µm, that lie on tissue."""
        return float(self.sample(self.tissue, points).mean()) if len(points) else float("nan")

    def sample(self, values: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Values of an overview map at points, 0 beyond the image."""
        at = np.floor(points / self.overview.mpp).astype(int)
        inside = ((at >= 0) & (at < values.shape[::-1])).all(axis=1)
        out = np.zeros(len(points), dtype=float)
        out[inside] = values[at[inside, 1], at[inside, 0]]
        return out

    @cached_property
    def window_maps(self) -> list[np.ndarray]:
        """Haematoxylin of the windows, at their own µm/px."""
        return [haematoxylin(rgb) for rgb in self.windows]

    @cached_property
    def maps(self) -> list[np.ndarray]:
        """Haematoxylin of the windows at :data:`pastpy.pp._alignment_fit.MAP_MPP`."""
        step = round(MAP_MPP / self.window_mpp)
        return [_binned(od, step) for od in self.window_maps]

    @cached_property
    def haematoxylin_around(self) -> np.ndarray:
        """Mean haematoxylin over a unit's width around each overview pixel."""
        from scipy.ndimage import gaussian_filter

        od = np.maximum(haematoxylin(self.overview.rgb), 0)
        # a Gaussian with the spread of a disc of that radius
        return gaussian_filter(od, max(self.radius_um / 2 / self.overview.mpp, 0.5))


def gather_evidence(
    sdata: SpatialData,
    image_key: str,
    table_key: str,
    units: UnitGeometry,
    *,
    dapi_key: str | None,
    coordinate_system: str,
    n_windows: int,
    seed: int,
    workers: Workers | None = None,
) -> Evidence:
    """Read what the check needs; every name is resolved, and the table's rows have been placed on the image.

    Workers of a Dask cluster read a large image's overview.
    """
    mpp = units.mpp
    placed = np.isfinite(units.spatial_um).all(axis=1)
    points = units.spatial_um[placed]
    area = units.area_um2[placed]
    radius = float(np.sqrt(np.median(area) / np.pi)) if len(area) else float("nan")
    levels = _elements.image_levels(sdata, image_key)
    size = (levels[0].sizes["x"] * mpp, levels[0].sizes["y"] * mpp)
    dapi = None
    if dapi_key is not None:
        dapi = dapi_scene(sdata, dapi_key, image_key, mpp=mpp, coordinate_system=coordinate_system, size=size)
    overview, tissue = tissue_overview(sdata, image_key, mpp, TissueMaskParameters(), workers)
    corners = _window_corners(tissue, overview.mpp, points, size, n_windows, seed)
    windows: list[np.ndarray] = []
    if mpp <= _COARSEST_MPP and len(corners):
        side = min(_WINDOW_UM, np.floor(min(size)))
        windows, corners = read_windows(levels, corners, side, mpp=mpp, target_mpp=_WINDOW_MPP, name=image_key)
    unit = "spot" if 2 * radius > CELL_DIAMETER_UM else "cell"
    matrix = sdata.tables[table_key].X
    return Evidence(
        unit=unit,
        points=points,
        counts=_log_totals(sdata, table_key, placed),
        profiles=expression_profiles(matrix[placed]) if unit == "spot" and matrix is not None else None,
        radius_um=radius,
        read_width_um=_read_width(sdata, table_key),
        size_um=size,
        overview=overview,
        tissue=tissue,
        windows=windows,
        corners_um=corners,
        dapi=dapi,
    )


def _read_width(sdata: SpatialData, table_key: str) -> float:
    noted = sdata.tables[table_key].uns.get(_keys.PAST, {})
    widths = [facts["spot_diameter_um"] for facts in noted.values() if "spot_diameter_um" in facts]
    return float(widths[0]) if len(widths) == 1 else float("nan")


def _log_totals(sdata: SpatialData, table_key: str, rows: np.ndarray) -> np.ndarray | None:
    table = sdata.tables[table_key]
    if table.n_vars == 0 or table.X is None:
        return None
    total = np.asarray(table.X.sum(axis=1), dtype=float).ravel()[rows]
    return np.log1p(np.maximum(total, 0))


def _window_corners(
    tissue: np.ndarray, mpp: float, points: np.ndarray, size: tuple[float, float], n: int, seed: int
) -> np.ndarray:
    """Corners (k, 2) of windows on tissue, µm: half of them around units, half anywhere."""
    y, x = np.nonzero(tissue)
    if not len(y):
        return np.zeros((0, 2))
    rng = np.random.default_rng(seed)
    places = np.column_stack([x + 0.5, y + 0.5]) * mpp
    at = np.floor(points / mpp).astype(int)
    inside = ((at >= 0) & (at < tissue.shape[::-1])).all(axis=1)
    on = points[inside][tissue[at[inside, 1], at[inside, 0]]]
    chosen = [places[rng.choice(len(places), n - n // 2)]]
    chosen.append(on[rng.choice(len(on), n // 2)] if len(on) else places[rng.choice(len(places), n // 2)])
    side = min(_WINDOW_UM, np.floor(min(size)))
    return np.clip(np.concatenate(chosen) - side / 2, 0, np.subtract(size, side))


def _binned(values: np.ndarray, step: int) -> np.ndarray:
    """Means over squares of ``step`` pixels."""
    h, w = (s // step * step for s in values.shape)
    return values[:h, :w].reshape(h // step, step, w // step, step).mean(axis=(1, 3))
