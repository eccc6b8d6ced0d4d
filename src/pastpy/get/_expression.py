"""Predicted expression as an AnnData of its own."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._elements import expression_frame, table_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

__all__ = ["expression"]

# what scanpy, squidpy and spatialdata look for beside X; everything else in uns belongs to the table's own X
_CARRIED_UNS = (_keys.PAST, "spatial_neighbors", "spatialdata_attrs")


def expression(data: SpatialData | AnnData, key: str = "past_expression", *, table_key: str | None = None) -> AnnData:
    """Predicted expression as an AnnData, for scanpy and squidpy.

    Parameters
    ----------
    data
        SpatialData with a table, or the table itself.
    key
        Name of the ``obsm`` DataFrame.
    table_key
        Name of the table; by default ``cells``, else the only one. Not used where ``data`` is a table.

    Returns
    -------
    anndata.AnnData
        ``X`` float32 (n_cells, n_genes), log1p of counts per ``target_sum``; ``var_names`` the genes; ``obs``,
        ``obsm["spatial"]`` (µm), the neighbour graphs of ``obsp`` and the provenance in ``uns["past"]`` copied from
        the table. Genes that the model has never seen stay, as columns of NaN: drop them with
        ``out[:, ~np.isnan(out.X).all(axis=0)]``.

    Raises
    ------
    KeyError
        If there is no such table or no such ``obsm`` DataFrame; the message names the candidates.

    Examples
    --------
    >>> import numpy as np, pandas as pd, pastpy as past
    >>> from anndata import AnnData
    >>> table = AnnData(np.zeros((2, 0), dtype="float32"))
    >>> table.obsm["past_expression"] = pd.DataFrame({"ERBB2": [0.5, 2.0]}, index=table.obs_names)
    >>> past.get.expression(table).to_df()["ERBB2"].tolist()
    [0.5, 2.0]
    """
    from anndata import AnnData

    table = table_of(data, table_key)
    frame = expression_frame(table, key)
    out = AnnData(np.array(frame, dtype=np.float32), obs=table.obs.copy())
    out.var_names = frame.columns.astype(str)
    if _keys.SPATIAL in table.obsm:
        out.obsm[_keys.SPATIAL] = np.array(table.obsm[_keys.SPATIAL])
    for name, graph in table.obsp.items():
        out.obsp[name] = graph.copy()
    out.uns.update({name: deepcopy(table.uns[name]) for name in _CARRIED_UNS if name in table.uns})
    return out
