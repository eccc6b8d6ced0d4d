"""Nuclei of overlapping blocks: each one once, also where two blocks outline it differently."""

from __future__ import annotations

import numpy as np

__all__ = ["keep_once"]

# Two outlines of which so much of the smaller lies in the other are one nucleus.
_SHARED = 0.5


def keep_once(polygons: np.ndarray, depth: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Choose one outline of each nucleus among those of several blocks.

    A nucleus belongs to the block in whose core its centroid lies. Where what a block finds depends on what it sees,
    the blocks at a seam may disagree: both claim the nucleus, or neither. So blocks hand over nuclei somewhat beyond
    their core too, and the one that lies deepest in its own core is kept of those that are the same: more than half of
    the smaller lies in the other, and neither block has a better counterpart of it.

    Parameters
    ----------
    polygons
        object (n,), outlines.
    depth
        float (n,), how deep the centroid lies in the core of its block, negative outside.
    block
        int (n,), number of the block.

    Returns
    -------
    bool (n,).

    Examples
    --------
    >>> import shapely
    >>> left, right, other = shapely.box(0, 0, 4, 4), shapely.box(1, 0, 5, 4), shapely.box(9, 0, 12, 4)
    >>> keep_once(np.array([left, right, other]), np.array([1.0, -1.0, 5.0]), np.array([0, 1, 1]))
    array([ True, False,  True])
    """
    import shapely

    kept = np.ones(len(polygons), dtype=bool)
    one, two = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    apart = block[one] != block[two]
    one, two = one[apart], two[apart]
    area = shapely.area(polygons)
    common = shapely.area(shapely.intersection(polygons[one], polygons[two]))
    same = common > _SHARED * np.minimum(area[one], area[two])
    one, two, common = one[same], two[same], common[same]
    likeness = common / (area[one] + area[two] - common)
    # of all that a block has, the likest to each nucleus is its counterpart there
    order = np.lexsort((-likeness, block[two], one))
    one, two = one[order], two[order]
    best = np.r_[True, (np.diff(one) != 0) | (np.diff(block[two]) != 0)][: len(one)]
    rivals: dict[int, list[int]] = {}
    for a, b in zip(one[best].tolist(), two[best].tolist(), strict=True):
        rivals.setdefault(a, []).append(b)
        rivals.setdefault(b, []).append(a)
    for i in sorted(rivals, key=lambda i: (-depth[i], block[i], i)):
        if kept[i]:
            kept[rivals[i]] = False
    return kept
