"""Maps of expression: rasters, structural similarity where there is tissue, spatial autocorrelation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pastpy.metrics._columns import CONSTANT_MEASURED, CONSTANT_PREDICTED, MIN_UNITS, is_constant

__all__ = ["map_scores", "morans_i", "rasterize", "spacing", "ssim"]

#: Side of the window of the structural similarity, pixels of the raster, as in the original and in scikit-image.
WINDOW = 7
#: Neighbours of a unit in the graph of Moran's I.
N_NEIGHBOURS = 6
#: Why there is no score of a map.
FEW_LOCATED = f"fewer than {N_NEIGHBOURS + 2} units with coordinates"
CROWDED = "all units in one place"
SPARSE = "map too small or too sparse"


def map_scores(
    predicted: np.ndarray, measured: np.ndarray, coordinates: np.ndarray, pixel: float | None
) -> dict[str, np.ndarray]:
    """Similarity of maps and Moran's I, column by column over the units that have it.

    Parameters
    ----------
    predicted, measured
        float (n, k); NaN where unknown.
    coordinates
        float (n, 2); rows with NaN are left out.
    pixel
        Side of a pixel of the maps; by default the spacing of the units that have the column.

    Returns
    -------
    Arrays (k,): ``ssim``, ``morans_i_predicted``, ``morans_i_measured``, and ``map_reason``, why one of them is NaN,
    else empty.
    """
    known = np.isfinite(predicted) & np.isfinite(measured) & np.isfinite(coordinates).all(axis=1)[:, None]
    out = {name: np.full(known.shape[1], np.nan) for name in ("ssim", "morans_i_predicted", "morans_i_measured")}
    reason = np.full(known.shape[1], "", dtype=object)
    for units, columns in _same_units(known):
        at = np.ix_(units, columns)
        x, y, where = predicted[at], measured[at], coordinates[units]
        if len(units) < MIN_UNITS or len(np.unique(where, axis=0)) < 2:
            reason[columns] = FEW_LOCATED if len(units) < MIN_UNITS else CROWDED
            continue
        side = spacing(where) if pixel is None else pixel
        out["ssim"][columns] = ssim(rasterize(x, where, side), rasterize(y, where, side))
        out["morans_i_predicted"][columns], out["morans_i_measured"][columns] = morans_i(x, where), morans_i(y, where)
        few = np.full(len(columns), len(units) <= N_NEIGHBOURS + 1)
        wrong = [few, is_constant(y), is_constant(x), np.isnan(out["ssim"][columns])]
        reason[columns] = np.select(wrong, [FEW_LOCATED, CONSTANT_MEASURED, CONSTANT_PREDICTED, SPARSE], "")
    return {**out, "map_reason": reason}


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
    constant = np.array([is_constant(m[np.isfinite(m)]) if np.isfinite(m).any() else True for m in (*a, *b)])
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


def morans_i(values: np.ndarray, coordinates: np.ndarray, *, n_neighbours: int = N_NEIGHBOURS) -> np.ndarray:
    """Moran's I of every column over the graph of nearest neighbours, float (k,), by squidpy.

    Parameters
    ----------
    values
        float (n, k); NaN is left out, column by column.
    coordinates
        float (n, 2); rows with NaN are left out.
    n_neighbours
        Neighbours of a unit.

    Returns
    -------
    NaN for constant columns, and where there are too few units for the graph.

    References
    ----------
    Moran, Biometrika 37:17 (1950), doi:10.1093/biomet/37.1-2.17; Palla et al., Nat Methods 19:171 (2022),
    doi:10.1038/s41592-021-01358-2.
    """
    known = np.isfinite(values) & np.isfinite(coordinates).all(axis=1)[:, None]
    out = np.full(values.shape[1], np.nan)
    for units, columns in _same_units(known):
        out[columns] = _morans_i(values[np.ix_(units, columns)], coordinates[units], n_neighbours)
    return out


def _morans_i(values: np.ndarray, coordinates: np.ndarray, n_neighbours: int) -> np.ndarray:
    """As :func:`morans_i`, of finite values."""
    import logging

    import pandas as pd
    import squidpy as sq
    from anndata import AnnData

    out = np.full(values.shape[1], np.nan)
    varies = np.flatnonzero(~is_constant(values)) if len(values) else np.empty(0, dtype=int)
    if len(values) <= n_neighbours + 1 or not len(varies):
        return out
    table = AnnData(
        values[:, varies].astype(np.float64),
        obs=pd.DataFrame(index=np.arange(len(values)).astype(str)),
        var=pd.DataFrame(index=varies.astype(str)),
    )
    table.obsm["spatial"] = coordinates
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


def _same_units(known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of every set of columns that are known in the same rows, int each."""
    patterns, pattern_of = np.unique(np.packbits(known, axis=0), axis=1, return_inverse=True)
    for i in range(patterns.shape[1]):
        columns = np.flatnonzero(pattern_of.ravel() == i)
        yield np.flatnonzero(known[:, columns[0]]), columns


def _scaled(maps: np.ndarray) -> np.ndarray:
    if not np.isfinite(maps).any():
        return maps
    low, high = np.nanmin(maps, axis=(1, 2), keepdims=True), np.nanmax(maps, axis=(1, 2), keepdims=True)
    return (maps - low) / np.where(high > low, high - low, 1.0)
