"""Polygons to pixels, exactly the same in every window: a pixel belongs to a polygon that covers its centre."""

from __future__ import annotations

import numpy as np

__all__ = ["draw_spans", "filled_spans"]


def filled_spans(geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Horizontal runs of pixels whose centres lie in polygons.

    All edges are crossed with all pixel rows at once, in absolute coordinates, so the answer depends on no window.
    Holes and several parts follow from the even-odd rule. A polygon that covers no centre gets the pixel of its
    centroid.

    Parameters
    ----------
    geometry
        object (n,), shapely polygons or multipolygons in px, pixel (0, 0) from 0 to 1.

    Returns
    -------
    row, start, stop, position
        int64 (k,): pixel row, first column, column after the last, and position of the polygon.

    Examples
    --------
    >>> import numpy as np, shapely
    >>> [a.tolist() for a in filled_spans(np.array([shapely.box(2, 5, 4, 6)]))]
    [[5], [2], [4], [0]]
    """
    import shapely

    parts, part_of = shapely.get_parts(geometry, return_index=True)
    rings, ring_of = shapely.get_rings(parts, return_index=True)
    (x, y), vertex_of = _transposed(shapely.get_coordinates(rings, return_index=True))
    edge = np.flatnonzero(vertex_of[1:] == vertex_of[:-1])
    xa, ya, xb, yb = x[edge], y[edge], x[edge + 1], y[edge + 1]
    first = np.ceil(np.minimum(ya, yb) - 0.5).astype(np.int64)
    count = np.ceil(np.maximum(ya, yb) - 0.5).astype(np.int64) - first
    repeated = np.repeat(np.arange(len(edge)), count)
    row = np.arange(len(repeated)) - np.repeat(np.cumsum(count) - count, count) + first[repeated]
    along = (row + 0.5 - ya[repeated]) / (yb - ya)[repeated]
    column = np.ceil(xa[repeated] + along * (xb - xa)[repeated] - 0.5).astype(np.int64)
    position = part_of[ring_of[vertex_of[edge]]][repeated]
    order = np.lexsort((column, row, position))
    enter, leave = order[::2], order[1::2]
    spans = row[enter], column[enter], column[leave], position[enter]
    filled = np.bincount(spans[3], weights=spans[2] - spans[1], minlength=len(geometry))
    missed = np.flatnonzero(filled == 0)
    centre = np.floor(shapely.get_coordinates(shapely.centroid(geometry[missed]))).astype(np.int64)
    lone = centre[:, 1], centre[:, 0], centre[:, 0] + 1, missed
    row, start, stop, position = (np.concatenate(pair) for pair in zip(spans, lone, strict=True))
    return row, start, stop, position


def _transposed(answer: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    coordinates, index = answer
    return coordinates.T, index


def draw_spans(canvas: np.ndarray, row: np.ndarray, start: np.ndarray, stop: np.ndarray, value: np.ndarray) -> None:
    """Write ``value`` into runs of pixels of a canvas (height, width); where runs overlap the smallest value stays."""
    height, width = canvas.shape
    start, stop = np.clip(start, 0, width), np.clip(stop, 0, width)
    seen = np.flatnonzero((row >= 0) & (row < height) & (stop > start))
    seen = seen[np.argsort(-value[seen], kind="stable")]
    length = (stop - start)[seen]
    which = np.repeat(seen, length)
    column = start[which] + np.arange(len(which)) - np.repeat(np.cumsum(length) - length, length)
    canvas[row[which], column] = value[which]
