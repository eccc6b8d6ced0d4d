"""Pool: average the tokens that lie under each unit, around it, and in its context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pastpy.engine.raster import Grid, disc_mask, shape_mask
from pastpy.engine.shapes import UnitShapes

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Region", "UnitShapes", "pool_tokens"]

#: Points drawn at once; bounds the memory of a field's pooling to some 100 MB.
_MAX_POINTS = 4_000_000


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
    offset_um
        Where the disc lies from the centroid, x and y, µm. Such a disc is never replaced by the shape, and may lie
        beyond the image.
    """

    name: str
    kind: Literal["shape", "ring", "disc"]
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


@dataclass(frozen=True)
class _Tokens:
    """Geometry of a field's token grid, target pixels."""

    rows: int
    columns: int
    stride: int
    centre: float
    inside: tuple[float, float, float, float]

    def used(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Whether tokens exist and their squares touch the image."""
        x, y = self.centre + self.stride * column, self.centre + self.stride * row
        x0, y0, x1, y1 = self.inside
        half = self.stride / 2
        used = (column >= 0) & (column < self.columns) & (row >= 0) & (row < self.rows)
        return used & (x > x0 - half) & (x < x1 + half) & (y > y0 - half) & (y < y1 + half)


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
    float32 (n, regions, channels); NaN where a region holds no token of the image.
    """
    channels, n_rows, n_cols = tokens.shape
    flat = np.ascontiguousarray(tokens.reshape(channels, -1).T)
    grid = _Tokens(n_rows, n_cols, stride, token_centre, inside)
    out = np.full((len(shapes.radius), len(regions), channels), np.nan, dtype=np.float32)
    size = shapes.equivalent_radius
    for i, region in enumerate(regions):
        radius = region.radius_um / target_mpp
        by_shape = np.full(len(size), region.kind == "shape") | ((size >= radius) & region.at_unit)
        origin = (-region.offset_um[0] / target_mpp, -region.offset_um[1] / target_mpp)
        for chosen, disc in ((np.flatnonzero(by_shape), None), (np.flatnonzero(~by_shape), radius)):
            for units in _portions(shapes, chosen, disc, stride):
                weights = _weights(shapes.take(units, origin), region, disc, grid)
                total = np.asarray(weights.sum(axis=1)).ravel()
                found = total > 0
                out[units[found], i] = (weights @ flat)[found] / total[found, None]
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


def _weights(shapes: UnitShapes, region: Region, disc: float | None, tokens: _Tokens) -> csr_array:
    """Sparse (n, tokens) counts of a region's points in each token's square, tokens beyond the image left out."""
    from scipy.sparse import csr_array

    n, per_token = len(shapes.radius), _per_token(disc, tokens.stride)
    half = shapes.extent if disc is None else np.full(n, disc)
    grid = Grid.around(
        shapes.centroids, half, spacing=tokens.stride / per_token, corner=tokens.centre - tokens.stride / 2,
        multiple=per_token,
    )  # fmt: skip
    if disc is None:
        mask = shape_mask(shapes, grid)
    else:
        mask = disc_mask(shapes.centroids, np.full(n, disc), grid)
        if region.kind == "ring":
            mask &= ~shape_mask(shapes, grid)
    height, width = mask.shape[1] // per_token, mask.shape[2] // per_token
    count = mask.reshape(n, height, per_token, width, per_token).sum(axis=(2, 4), dtype=np.uint8)
    unit, row, column = np.nonzero(count)
    weight = count[unit, row, column].astype(np.float32)
    row, column = row + grid.low[unit, 1] // per_token, column + grid.low[unit, 0] // per_token
    # a region smaller than the grid of points takes the token nearest to its centroid
    missing = np.flatnonzero(np.bincount(unit, minlength=n) == 0)
    if len(missing):
        nearest = np.floor((shapes.centroids[missing] - tokens.centre) / tokens.stride + 0.5).astype(np.int64)
        unit, weight = np.r_[unit, missing], np.r_[weight, np.ones(len(missing), dtype=np.float32)]
        row, column = np.r_[row, nearest[:, 1]], np.r_[column, nearest[:, 0]]
    used = tokens.used(row, column)
    if len(missing):
        used = np.flatnonzero(used)[np.argsort(unit[used], kind="stable")]
    unit, index = unit[used], row[used] * tokens.columns + column[used]
    start = np.r_[0, np.cumsum(np.bincount(unit, minlength=n))]
    return csr_array((weight[used], index, start), shape=(n, tokens.rows * tokens.columns))
