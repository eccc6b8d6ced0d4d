"""Objects of a label array: position, shape and outline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Objects", "measure_objects", "outlines"]


@dataclass(frozen=True)
class Objects:
    """Objects in pixels of the array they were measured on, (0, 0) = its top-left corner; n rows.

    Attributes
    ----------
    label
        int (n,).
    centroid
        float64 (n, 2), x and y.
    area
        float64 (n,), pixels.
    eccentricity
        float64 (n,), of the ellipse with the object's second moments: 0 a circle, near 1 a line.
    mean
        float64 (n,), mean intensity.
    """

    label: np.ndarray
    centroid: np.ndarray
    area: np.ndarray
    eccentricity: np.ndarray
    mean: np.ndarray


def measure_objects(labels: np.ndarray, intensity: np.ndarray, *, origin: tuple[int, int] = (0, 0)) -> Objects:
    """Measure all objects of a label array at once.

    Parameters
    ----------
    labels
        Non-negative int (h, w), 0 is background.
    intensity
        float (h, w).
    origin
        Row and column of the array's first pixel; positions count from there. Sums of whole numbers make them
        independent of how the array was cut.

    Examples
    --------
    >>> measure_objects(np.array([[0, 2, 2]]), np.array([[9.0, 1.0, 3.0]])).centroid
    array([[2. , 0.5]])
    """
    rows, columns = np.nonzero(labels)
    inside = labels[rows, columns]
    n = int(inside.max(initial=0)) + 1

    label = np.flatnonzero(np.bincount(inside, minlength=n))

    def total(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(inside, weights, minlength=n)[label]

    area = total().astype(float)
    x, y = columns + origin[1], rows + origin[0]
    centroid = np.column_stack([total(x), total(y)]) / area[:, None]
    dx, dy = x - _by_label(centroid[:, 0], label, n)[inside], y - _by_label(centroid[:, 1], label, n)[inside]
    xx, yy, xy = total(dx * dx) / area, total(dy * dy) / area, total(dx * dy) / area
    root = np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    major, minor = np.maximum((xx + yy) / 2 + root, np.finfo(float).tiny), (xx + yy) / 2 - root
    return Objects(
        label=label,
        centroid=centroid + 0.5,
        area=area,
        eccentricity=np.where(root > 0, np.sqrt(np.clip(1 - minor / major, 0, 1)), 0.0),
        mean=total(intensity[rows, columns]) / area,
    )


def _by_label(values: np.ndarray, label: np.ndarray, n: int) -> np.ndarray:
    """Spread one value an object to a table indexed by label."""
    table = np.zeros(n)
    table[label] = values
    return table


def outlines(labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Outlines of objects as valid polygons.

    The middles of the pixel sides along an object's border, smoothed along the border once (weights ¼, ½, ¼) and
    thinned to 0.1 px. Of an object in pieces the largest counts, and holes are left out.

    Parameters
    ----------
    labels
        Non-negative int (h, w), 0 is background.
    wanted
        Increasing int (n,), labels to outline; all must be there.

    Returns
    -------
    object (n,), shapely polygons in the array's pixels, (0, 0) = its top-left corner.

    Examples
    --------
    >>> outlines(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]), np.array([1]))[0].centroid.wkt
    'POINT (1.5 1.5)'
    """
    import shapely

    if not len(wanted):
        return np.empty(0, dtype=object)
    chosen = np.zeros(int(labels.max()) + 1, dtype=bool)
    chosen[wanted] = True
    middle, after, label = _border(np.pad(np.where(chosen[labels], labels, 0), 1))
    before = np.empty_like(after)
    before[after] = np.arange(len(after))
    smooth = (middle[before] + 2 * middle + middle[after]) / 4
    order, ring = _rings(after)
    xy, label = smooth[order], label[order]
    size = _ring_areas(xy, ring)
    first = np.flatnonzero(np.r_[True, np.diff(ring) > 0])
    # of several rings of a label the largest: holes run the other way and have negative areas
    best = np.lexsort((size, label[first]))
    last = np.r_[np.diff(label[first][best]) > 0, True]
    number = np.full(len(first), -1)
    number[best[last]] = np.arange(len(wanted))
    keep = number[ring] >= 0
    by_number = np.argsort(number[ring][keep], kind="stable")
    rings = shapely.linearrings(xy[keep][by_number], indices=number[ring][keep][by_number])
    return _valid(shapely.simplify(shapely.polygons(rings), 0.1))


def _border(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel sides between different labels, as rings that run clockwise around the pixels of a label.

    ``labels`` is padded by one pixel. Returns the middle of each side (x, y), in pixels without the padding, the
    position of the side that follows, and the label. Pixels that touch by a corner only are not connected.
    """
    flat, width = labels.ravel(), labels.shape[1]
    pixels = np.flatnonzero(flat)
    # sides in clockwise order: top, right, bottom, left; steps across the side and onwards along it
    across, along = (-width, 1, width, -1), (1, width, -1, -width)
    sides = [pixels[flat[pixels + step] != flat[pixels]] for step in across]
    start = np.cumsum([0, *(len(side) for side in sides)])
    after = np.empty(start[-1], dtype=np.int64)
    for k, side in enumerate(sides):
        same = flat[side]
        turns = flat[side + along[k]] != same
        straight = ~turns & (flat[side + along[k] + across[k]] != same)
        # right around this pixel, on to the next one, or left up the pixel beyond the corner
        choices = (
            (turns, (k + 1) % 4, 0),
            (straight, k, along[k]),
            (~turns & ~straight, (k - 1) % 4, along[k] + across[k]),
        )
        for which, other, step in choices:
            at = start[k] + np.flatnonzero(which)
            after[at] = start[other] + np.searchsorted(sides[other], side[which] + step)
    offsets = ((0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5))
    middle = [
        np.column_stack([side % width - 1 + dx, side // width - 1 + dy])
        for side, (dx, dy) in zip(sides, offsets, strict=True)
    ]
    return np.concatenate(middle), after, flat[np.concatenate(sides)]


def _rings(after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Follow the sides: their order ring by ring, and the number of each one's ring."""
    follow, seen = after.tolist(), bytearray(len(after))
    order: list[int] = []
    ends: list[int] = []
    for begin in range(len(follow)):
        at = begin
        while not seen[at]:
            seen[at] = 1
            order.append(at)
            at = follow[at]
        if not ends or len(order) > ends[-1]:
            ends.append(len(order))
    return np.array(order), np.repeat(np.arange(len(ends)), np.diff([0, *ends]))


def _ring_areas(xy: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Signed area of every ring by the shoelace formula, positive where it runs clockwise on the screen."""
    n = np.bincount(ring)
    last = np.cumsum(n) - 1
    following = np.arange(1, len(xy) + 1)
    following[last] = last - n + 1
    cross = xy[:, 0] * xy[following, 1] - xy[following, 0] * xy[:, 1]
    return np.bincount(ring, cross) / 2


def _valid(polygons: np.ndarray) -> np.ndarray:
    """Polygons, the few that touch themselves replaced by their largest part."""
    import shapely

    for i in np.flatnonzero(~shapely.is_valid(polygons)):
        parts = shapely.get_parts(shapely.make_valid(polygons[i]))
        polygons[i] = parts[np.argmax(shapely.area(parts))]
    return polygons
