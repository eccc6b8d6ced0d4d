"""Discs: mean tokens under discs, from running sums along the rows of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["DiscMeans", "TokenGrid"]


@dataclass(frozen=True)
class TokenGrid:
    """Geometry of a field's tokens, target pixels.

    Attributes
    ----------
    rows, columns
        How many there are.
    stride, centre
        Token (i, j) stands for the square of side ``stride`` around ``centre + stride * (j, i)``.
    inside
        x0, y0, x1, y1 of the image in the field's coordinates.
    """

    rows: int
    columns: int
    stride: int
    centre: float
    inside: tuple[float, float, float, float]

    @property
    def corner(self) -> float:
        """Where the first token's square begins."""
        return self.centre - self.stride / 2

    @cached_property
    def used(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of the tokens whose squares touch the image, the second of each excluded."""
        x0, y0, x1, y1 = self.inside
        return self._touching(y0, y1, self.rows), self._touching(x0, x1, self.columns)

    def _touching(self, low: float, high: float, n: int) -> tuple[int, int]:
        first = int(np.floor((low - self.corner) / self.stride - 1)) + 1
        stop = int(np.ceil((high - self.corner) / self.stride))
        return min(max(first, 0), n), min(max(stop, 0), n)


class DiscMeans:
    """Mean tokens under discs on one field.

    A row of points in a disc is a span, and the sum of its tokens the difference of two running sums: the work grows
    with the radius, not with the area.

    Parameters
    ----------
    tokens
        float32 (rows, columns, channels).
    grid
        Their geometry.
    """

    def __init__(self, tokens: np.ndarray, grid: TokenGrid) -> None:
        self._grid = grid
        (top, bottom), (left, right) = grid.used
        used = tokens[top:bottom, left:right]
        self._shape = used.shape[:2]
        running = np.zeros((used.shape[0], used.shape[1] + 1, used.shape[2]))
        np.cumsum(used, axis=1, out=running[:, 1:])
        self._running, self._used = (part.reshape(-1, used.shape[2]) for part in (running, used))

    def of(self, centres: np.ndarray, radius: float, *, per_token: int) -> np.ndarray:
        """Mean token of each disc, each weighted by how many points of its square the disc holds.

        Parameters
        ----------
        centres
            float (n, 2), x and y, target pixels.
        radius
            Of all discs, target pixels.
        per_token
            Points along a token's side.

        Returns
        -------
        float32 (n, channels); NaN where no point lies in a token of the image.
        """
        (top, _), (left, _) = self._grid.used
        height, width = self._shape
        row, first, stop = _spans(centres, radius, self._grid.corner, self._grid.stride / per_token)
        row -= top * per_token
        first, stop = (np.clip(edge - left * per_token, 0, width * per_token) for edge in (first, stop))
        length = np.where((row >= 0) & (row < height * per_token), np.maximum(stop - first, 0), 0)
        crossed = np.nonzero(length)
        start = np.r_[0, np.cumsum(np.count_nonzero(length, axis=1))]
        line = row[crossed] // per_token
        total = self._up_to(stop[crossed], line, start, per_token) - self._up_to(first[crossed], line, start, per_token)
        out = np.full((len(centres), self._used.shape[1]), np.nan, dtype=np.float32)
        n_points = length.sum(axis=1)
        found = n_points > 0
        out[found] = total[found] / n_points[found, None]
        return out

    def _up_to(self, edge: np.ndarray, line: np.ndarray, start: np.ndarray, per_token: int) -> np.ndarray:
        """Sum over each disc's rows of points of all that lie left of an edge, float64 (n, channels)."""
        from scipy.sparse import csr_array

        n, (height, width) = len(start) - 1, self._shape
        token, rest = np.divmod(edge, per_token)
        whole = np.full(len(edge), float(per_token)), line * (width + 1) + token, start
        # the token at the edge counts for its points that lie left; where there are none it may be beyond the last
        part = rest.astype(float), line * width + np.minimum(token, width - 1), start
        return (
            csr_array(whole, shape=(n, height * (width + 1))) @ self._running
            + csr_array(part, shape=(n, height * width)) @ self._used
        )


def _spans(
    centres: np.ndarray, radius: float, corner: float, spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of points that cross discs, int64 (n, m), and the first point of each within and the one behind the last.

    Point ``k`` along an axis lies at ``corner + (k + 0.5) * spacing``.
    """
    x, y = ((centres[:, axis, None] - corner) / spacing - 0.5 for axis in (0, 1))
    reach = radius / spacing
    row = np.ceil(y - reach).astype(np.int64) + np.arange(int(2 * reach) + 2)
    half2 = reach**2 - (row - y) ** 2
    half = np.sqrt(np.maximum(half2, 0.0))
    first = np.ceil(x - half).astype(np.int64)
    stop = np.where(half2 >= 0, np.floor(x + half).astype(np.int64) + 1, first)
    return row, first, stop
