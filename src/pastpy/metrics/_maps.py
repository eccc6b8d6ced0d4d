"""Maps of expression: rasters, structural similarity where there is tissue, spatial autocorrelation."""

from __future__ import annotations

import numpy as np

__all__ = ["morans_i", "rasterize", "spacing", "ssim"]

#: Side of the window of the structural similarity, pixels of the raster, as in the original and in scikit-image.
WINDOW = 7


def spacing(coordinates: np.ndarray) -> float:
    """Median distance from a unit to its nearest neighbour, in the unit of the coordinates.

    Parameters
    ----------
    coordinates
        float (n, 2); rows with NaN are left out.

    Raises
    ------
    ValueError
        If fewer than two units have coordinates, or all lie in one place.
    """
    from scipy.spatial import KDTree

    located = coordinates[np.isfinite(coordinates).all(axis=1)]
    if len(np.unique(located, axis=0)) < 2:
        raise ValueError("at least two units with different coordinates are needed for a map")
    distance = KDTree(np.unique(located, axis=0)).query(np.unique(located, axis=0), k=2)[0][:, 1]
    return float(np.median(distance))


def rasterize(values: np.ndarray, coordinates: np.ndarray, pixel: float) -> np.ndarray:
    """Mean of the units in every pixel of a grid, float (k, rows, columns); NaN where there is none.

    Parameters
    ----------
    values
        float (n, k).
    coordinates
        float (n, 2), x and y.
    pixel
        Side of a pixel, in the unit of the coordinates.

    Examples
    --------
    >>> import numpy as np
    >>> rasterize(np.array([[1.0], [3.0], [5.0]]), np.array([[0.0, 0], [0, 0], [2, 0]]), 1.0).tolist()
    [[[2.0, nan, 5.0]]]
    """
    known = np.isfinite(coordinates).all(axis=1) & np.isfinite(values).all(axis=1)
    values, coordinates = values[known], coordinates[known]
    cell = np.floor((coordinates - coordinates.min(axis=0)) / pixel + 0.5).astype(np.int64)
    columns, rows = cell.max(axis=0) + 1
    at = cell[:, 1] * columns + cell[:, 0]
    count = np.bincount(at, minlength=rows * columns)
    total = np.stack([np.bincount(at, weights=v, minlength=rows * columns) for v in values.T])
    with np.errstate(invalid="ignore"):
        return (total / count).reshape(-1, rows, columns)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of maps, float (k,), each map scaled to 0–1 by its own extremes.

    Windows of 7×7 pixels see only pixels that both maps have; on full maps the local values are those of
    :func:`skimage.metrics.structural_similarity`. The mean is taken over pixels whose window holds at least half of the
    pixels that a window can hold.

    Parameters
    ----------
    a, b
        float (k, rows, columns); NaN off the tissue. The pixels off the tissue must be the same for all k.

    Returns
    -------
    NaN where a map is constant, or no window holds enough tissue.

    References
    ----------
    Wang et al., IEEE Trans Image Process 13:600 (2004), doi:10.1109/TIP.2003.819861. Use on expression maps: Li et al.,
    Nat Methods 19:662 (2022), doi:10.1038/s41592-022-01480-9.
    """
    local, inside = ssim_map(a, b)
    constant = np.array([np.ptp(m[np.isfinite(m)]) == 0 if np.isfinite(m).any() else True for m in (*a, *b)])
    constant = constant[: len(a)] | constant[len(a) :]
    out = np.full(len(a), np.nan)
    if inside.any():
        out[~constant] = local[~constant][:, inside].mean(axis=1)
    return out


def ssim_map(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local similarity, float (k, rows, columns), and the pixels that count, bool (rows, columns)."""
    from scipy.ndimage import uniform_filter

    mask = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    window = [min(WINDOW, side) for side in mask.shape]
    a, b = (_scaled(np.where(mask, m, np.nan)) for m in (a, b))
    # zero beyond the border, so that the share of tissue in a window falls there as it does at a hole
    share = uniform_filter(mask.astype(float), window, mode="constant")
    n = np.maximum(share * np.prod(window), 1.0)
    known = np.where(share > 0.5 / np.prod(window), share, np.nan)

    def mean(m: np.ndarray) -> np.ndarray:
        return uniform_filter(np.where(mask, m, 0.0), [0, *window], mode="constant") / known

    unbiased = n / np.maximum(n - 1, 1e-9)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = (unbiased * (mean(m * m) - mu**2) for m, mu in ((a, mean_a), (b, mean_b)))
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    local = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    local /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return local, mask & (share >= 0.5 - 1e-9) & (n > 1.5)


def morans_i(values: np.ndarray, coordinates: np.ndarray, *, n_neighbours: int = 6) -> np.ndarray:
    """Moran's I of every column over the graph of nearest neighbours, float (k,), by squidpy.

    Parameters
    ----------
    values
        float (n, k); rows with NaN in any column or in their coordinates are left out.
    coordinates
        float (n, 2).
    n_neighbours
        Neighbours of a unit.

    Returns
    -------
    NaN for constant columns, and everywhere if there are too few units for the graph.

    References
    ----------
    Moran, Biometrika 37:17 (1950), doi:10.1093/biomet/37.1-2.17; Palla et al., Nat Methods 19:171 (2022),
    doi:10.1038/s41592-021-01358-2.
    """
    import logging

    import pandas as pd
    import squidpy as sq
    from anndata import AnnData

    known = np.isfinite(values).all(axis=1) & np.isfinite(coordinates).all(axis=1)
    out = np.full(values.shape[1], np.nan)
    varies = np.flatnonzero(np.ptp(values[known], axis=0) > 0) if known.any() else np.empty(0, dtype=int)
    if known.sum() <= n_neighbours + 1 or not len(varies):
        return out
    table = AnnData(
        values[np.ix_(known, varies)].astype(np.float64),
        obs=pd.DataFrame(index=np.flatnonzero(known).astype(str)),
        var=pd.DataFrame(index=varies.astype(str)),
    )
    table.obsm["spatial"] = coordinates[known]
    talk = logging.getLogger("spatialdata._logging")  # squidpy's, which announces every graph
    level = talk.level
    talk.setLevel(logging.WARNING)
    try:
        sq.gr.spatial_neighbors_knn(table, n_neighs=n_neighbours)
    finally:
        talk.setLevel(level)
    found = sq.gr.spatial_autocorr(
        table, mode="moran", genes=list(table.var_names), n_perms=None, copy=True, show_progress_bar=False
    )
    out[found.index.astype(int)] = found["I"].to_numpy(dtype=float)
    return out


def _scaled(maps: np.ndarray) -> np.ndarray:
    if not np.isfinite(maps).any():
        return maps
    low, high = np.nanmin(maps, axis=(1, 2), keepdims=True), np.nanmax(maps, axis=(1, 2), keepdims=True)
    return (maps - low) / np.where(high > low, high - low, 1.0)
