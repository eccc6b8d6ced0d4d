"""Pool: average the tokens that lie under each unit, around it, and in its context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pastpy.engine.discs import DiscMeans, TokenGrid
from pastpy.engine.raster import Grid, disc_mask, shape_mask
from pastpy.engine.shapes import UnitShapes

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Region", "UnitShapes", "pool_tokens"]

#: Least and most area, µm², and most elongation that are told apart: slivers and far scattered parts are no nuclei, and
#: must not move the statistics of a slide.
_AREA_UM2, _MOST_ELONGATED = (1.0, 1e4), 20.0
#: Points drawn at once; bounds the memory of a field's pooling to some 100 MB.
_MAX_POINTS = 4_000_000


@dataclass(frozen=True)
class Region:
    """A part of a unit's surroundings whose tokens are averaged into one, or its outline.

    Attributes
    ----------
    name
        Name of the region, e.g. ``"nucleus"``.
    kind
        ``"shape"``: the unit's own shape. ``"ring"``: a disc around the centroid without the shape. ``"disc"``: the
        whole disc. A unit that covers the disc (a spot, say) is pooled over its shape instead. ``"outline"``: no tokens
        but the outline itself, natural logarithms of its area in µm² (1 to 10,000) and of its elongation (1 to 20) in
        the first two channels, 0 in the others; NaN for a circle or a point, which is not an outline that somebody
        drew, and for one without an area.
    radius_um
        Radius of the disc, µm; not used by ``"shape"`` and ``"outline"``.
    offset_um
        Where the disc lies from the centroid, x and y, µm. Such a disc is never replaced by the shape, and may lie
        beyond the image.
    """

    name: str
    kind: Literal["shape", "ring", "disc", "outline"]
    radius_um: float = 0.0
    offset_um: tuple[float, float] = (0.0, 0.0)

    @property
    def reach_um(self) -> float:
        """Farthest that the region lies from the centroid along either axis, µm, for units smaller than the disc."""
        return self.radius_um + max(abs(v) for v in self.offset_um)

    @property
    def at_unit(self) -> bool:
        """Whether the region lies at the unit itself."""
        return self.offset_um == (0.0, 0.0)

    @property
    def of_image(self) -> bool:
        """Whether tokens of the image are averaged: else the region may be missing where the unit is seen."""
        return self.kind != "outline"


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

    How much is counted on a grid of points that is fixed to the tokens: 4 × 4 in a token's square, 2 × 2 where a disc
    holds many tokens.

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
    float32 (n, regions, channels); NaN where a region holds no token of the image, or a unit has no outline.
    """
    channels, n_rows, n_cols = tokens.shape
    by_place = np.ascontiguousarray(tokens.transpose(1, 2, 0))
    grid = TokenGrid(n_rows, n_cols, stride, token_centre, inside)
    means = DiscMeans(by_place, grid) if any(region.kind == "disc" for region in regions) else None
    out = np.full((len(shapes.radius), len(regions), channels), np.nan, dtype=np.float32)
    size = shapes.equivalent_radius
    for i, region in enumerate(regions):
        if not region.of_image:
            out[:, i] = _of_outlines(shapes, target_mpp, channels)
            continue
        radius = region.radius_um / target_mpp
        by_shape = np.full(len(size), region.kind == "shape") | ((size >= radius) & region.at_unit)
        origin = (-region.offset_um[0] / target_mpp, -region.offset_um[1] / target_mpp)
        for chosen, disc in ((np.flatnonzero(by_shape), None), (np.flatnonzero(~by_shape), radius)):
            for units in _portions(shapes, chosen, disc, stride):
                moved = shapes.take(units, origin)
                if means is not None and disc is not None and region.kind == "disc":
                    out[units, i] = _under_discs(means, by_place, grid, moved.centroids, disc)
                else:
                    out[units, i] = _under_shapes(by_place, grid, moved, disc)
    return out


def _of_outlines(shapes: UnitShapes, target_mpp: float, channels: int) -> np.ndarray:
    """Logarithms of area, µm², and elongation of every polygon, float32 (n, channels); NaN where there is none."""
    area, elongation = shapes.area_and_elongation
    out = np.full((len(area), channels), np.nan, dtype=np.float32)
    known = ~np.isnan(area)
    if not known.any():
        return out
    if channels < 2:
        raise ValueError(f"a region of kind 'outline' needs tokens of two channels or more, got {channels}")
    out[known] = 0.0
    out[known, 0] = np.log(np.clip(area[known] * target_mpp**2, *_AREA_UM2))
    out[known, 1] = np.log(np.minimum(elongation[known], _MOST_ELONGATED))
    return out


def _per_token(disc: float | None, stride: int) -> int:
    """Points along a token's side; a disc of many tokens needs fewer to be drawn as well."""
    return 2 if disc is not None and disc > 4 * stride else 4


def _portions(shapes: UnitShapes, chosen: np.ndarray, disc: float | None, stride: int) -> Iterator[np.ndarray]:
    """Units in portions of alike size, since all of a portion are drawn on grids of the largest one's size."""
    if not len(chosen):
        return
    half = np.full(len(chosen), disc) if disc is not None else shapes.extent[chosen]
    order = np.argsort(half, kind="stable")
    points = (2 * (half[order] + stride) * _per_token(disc, stride) / stride) ** 2
    start = 0
    while start < len(order):
        # no more units than fit with the largest of them, and none more than four times as large as the smallest
        stop = start + int(np.searchsorted(points[start:], 4 * points[start], side="right"))
        fits = np.flatnonzero(points[start:stop] * np.arange(1, stop - start + 1) <= _MAX_POINTS)
        stop = start + max(1, len(fits))
        yield chosen[order[start:stop]]
        start = stop


def _under_discs(
    means: DiscMeans, tokens: np.ndarray, grid: TokenGrid, centres: np.ndarray, radius: float
) -> np.ndarray:
    """Mean tokens of discs, float32 (n, channels); the nearest token for a disc between the points."""
    out = means.of(centres, radius, per_token=_per_token(radius, grid.stride))
    row, column, seen = _nearest(grid, centres)
    missing = np.isnan(out).all(axis=1) & seen
    out[missing] = tokens[row[missing], column[missing]]
    return out


def _under_shapes(tokens: np.ndarray, grid: TokenGrid, shapes: UnitShapes, ring: float | None) -> np.ndarray:
    """Mean tokens of outlines, or of rings of an outer radius around them, float32 (n, channels)."""
    weights = _weights(shapes, ring, grid)
    total = np.asarray(weights.sum(axis=1)).ravel()
    out = np.full((len(total), tokens.shape[2]), np.nan, dtype=np.float32)
    found = total > 0
    out[found] = (weights @ tokens.reshape(-1, tokens.shape[2]))[found] / total[found, None]
    return out


def _nearest(grid: TokenGrid, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of the token nearest to each centre, and whether it is one of the image."""
    column, row = np.floor((centres - grid.corner) / grid.stride).astype(np.int64).T
    return row, column, _used(grid, row, column)


def _used(grid: TokenGrid, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    (top, bottom), (left, right) = grid.used
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def _weights(shapes: UnitShapes, ring: float | None, tokens: TokenGrid) -> csr_array:
    """Sparse (n, tokens) counts of points in each token's square, tokens beyond the image left out."""
    from scipy.sparse import csr_array

    n, per_token = len(shapes.radius), _per_token(ring, tokens.stride)
    half = shapes.extent if ring is None else np.full(n, ring)
    grid = Grid.around(
        shapes.centroids, half, spacing=tokens.stride / per_token, corner=tokens.corner, multiple=per_token
    )
    mask = shape_mask(shapes, grid)
    if ring is not None:
        mask = disc_mask(shapes.centroids, np.full(n, ring), grid) & ~mask
    height, width = mask.shape[1] // per_token, mask.shape[2] // per_token
    count = mask.reshape(n, height, per_token, width, per_token).sum(axis=(2, 4), dtype=np.uint8)
    unit, row, column = np.nonzero(count)
    weight = count[unit, row, column].astype(np.float32)
    row, column = row + grid.low[unit, 1] // per_token, column + grid.low[unit, 0] // per_token
    used = _used(tokens, row, column)
    # a region smaller than the grid of points takes the token nearest to its centroid
    nearest_row, nearest_column, seen = _nearest(tokens, shapes.centroids)
    missing = np.flatnonzero((np.bincount(unit, minlength=n) == 0) & seen)
    unit, row, column = (
        np.r_[there[used], nearest]
        for there, nearest in (
            (unit, missing),
            (row, nearest_row[missing]),
            (column, nearest_column[missing]),
        )
    )
    weight = np.r_[weight[used], np.ones(len(missing), dtype=np.float32)]
    return csr_array((weight, (unit, row * tokens.columns + column)), shape=(n, tokens.rows * tokens.columns))
