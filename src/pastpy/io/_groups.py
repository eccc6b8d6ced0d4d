"""What exports for viewers need of a table: ids, a column, and its colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pastpy import _keys

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import Series

__all__ = ["cell_ids", "obs_column", "palette"]


def cell_ids(table: AnnData) -> Series:
    """``obs["cell_id"]`` where there is one, else the table's index, as text; whole numbers without a fraction.

    Raises
    ------
    ValueError
        If a cell has no id.
    """
    ids = table.obs[_keys.INSTANCE_ID] if _keys.INSTANCE_ID in table.obs else table.obs_names.to_series()
    if ids.isna().any():
        raise ValueError(f"{int(ids.isna().sum())} of {len(ids)} rows have no id in obs[{_keys.INSTANCE_ID!r}]")
    if ids.dtype.kind == "f" and (ids == ids.round()).all():
        ids = ids.astype("int64")
    return ids.astype(str)


def obs_column(table: AnnData, name: str) -> Series:
    """A column of ``obs``, or a ``KeyError`` that names those that are there."""
    if name not in table.obs:
        raise KeyError(f"no obs column {name!r}; this table has {list(table.obs.columns)}")
    return table.obs[name]


def palette(table: AnnData, name: str) -> dict[str, str]:
    """Colour of each category of a column where scanpy's ``uns[f"{name}_colors"]`` has them, else nothing."""
    import pandas as pd

    colours, column = table.uns.get(f"{name}_colors"), table.obs[name]
    if isinstance(colours, Mapping):
        return {str(group): str(colour) for group, colour in colours.items()}
    if colours is None or not isinstance(column.dtype, pd.CategoricalDtype):
        return {}
    return {str(group): colour for group, colour in zip(column.cat.categories, colours, strict=False)}
