"""Safe write-back of a table to the Zarr store that backs an object."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["write_table"]

_NEW = "past-new-"
_OLD = "past-old-"


def write_table(sdata: SpatialData, table_key: str) -> None:
    """Write a table of a backed object to its store, replacing the one there, or leaving it intact on failure.

    The table is written in full beside the old one, then the two folders change names; so the store always holds a
    whole table, even if writing stops half-way. ``sdata.attrs`` (µm/px among them) are written too.

    Parameters
    ----------
    sdata
        Object backed by a Zarr store on this machine (``sdata.write(path)`` or ``spatialdata.read_zarr(path)``).
    table_key
        Name of the table.

    Raises
    ------
    KeyError
        If there is no such table.
    ValueError
        If the object is not backed by a store on this machine.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> sdata.write("sample.zarr")  # doctest: +SKIP
    >>> sdata.tables["spots"].obs["checked"] = True
    >>> past.io.write_table(sdata, "spots")  # doctest: +SKIP
    """
    if table_key not in sdata.tables:
        raise KeyError(f"no table named {table_key!r}; this object has {list(sdata.tables) or 'none'}")
    if not isinstance(sdata.path, Path):
        raise ValueError(
            f"the object is not backed by a store on this machine (path: {sdata.path}); save it once with "
            "sdata.write(path)"
        )
    sidecar = _NEW + table_key
    folder = sdata.path / "tables"
    _remove(folder / sidecar)
    try:
        _write_as(sdata, table_key, sidecar)
        _swap(folder / sidecar, folder / table_key, folder / (_OLD + table_key))
    finally:
        _remove(folder / sidecar)
        if sdata.has_consolidated_metadata():
            sdata.write_consolidated_metadata()
    sdata.write_attrs()


def _write_as(sdata: SpatialData, table_key: str, name: str) -> None:
    """Write a table under another name; the object's own tables are as before afterwards."""
    with warnings.catch_warnings():
        # A table added under a second name annotates an element that already has one: that is the point.
        warnings.simplefilter("ignore", UserWarning)
        sdata.tables[name] = sdata.tables[table_key]
    try:
        sdata.write_element(name)
    finally:
        del sdata.tables[name]


def _swap(new: Path, target: Path, aside: Path) -> None:
    """Put ``new`` in the place of ``target``; if that fails, ``target`` is put back."""
    _remove(aside)
    if not target.exists():
        new.rename(target)
        return
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
