"""Spots and bins of simulated tissue: units whose counts are the sums of their cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._aggregate import membership

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from scipy.sparse import csr_array

__all__ = ["make_bins", "make_spots"]


def make_spots(cells: AnnData, diameter_um: float, pitch_um: float, mpp: float) -> tuple[GeoDataFrame, AnnData]:
    """Circles on a hexagonal grid and their table; spots without a cell, or with cells of two donors, are left out.

    A cell belongs to a spot that its nucleus's centroid lies in, as in :func:`pastpy.bench.to_spots`.
    """
    from spatialdata.models import ShapesModel

    xy = cells.obsm[_keys.SPATIAL]
    rows = np.arange(xy[:, 1].min(), xy[:, 1].max() + 1, pitch_um * np.sqrt(0.75))
    columns = np.arange(xy[:, 0].min() - pitch_um / 2, xy[:, 0].max() + 1, pitch_um)
    x, y = np.meshgrid(columns, rows)
    x[1::2] += pitch_um / 2
    centres = np.column_stack([x.ravel(), y.ravel()])
    member = membership(xy, centres, diameter_um / 2)
    filled = np.flatnonzero((member.sum(1) > 0) & ~_mixed(member, cells))
    if not len(filled):
        raise ValueError(
            "no spot holds cells of one donor; lower spot_pitch_um, or change spot_diameter_um, which may be too small "
            "to hold a cell or so large that donors share every spot"
        )
    ids = np.arange(1, len(filled) + 1)
    shapes = ShapesModel.parse(centres[filled] / mpp, geometry=0, radius=diameter_um / 2 / mpp, index=ids)
    return shapes, _summed(cells, member[filled], centres[filled], _keys.SPOT_SHAPES)


def make_bins(cells: AnnData, side_um: float, mpp: float) -> tuple[GeoDataFrame, AnnData]:
    """Squares on a grid from the image's corner and their table.

    Bins without a cell, or with cells of two donors, are left out.
    """
    import geopandas as gpd
    import shapely
    from scipy.sparse import csr_array
    from spatialdata.models import ShapesModel

    at = np.floor(cells.obsm[_keys.SPATIAL] / side_um).astype(int)
    squares, of = np.unique(at, axis=0, return_inverse=True)
    of = of.ravel()
    member = csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(len(squares), len(of)))
    pure = ~_mixed(member, cells)
    if not pure.any():
        raise ValueError(f"every bin of {side_um:g} µm holds cells of several donors; lower bin_um")
    squares, member = squares[pure], member[pure]
    low = squares * side_um / mpp
    boxes = shapely.box(*low.T, *(low + side_um / mpp).T)
    shapes = ShapesModel.parse(gpd.GeoDataFrame(geometry=boxes, index=np.arange(1, len(squares) + 1)))
    return shapes, _summed(cells, member, (squares + 0.5) * side_um, _keys.BIN_SHAPES)


def _mixed(member: csr_array, cells: AnnData) -> np.ndarray:
    """Which units hold cells of more than one donor, bool (units,)."""
    donor = cells.obs[_keys.DONOR].cat.codes.to_numpy()
    unit, cell = member.nonzero()
    low, high = np.full((2, member.shape[0]), donor[0])
    low[unit] = high[unit] = donor[cell]
    np.minimum.at(low, unit, donor[cell])
    np.maximum.at(high, unit, donor[cell])
    return low < high


def _summed(cells: AnnData, member: csr_array, centres_um: np.ndarray, region: str) -> AnnData:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata.models import TableModel

    n = member.shape[0]
    ids = np.arange(1, n + 1)
    first = np.asarray(member.argmax(axis=1)).ravel()
    obs = pd.DataFrame(
        {
            _keys.REGION: pd.Categorical([region] * n),
            _keys.INSTANCE_ID: ids,
            _keys.DONOR: cells.obs[_keys.DONOR].array[first],
            "n_cells": np.asarray(member.sum(1)).ravel().astype(int),
        },
        index=ids.astype(str).astype(object),
    )
    for column in cells.obs.columns[cells.obs.columns.str.startswith(_keys.SIMULATED)]:
        obs[column] = cells.obs[column].to_numpy()[first]
    table = AnnData(X=csr_matrix(member @ cells.X).astype(np.int32), obs=obs, var=cells.var[[]].copy())
    for layer in (_keys.TRUE_RATE, _keys.BAYES):
        table.layers[layer] = np.asarray(member @ cells.layers[layer], dtype=np.float32)
    table.obsm[_keys.SPATIAL] = centres_um
    return TableModel.parse(table, region=region, region_key=_keys.REGION, instance_key=_keys.INSTANCE_ID)
