"""Exact outlines of the objects of a label array."""

from __future__ import annotations

import numpy as np

__all__ = ["label_polygons"]

# Sides of a pixel in the order in which its outline is walked, with the object to the right: top, right, bottom, left.
# For each the step to the pixel beyond it, and the step along it.
_BEYOND = ((-1, 0), (0, 1), (1, 0), (0, -1))
_ALONG = ((0, 1), (1, 0), (0, -1), (-1, 0))
#: Corner of the pixel at which each side starts: row, column.
_START = ((0, 0), (0, 1), (1, 1), (1, 0))


def label_polygons(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and outlines of the objects of a label array.

    Outlines run along the sides of pixels, so that areas are exact; pieces and holes are kept.

    Parameters
    ----------
    labels
        Non-negative int (h, w), 0 is background.

    Returns
    -------
    ids
        int64 (n,), increasing.
    polygons
        object (n,), shapely (multi)polygons in the array's pixels, (0, 0) = its top-left corner.

    Examples
    --------
    >>> label_polygons(np.array([[0, 5], [0, 5]]))[1][0].wkt
    'POLYGON ((1 0, 1 2, 2 2, 2 0, 1 0))'
    """
    import shapely

    padded = np.pad(labels, 1)
    corners, ring, owner = _rings(padded)
    ids, code, n_rings = np.unique(owner, return_inverse=True, return_counts=True)
    polygons = np.empty(len(ids), dtype=object)
    if not len(ids):
        return ids.astype(np.int64), polygons
    outlines = shapely.polygons(shapely.linearrings(corners, indices=ring))
    polygons[code] = outlines
    # Pieces, holes, and outlines that meet themselves at a corner: few, so the slow way round is fast enough.
    difficult = (n_rings > 1) | ~shapely.is_valid(polygons)
    if difficult.any():
        polygons[difficult] = _union_of_runs(labels, ids[difficult])
    return ids.astype(np.int64), shapely.normalize(polygons)


def _rings(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Closed walks along the borders of objects in an array with an empty margin.

    Returns
    -------
    corners
        float (k, 2), x and y of the corners where a walk turns, without the margin.
    ring
        Non-decreasing int (k,), the walk that each belongs to.
    owner
        (n_rings,), label of each walk.
    """
    inner = padded[1:-1, 1:-1]
    height, width = padded.shape
    found = []
    for which, (dr, dc) in enumerate(_BEYOND):
        beyond = padded[1 + dr : height - 1 + dr, 1 + dc : width - 1 + dc]
        r, c = np.nonzero((inner > 0) & (inner != beyond))
        found.append(np.column_stack([np.full(len(r), which), r + 1, c + 1]))
    side, row, column = np.concatenate(found).T
    # In the order of their numbers as they are, so each side's successor is found by bisection.
    numbers = np.ravel_multi_index((side, row, column), (4, height, width))
    after_side = _next_side(padded, row, column, side)
    after = np.searchsorted(numbers, np.ravel_multi_index(after_side, (4, height, width))).tolist()
    order, ring = _cycles(after)
    turns = side[order] != side[_before(order, ring)]
    at = np.array(_START)[side[order]]
    corners = np.column_stack([column[order] + at[:, 1], row[order] + at[:, 0]]) - 1.0
    _, first = np.unique(ring, return_index=True)
    return corners[turns], ring[turns], padded[row[order][first], column[order][first]]


def _next_side(
    padded: np.ndarray, row: np.ndarray, column: np.ndarray, side: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The side that follows each: around the same pixel, straight on, or around the pixel in the inner corner."""
    label = padded[row, column]
    beyond, along = np.array(_BEYOND)[side], np.array(_ALONG)[side]
    ahead = row + along[:, 0], column + along[:, 1]
    across = ahead[0] + beyond[:, 0], ahead[1] + beyond[:, 1]
    turn_right = padded[ahead] != label
    turn_left = ~turn_right & (padded[across] == label)
    straight = ~turn_right & ~turn_left
    where_row = np.where(turn_right, row, np.where(straight, ahead[0], across[0]))
    where_column = np.where(turn_right, column, np.where(straight, ahead[1], across[1]))
    return (side + turn_right - turn_left) % 4, where_row, where_column


def _cycles(after: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Elements of a permutation in the order of its cycles, and the number of each one's cycle."""
    order, ring, seen, n = [], [], bytearray(len(after)), 0
    for start in range(len(after)):
        if seen[start]:
            continue
        here = start
        while not seen[here]:
            seen[here] = 1
            order.append(here)
            ring.append(n)
            here = after[here]
        n += 1
    return np.array(order, dtype=np.int64), np.array(ring, dtype=np.int64)


def _before(order: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """The element before each in its cycle."""
    before = np.roll(order, 1)
    _, first, size = np.unique(ring, return_index=True, return_counts=True)
    before[first] = order[first + size - 1]
    return before


def _union_of_runs(labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Union of each object's runs along the rows."""
    import shapely

    kept = np.where(np.isin(labels, wanted), labels, 0)
    padded = np.pad(kept, ((0, 0), (1, 1)))
    rows, edges = np.nonzero(padded[:, 1:] != padded[:, :-1])
    value = padded[rows, edges + 1]
    starts = np.flatnonzero(value > 0)  # the edge after it, in the same row, ends the run
    _, code = np.unique(value[starts], return_inverse=True)
    order = np.argsort(code, kind="stable")
    boxes = shapely.box(edges[starts], rows[starts], edges[starts + 1], rows[starts] + 1)[order]
    return shapely.simplify(shapely.union_all(shapely.multipolygons(boxes, indices=code[order])[:, None], axis=1), 0)
