"""Sample: some units of a slide, in few places, so that little has to be read for them."""

from __future__ import annotations

import numpy as np

from pastpy.engine.plan import z_order

__all__ = ["PLACE_UM", "sample_units"]

#: Side of the places from which a slide's statistics are taken, µm: one tile of the encoder holds a place and what its
#: units need around it.
PLACE_UM = 128.0


def sample_units(
    centroids: np.ndarray, *, place: float, n_places: int = 64, each: int = 48, seed: int = 0
) -> np.ndarray:
    """Units in places that are spread evenly over the units of a slide.

    Parameters
    ----------
    centroids
        float (n, 2), x and y; rows with NaN are not drawn.
    place
        Side of a place, in the same unit.
    n_places
        Places; each lies around a unit, so that dense tissue is drawn as often as it has units.
    each
        Most units of a place.
    seed
        Which units of a fuller place are drawn.

    Returns
    -------
    int64 positions, rising.

    Examples
    --------
    >>> sample_units(np.array([[0.0, 0.0], [1.0, 1.0], [900.0, 900.0]]), place=10, n_places=2).tolist()
    [0, 1, 2]
    """
    located = np.flatnonzero(np.isfinite(centroids).all(axis=1))
    if not located.size:
        return located
    cells = np.floor(centroids[located] / place).astype(np.int64)
    code = z_order(cells - cells.min(axis=0))
    order = np.argsort(code, kind="stable")
    located, code = located[order], code[order]
    anchors = code[np.linspace(0, len(code) - 1, min(n_places, len(code))).round().astype(int)]
    rng = np.random.default_rng(seed)
    parts = []
    for one in np.unique(anchors):
        units = located[slice(*np.searchsorted(code, (one, one + 1)))]
        # by where they lie: the same units whatever the order of the rows
        units = units[np.lexsort(centroids[units].T)]
        parts.append(units if len(units) <= each else rng.choice(units, each, replace=False))
    return np.sort(np.concatenate(parts))
