"""Pool: average the tokens that lie under each unit, around it, and in its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Region", "UnitShapes", "pool_tokens"]

#: (point, edge) pairs tested at once; bounds the memory of the inside test to a few hundred MB.
_MAX_PAIRS = 8_000_000


@dataclass(frozen=True)
class Region:
    """A part of a unit's surroundings whose tokens are averaged into one.

    Attributes
    ----------
    name
        Name of the region, e.g. ``"nucleus"``.
    kind
        ``"shape"``: the unit's own shape. ``"ring"``: a disc around the centroid without the shape. ``"disc"``: the
        whole disc. A unit that covers the disc (a spot, say) is pooled over its shape instead.
    radius_um
        Radius of the disc, µm; not used by ``"shape"``.
    """

    name: str
    kind: Literal["shape", "ring", "disc"]
    radius_um: float = 0.0


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
    """

    centroids: np.ndarray
    radius: np.ndarray
    edges: np.ndarray
    edge_start: np.ndarray

    @classmethod
    def from_geometry(cls, geometry: np.ndarray, radius: np.ndarray, centroids: np.ndarray, scale: float) -> UnitShapes:
        """Flatten shapely polygons and circles, multiplying coordinates by ``scale``."""
        import shapely

        polygon = ~np.isfinite(radius) & np.isfinite(centroids[:, 0])
        owner_of = np.flatnonzero(polygon)
        parts, part_of = shapely.get_parts(geometry[polygon], return_index=True)
        rings, ring_of = shapely.get_rings(parts, return_index=True)
        xy, vertex_of = shapely.get_coordinates(rings, return_index=True)
        inner = vertex_of[1:] == vertex_of[:-1]
        edges = np.concatenate([xy[:-1], xy[1:]], axis=1)[inner] * scale
        owner = owner_of[part_of[ring_of[vertex_of[:-1][inner]]]]
        start = np.r_[0, np.cumsum(np.bincount(owner, minlength=len(radius)))].astype(np.int64)
        return cls(centroids * scale, radius * scale, edges, start)

    @property
    def extent(self) -> np.ndarray:
        """float64 (n,): farthest that a unit's outline lies from its centroid along either axis."""
        out = np.where(np.isfinite(self.radius), self.radius, 0.0)
        if len(self.edges):
            owner = np.repeat(np.arange(len(self.radius)), np.diff(self.edge_start))
            np.maximum.at(out, owner, np.abs(self.edges[:, :2] - self.centroids[owner]).max(axis=1))
        return out

    @property
    def equivalent_radius(self) -> np.ndarray:
        """float64 (n,): radius of the disc with the unit's area."""
        x0, y0, x1, y1 = self.edges.T if len(self.edges) else np.zeros((4, 0))
        owner = np.repeat(np.arange(len(self.radius)), np.diff(self.edge_start))
        area = np.abs(np.bincount(owner, weights=(x0 * y1 - x1 * y0) / 2, minlength=len(self.radius)))
        return np.where(np.isfinite(self.radius), self.radius, np.sqrt(area / np.pi))

    def take(self, units: np.ndarray, origin: tuple[float, float]) -> UnitShapes:
        """Some of the units, in coordinates relative to ``origin``."""
        counts = np.diff(self.edge_start)[units]
        start = np.r_[0, np.cumsum(counts)]
        rows = np.repeat(self.edge_start[units] - start[:-1], counts) + np.arange(start[-1])
        x, y = origin
        return UnitShapes(self.centroids[units] - [x, y], self.radius[units], self.edges[rows] - [x, y, x, y], start)


def pool_tokens(
    tokens: np.ndarray,
    shapes: UnitShapes,
    regions: Sequence[Region],
    *,
    stride: int,
    token_centre: float,
    target_mpp: float,
    inside: tuple[float, float, float, float],
) -> np.ndarray:
    """Mean token of every unit and region, each token weighted by how much of it lies in the region.

    Parameters
    ----------
    tokens
        float32 (channels, rows, columns) of one field.
    shapes
        Outlines relative to the field's corner, target pixels.
    regions
        What to pool.
    stride, token_centre
        Geometry of the token grid in target pixels: token (i, j) stands for the square of side ``stride`` around
        ``token_centre + stride * (j, i)``.
    target_mpp
        µm per target pixel.
    inside
        x0, y0, x1, y1 of the image in the field's coordinates: tokens whose square lies beyond it are not used.

    Returns
    -------
    float32 (n, regions, channels); NaN where a region holds no token of the image.
    """
    channels, n_rows, n_cols = tokens.shape
    flat = tokens.reshape(channels, -1).T
    n = len(shapes.radius)
    out = np.full((n, len(regions), channels), np.nan, dtype=np.float32)
    size = shapes.equivalent_radius
    for i, region in enumerate(regions):
        radius = region.radius_um / target_mpp
        by_shape = np.full(n, region.kind == "shape") | (size >= radius)
        unit, token = [], []
        for chosen, disc in ((np.flatnonzero(by_shape), None), (np.flatnonzero(~by_shape), radius)):
            part = shapes.take(chosen, (0.0, 0.0))
            # a disc of many tokens needs fewer points to be drawn as well
            per_token = 2 if disc is not None and disc > 4 * stride else 4
            owner, x, y = _grid_points(part, disc, stride / per_token, token_centre - stride / 2)
            keep = _in_region(part, owner, x, y, region, disc)
            unit.append(chosen[owner[keep]])
            token.append(np.column_stack([x[keep], y[keep]]))
        weights = _token_weights(
            np.concatenate(unit), np.concatenate(token), shapes.centroids,
            shape=(n_rows, n_cols), stride=stride, token_centre=token_centre, inside=inside,
        )  # fmt: skip
        total = np.asarray(weights.sum(axis=1)).ravel()
        found = total > 0
        out[found, i] = (weights @ flat)[found] / total[found, None]
    return out


def _grid_points(
    shapes: UnitShapes, disc: float | None, spacing: float, corner: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a regular grid in every unit's bounding box: owner, x and y, flat."""
    half = shapes.extent if disc is None else np.full(len(shapes.radius), disc)
    low = np.ceil((shapes.centroids - half[:, None] - corner) / spacing - 0.5).astype(np.int64)
    high = np.floor((shapes.centroids + half[:, None] - corner) / spacing - 0.5).astype(np.int64)
    width, height = np.maximum(high - low + 1, 0).T
    count = width * height
    owner = np.repeat(np.arange(len(count)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    x = low[owner, 0] + within % np.maximum(width[owner], 1)
    y = low[owner, 1] + within // np.maximum(width[owner], 1)
    return owner, corner + (x + 0.5) * spacing, corner + (y + 0.5) * spacing


def _in_region(
    shapes: UnitShapes, owner: np.ndarray, x: np.ndarray, y: np.ndarray, region: Region, disc: float | None
) -> np.ndarray:
    """Whether each point lies in its unit's region."""
    if disc is None:
        return _in_shape(shapes, owner, x, y)
    distance2 = (x - shapes.centroids[owner, 0]) ** 2 + (y - shapes.centroids[owner, 1]) ** 2
    keep = distance2 <= disc**2
    if region.kind == "ring":
        # only points within the shape's own box can lie in it
        extent = shapes.extent[owner]
        near = (abs(x - shapes.centroids[owner, 0]) <= extent) & (abs(y - shapes.centroids[owner, 1]) <= extent)
        at = np.flatnonzero(keep & near)
        keep[at] = ~_in_shape(shapes, owner[at], x[at], y[at])
    return keep


def _in_shape(shapes: UnitShapes, owner: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd test of every point against its own unit's outline (Shimrat, CACM 1962, algorithm 112)."""
    centre = shapes.centroids[owner]
    inside = (x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2 <= shapes.radius[owner] ** 2
    n_edges = np.diff(shapes.edge_start)[owner]
    pairs = np.cumsum(n_edges)
    cuts = np.searchsorted(pairs, np.arange(_MAX_PAIRS, pairs[-1] if len(pairs) else 0, _MAX_PAIRS))
    for at in np.split(np.arange(len(owner)), cuts):
        counts = n_edges[at]
        if not counts.sum():
            continue
        point = np.repeat(at, counts)
        edge = np.repeat(shapes.edge_start[owner[at]] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        x0, y0, x1, y1 = shapes.edges[edge].T
        straddles = (y0 > y[point]) != (y1 > y[point])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            left = x[point] < x0 + (y[point] - y0) * (x1 - x0) / (y1 - y0)
        crossings = np.bincount(point[straddles & left] - at[0], minlength=len(at))
        inside[at] |= crossings % 2 == 1
    return inside


def _token_weights(
    unit: np.ndarray,
    xy: np.ndarray,
    centroids: np.ndarray,
    *,
    shape: tuple[int, int],
    stride: int,
    token_centre: float,
    inside: tuple[float, float, float, float],
) -> csr_array:
    """Sparse (n, tokens) counts of a region's points in each token's square, tokens beyond the image left out."""
    from scipy.sparse import csr_array

    n_rows, n_cols = shape
    missing = np.setdiff1d(np.arange(len(centroids)), unit)
    unit = np.concatenate([unit, missing])
    # a region smaller than the point grid takes the token nearest to its centroid
    xy = np.concatenate([xy, centroids[missing]])
    col, row = np.floor((xy - token_centre) / stride + 0.5).astype(np.int64).T
    x, y = token_centre + stride * col, token_centre + stride * row
    x0, y0, x1, y1 = inside
    used = (col >= 0) & (col < n_cols) & (row >= 0) & (row < n_rows)
    used &= (x > x0 - stride / 2) & (x < x1 + stride / 2) & (y > y0 - stride / 2) & (y < y1 + stride / 2)
    index = (unit[used], row[used] * n_cols + col[used])
    return csr_array((np.ones(used.sum(), dtype=np.float32), index), shape=(len(centroids), n_rows * n_cols))
