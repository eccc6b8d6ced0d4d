"""Outlines of units: flat arrays of edges, and shapely geometry that becomes such arrays field by field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

__all__ = ["Outlines", "PooledBefore", "UnitShapes", "Units"]


class Units(Protocol):
    """What the engine asks of the units of a slide."""

    @property
    def centroids(self) -> np.ndarray:
        """float64 (n, 2), x and y in target pixels; NaN where a unit has no place."""
        ...

    @property
    def extent(self) -> np.ndarray:
        """float64 (n,): farthest that a unit's outline lies from its centroid along either axis."""
        ...

    def take(self, units: np.ndarray, origin: tuple[float, float]) -> UnitShapes:
        """Some of the units, in coordinates relative to ``origin``."""
        ...


@dataclass(frozen=True)
class UnitShapes:
    """Outlines of units in target pixels, as flat arrays.

    Attributes
    ----------
    centroids
        float64 (n, 2), x and y; NaN where a unit has no place.
    radius
        float64 (n,), circle radius; NaN where the outline is a polygon.
    edges
        float64 (m, 4): x0, y0, x1, y1 of every polygon edge, holes included.
    edge_start
        int64 (n + 1,): edges of unit ``i`` are ``edge_start[i]:edge_start[i + 1]``.
    before
        float32 (n, regions, channels): what an earlier pass has pooled for the units, if there was one.
    """

    centroids: np.ndarray
    radius: np.ndarray
    edges: np.ndarray
    edge_start: np.ndarray
    before: np.ndarray | None = None

    @classmethod
    def from_geometry(cls, geometry: np.ndarray, radius: np.ndarray, centroids: np.ndarray, scale: float) -> UnitShapes:
        """Flatten shapely polygons and circles, multiplying coordinates by ``scale``."""
        import shapely

        polygon = ~np.isfinite(radius) & np.isfinite(centroids[:, 0])
        owner_of = np.flatnonzero(polygon)
        rings, ring_of = _rings(geometry[polygon])
        xy, vertex_of = shapely.get_coordinates(rings, return_index=True)
        inner = vertex_of[1:] == vertex_of[:-1]
        edges = np.concatenate([xy[:-1], xy[1:]], axis=1)[inner] * scale
        owner = owner_of[ring_of[vertex_of[:-1][inner]]]
        start = np.r_[0, np.cumsum(np.bincount(owner, minlength=len(radius)))].astype(np.int64)
        return cls(centroids * scale, radius * scale, edges, start)

    @property
    def owner(self) -> np.ndarray:
        """int64 (m,): unit of every edge."""
        return np.repeat(np.arange(len(self.radius)), np.diff(self.edge_start))

    @property
    def extent(self) -> np.ndarray:
        """float64 (n,): farthest that a unit's outline lies from its centroid along either axis."""
        out = np.where(np.isfinite(self.radius), self.radius, 0.0)
        if len(self.edges):
            reach = np.abs(self.edges[:, :2] - self.centroids[self.owner]).max(axis=1)
            has = np.flatnonzero(np.diff(self.edge_start))
            out[has] = np.maximum(out[has], np.maximum.reduceat(reach, self.edge_start[has]))
        return out

    @property
    def equivalent_radius(self) -> np.ndarray:
        """float64 (n,): radius of the disc with the unit's area."""
        x0, y0, x1, y1 = self.edges.T if len(self.edges) else np.zeros((4, 0))
        area = np.abs(np.bincount(self.owner, weights=(x0 * y1 - x1 * y0) / 2, minlength=len(self.radius)))
        return np.where(np.isfinite(self.radius), self.radius, np.sqrt(area / np.pi))

    @property
    def area_and_elongation(self) -> tuple[np.ndarray, np.ndarray]:
        """Area in square pixels, and length over width of the ellipse with the same second moments, float64 (n,) each.

        NaN for circles, and for polygons without an area or that cross themselves so that none can be told. Integrals
        over the edges (Green's theorem).
        """
        n, owner = len(self.radius), self.owner
        # about the centroid: far from it the moments would cancel
        x0, y0, x1, y1 = (self.edges - np.tile(self.centroids[owner], 2)).T if len(self.edges) else np.zeros((4, 0))
        cross = x0 * y1 - x1 * y0

        def integral(values: np.ndarray) -> np.ndarray:
            return np.bincount(owner, weights=cross * values, minlength=n)

        with np.errstate(invalid="ignore", divide="ignore"):
            area = integral(np.full(len(cross), 1 / 2))
            x, y = integral((x0 + x1) / 6) / area, integral((y0 + y1) / 6) / area
            xx = integral((x0 * x0 + x0 * x1 + x1 * x1) / 12) / area - x * x
            yy = integral((y0 * y0 + y0 * y1 + y1 * y1) / 12) / area - y * y
            xy = integral((2 * x0 * y0 + x0 * y1 + x1 * y0 + 2 * x1 * y1) / 24) / area - x * y
            middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
            elongation = np.sqrt((middle + half) / (middle - half))
            known = np.isfinite(elongation) & (middle > half)
        return np.where(known, np.abs(area), np.nan), np.where(known, elongation, np.nan)

    def take(self, units: np.ndarray, origin: tuple[float, float]) -> UnitShapes:
        """Some of the units, in coordinates relative to ``origin``."""
        counts = np.diff(self.edge_start)[units]
        start = np.r_[0, np.cumsum(counts)]
        rows = np.repeat(self.edge_start[units] - start[:-1], counts) + np.arange(start[-1])
        x, y = origin
        before = None if self.before is None else self.before[units]
        return UnitShapes(
            self.centroids[units] - [x, y], self.radius[units], self.edges[rows] - [x, y, x, y], start, before
        )


def _rings(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Geometries of one ring each, and which polygon each is of, in order."""
    import shapely

    one_part = shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON
    one_ring = one_part & (shapely.get_num_interior_rings(polygons) == 0)
    if one_ring.all():
        # as nuclei mostly are; an object for every ring takes longer than all else that is done with them
        return polygons, np.arange(len(polygons))
    parts, part_of = shapely.get_parts(polygons, return_index=True)
    # holes turn against what they are cut from, and parts alike, so that signed areas add up
    polygon = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    for i in np.flatnonzero(~one_ring[part_of] & polygon):
        parts[i] = shapely.geometry.polygon.orient(parts[i])
    rings, ring_of = shapely.get_rings(parts, return_index=True)
    return rings, part_of[ring_of]


@dataclass(frozen=True)
class Outlines:
    """Outlines of a slide's units as shapely geometry, flattened for one field at a time.

    A million polygons as edges would take half a gigabyte beside the geometry itself.

    Attributes
    ----------
    geometry
        object (n,), shapely polygons or points, ``None`` where a unit has no place; level-0 pixels.
    radius
        float64 (n,), circle radius in level-0 pixels; NaN where the outline is a polygon.
    level0_centroids
        float64 (n, 2), level-0 pixels; NaN where a unit has no place.
    scale
        Target pixels per level-0 pixel.
    """

    geometry: np.ndarray
    radius: np.ndarray
    level0_centroids: np.ndarray
    scale: float

    @cached_property
    def centroids(self) -> np.ndarray:
        """float64 (n, 2), x and y in target pixels."""
        return self.level0_centroids * self.scale

    @cached_property
    def extent(self) -> np.ndarray:
        """float64 (n,): farthest that a unit's outline lies from its centroid along either axis, target pixels."""
        import shapely

        low_high = shapely.bounds(self.geometry).reshape(-1, 2, 2)
        reach = np.abs(low_high - self.level0_centroids[:, None]).max(axis=(1, 2))
        reach = np.where(np.isfinite(self.radius), self.radius, np.nan_to_num(reach))
        return reach * self.scale

    def some(self, units: np.ndarray) -> Outlines:
        """Outlines of some of the units."""
        return Outlines(self.geometry[units], self.radius[units], self.level0_centroids[units], self.scale)

    def take(self, units: np.ndarray, origin: tuple[float, float]) -> UnitShapes:
        """Some of the units as flat arrays, in coordinates relative to ``origin``."""
        flat = UnitShapes.from_geometry(
            self.geometry[units], self.radius[units], self.level0_centroids[units], self.scale
        )
        x, y = origin
        return UnitShapes(flat.centroids - [x, y], flat.radius, flat.edges - [x, y, x, y], flat.edge_start)


@dataclass(frozen=True)
class PooledBefore:
    """Units together with what an earlier pass has pooled for them, fetched field by field.

    Attributes
    ----------
    units
        The units.
    rows
        From positions of units to their rows, float32 (n, regions, channels).
    """

    units: Units
    rows: Callable[[np.ndarray], np.ndarray]

    @property
    def centroids(self) -> np.ndarray:
        """float64 (n, 2), x and y in target pixels."""
        return self.units.centroids

    @property
    def extent(self) -> np.ndarray:
        """float64 (n,): farthest that a unit's outline lies from its centroid along either axis, target pixels."""
        return self.units.extent

    def take(self, units: np.ndarray, origin: tuple[float, float]) -> UnitShapes:
        """Some of the units with their rows, those of the earliest pass first, relative to ``origin``."""
        taken, rows = self.units.take(units, origin), self.rows(units)
        return replace(taken, before=rows if taken.before is None else np.concatenate([taken.before, rows], axis=1))
