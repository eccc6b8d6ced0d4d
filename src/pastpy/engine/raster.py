"""Raster: which points of a regular grid lie in a unit's outline, or in a disc around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pastpy.engine.shapes import UnitShapes

__all__ = ["Grid", "disc_mask", "shape_mask"]


@dataclass(frozen=True)
class Grid:
    """Windows of one size on a regular grid of points, one for every unit.

    Point ``k`` along an axis lies at ``corner + (k + 0.5) * spacing``.

    Attributes
    ----------
    low
        int64 (n, 2): first point of each window, x and y.
    width, height
        Points along each axis.
    spacing, corner
        Where the points lie.
    """

    low: np.ndarray
    width: int
    height: int
    spacing: float
    corner: float

    @classmethod
    def around(cls, centroids: np.ndarray, half: np.ndarray, *, spacing: float, corner: float, multiple: int) -> Grid:
        """Windows that hold all points within ``half`` of each centroid; they begin and end at multiples of points."""
        low = np.ceil((centroids - half[:, None] - corner) / spacing - 0.5).astype(np.int64) // multiple
        high = np.floor((centroids + half[:, None] - corner) / spacing - 0.5).astype(np.int64) // multiple
        width, height = (np.maximum(high - low + 1, 1).max(axis=0, initial=1) * multiple).tolist()
        return cls(low * multiple, width, height, spacing, corner)

    def at(self, index: np.ndarray) -> np.ndarray:
        """Coordinate of points of the whole grid."""
        return self.corner + (index + 0.5) * self.spacing

    @property
    def x(self) -> np.ndarray:
        """float64 (n, width): x of every window's points."""
        return self.at(self.low[:, 0, None] + np.arange(self.width))

    @property
    def y(self) -> np.ndarray:
        """float64 (n, height): y of every window's points."""
        return self.at(self.low[:, 1, None] + np.arange(self.height))


def disc_mask(centroids: np.ndarray, radius: np.ndarray, grid: Grid) -> np.ndarray:
    """Whether each point lies in its unit's disc: bool (n, height, width); nowhere where the radius is NaN."""
    dx2 = (grid.x - centroids[:, :1]) ** 2
    dy2 = (grid.y - centroids[:, 1:]) ** 2
    return dx2[:, None, :] + dy2[:, :, None] <= radius[:, None, None] ** 2


def shape_mask(shapes: UnitShapes, grid: Grid) -> np.ndarray:
    """Whether each point lies in its unit's outline: bool (n, height, width).

    Even-odd rule (Shimrat, CACM 1962, algorithm 112): every edge flips all points of a row left of where it crosses
    the row, so the crossings of a row are marked and counted from the right.
    """
    n = len(shapes.radius)
    circles = np.isfinite(shapes.radius)
    inside = disc_mask(shapes.centroids, shapes.radius, grid) if circles.any() else None
    if not len(shapes.edges):
        return np.zeros((n, grid.height, grid.width), dtype=bool) if inside is None else inside
    unit, row, column = _crossings(shapes, grid)
    # an edge left of the window flips none of its points
    seen = column > 0
    mark = (unit[seen] * grid.height + row[seen]) * grid.width + column[seen] - 1
    count = np.bincount(mark, minlength=n * grid.height * grid.width).astype(np.uint8) & 1
    count = count.reshape(n, grid.height, grid.width)
    odd = np.bitwise_xor.accumulate(count[:, :, ::-1], axis=2)[:, :, ::-1].astype(bool)
    return odd if inside is None else odd | inside


def _crossings(shapes: UnitShapes, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where edges cross rows of points: unit, row of its window, and how many of the row's points lie left."""
    x0, y0, x1, y1 = shapes.edges.T
    owner = shapes.owner
    first = np.floor((np.minimum(y0, y1) - grid.corner) / grid.spacing - 0.5).astype(np.int64)
    last = np.ceil((np.maximum(y0, y1) - grid.corner) / grid.spacing - 0.5).astype(np.int64)
    low = grid.low[owner, 1]
    first, last = np.maximum(first, low), np.minimum(last, low + grid.height - 1)
    count = np.maximum(last - first + 1, 0)
    edge = np.repeat(np.arange(len(count)), count)
    k = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    y = grid.at(k)
    straddles = (y0[edge] > y) != (y1[edge] > y)
    edge, k, y = edge[straddles], k[straddles], y[straddles]
    x = x0[edge] + (y - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    unit = owner[edge]
    column = np.ceil((x - grid.corner) / grid.spacing - 0.5).astype(np.int64)
    # rounding may be off by one; a point counts as left of the edge only if its own coordinate is smaller
    column -= grid.at(column - 1) >= x
    column += grid.at(column) < x
    return unit, k - grid.low[unit, 1], np.clip(column - grid.low[unit, 0], 0, grid.width)
