"""The one way from cells to spots: which cells lie in which spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["membership", "under_spots"]


def membership(cells_um: np.ndarray, spots_um: np.ndarray, radius_um: float) -> csr_array:
    """Sparse (spots, cells) matrix of ones where a cell's centroid lies within a spot.

    Parameters
    ----------
    cells_um
        float (n, 2) centroids of cells, µm; rows with NaN lie nowhere.
    spots_um
        float (m, 2) centres of spots, µm.
    radius_um
        Radius of the spots, µm.

    Examples
    --------
    >>> import numpy as np
    >>> membership(np.array([[0.0, 3.0], [9.0, 0.0]]), np.array([[0.0, 0.0]]), 5.0).toarray().tolist()
    [[1.0, 0.0]]
    """
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    located = np.flatnonzero(np.isfinite(cells_um).all(axis=1))
    shape = (len(spots_um), len(cells_um))
    if not len(located) or not len(spots_um):
        return csr_array(shape, dtype=np.float32)
    hits = cKDTree(cells_um[located]).query_ball_point(spots_um, radius_um, return_sorted=True)
    lengths = np.array([len(h) for h in hits])
    cells = located[np.concatenate([np.asarray(h, dtype=np.int64) for h in hits])]
    spots = np.repeat(np.arange(len(spots_um)), lengths)
    return csr_array((np.ones(len(cells), dtype=np.float32), (spots, cells)), shape=shape)


def under_spots(cells_um: np.ndarray, spots_um: np.ndarray, radius_um: float) -> np.ndarray:
    """Which cells lie in some spot, bool (n,); arguments as in :func:`membership`.

    Examples
    --------
    >>> import numpy as np
    >>> under_spots(np.array([[0.0, 3.0], [9.0, 0.0]]), np.array([[0.0, 0.0]]), 5.0).tolist()
    [True, False]
    """
    return np.asarray(membership(cells_um, spots_um, radius_um).sum(axis=0) > 0).ravel()
