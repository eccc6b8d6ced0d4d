"""``past.bench.to_spots``: predictions of cells, summed up to the spots that measured them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._aggregate import membership

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["to_spots"]


def to_spots(
    cells: AnnData, spots: AnnData, *, spot_diameter_um: float | None = None, expression_key: str | None = None
) -> AnnData:
    """Aggregate the predicted expression of cells over spots.

    A spot's value is log1p of the mean of expm1 over the cells whose centroid lies in it and that have the gene.

    Parameters
    ----------
    cells
        Table with predicted expression and ``obsm["spatial"]`` in µm.
    spots
        Table with ``obsm["spatial"]`` in µm of the same image.
    spot_diameter_um
        Diameter of the spots; by default what :func:`pastpy.io.read_st` stored.
    expression_key
        Frame in ``cells.obsm``; ``"past_expression"`` by default.

    Returns
    -------
    AnnData (spots × genes) with the names of ``spots``, ``obs["n_cells"]`` (cells with a prediction of any gene) and
    ``obsm["spatial"]``; NaN where no cell of the spot has the gene.

    Raises
    ------
    KeyError
        If coordinates or predictions are missing, or the diameter is unknown.
    ValueError
        If a prediction is infinite, or so large that its expression is.

    Examples
    --------
    >>> import pastpy as past
    >>> import numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> cells, spots = AnnData(np.zeros((2, 0))), AnnData(np.zeros((1, 0)))
    >>> cells.obsm["spatial"], spots.obsm["spatial"] = np.array([[0.0, 1], [2, 0]]), np.zeros((1, 2))
    >>> cells.obsm["past_expression"] = pd.DataFrame({"ERBB2": np.log1p([1.0, 3.0])}, index=cells.obs_names)
    >>> float(np.expm1(past.bench.to_spots(cells, spots, spot_diameter_um=10).X[0, 0]).round(3))
    2.0
    """
    import pandas as pd
    from anndata import AnnData

    key = expression_key or _keys.Slots().expression
    for name, table in (("cells", cells), ("spots", spots)):
        if _keys.SPATIAL not in table.obsm:
            raise KeyError(
                f"{name} has no obsm[{_keys.SPATIAL!r}] in µm; run pastpy.tl.embed or read it with pastpy.io"
            )
    if key not in cells.obsm:
        raise KeyError(f"cells has no obsm[{key!r}]; run pastpy.tl.impute_expression first (it has {list(cells.obsm)})")
    if spot_diameter_um is None:
        spot_diameter_um = spots.uns.get(_keys.PAST, {}).get("read_st", {}).get("spot_diameter_um")
        if spot_diameter_um is None:
            raise KeyError(
                "the diameter of the spots is not stored in spots.uns['past']['read_st']; pass spot_diameter_um="
            )
    frame = cells.obsm[key]
    with np.errstate(over="ignore"):
        values = np.expm1(frame.to_numpy(dtype=float))
    too_large = np.isinf(values).any(axis=1)
    if too_large.any():
        raise ValueError(
            f"cells.obsm[{key!r}] holds infinite expression in {int(too_large.sum())} cells, e.g. "
            f"{frame.index[too_large][:3].tolist()}; it must be log1p expression, NaN where nothing can be said"
        )
    known = np.isfinite(values)
    where = np.where(known.any(axis=1)[:, None], np.asarray(cells.obsm[_keys.SPATIAL], dtype=float), np.nan)
    inside = membership(where, np.asarray(spots.obsm[_keys.SPATIAL], dtype=float), spot_diameter_um / 2)
    n_cells = np.asarray(inside.sum(axis=1)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (inside @ np.where(known, values, 0.0)) / (inside @ known.astype(float))
    out = AnnData(
        np.log1p(mean).astype(np.float32),
        obs=pd.DataFrame({"n_cells": n_cells.astype(int)}, index=spots.obs_names),
        var=pd.DataFrame(index=frame.columns),
    )
    out.obsm[_keys.SPATIAL] = np.asarray(spots.obsm[_keys.SPATIAL], dtype=float)
    return out
