"""Safe write-back of a table to the Zarr store that backs an object."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pastpy._elements import regions_of
from pastpy.io._store import without_notices

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["check_writable", "write_table"]

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
        If the object is not backed by a store on this machine, or the store lacks the shapes that the table annotates.
    PermissionError
        If the store is read-only.

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
    check_writable(sdata.path)
    _check_annotated(sdata, table_key)
    sidecar = _NEW + table_key
    folder, container = sdata.path / "tables", _format_of(sdata.path)
    _remove(folder / sidecar)
    try:
        _write_as(sdata, table_key, sidecar, container)
        _swap(folder / sidecar, folder / table_key, folder / (_OLD + table_key))
        sdata.write_attrs(container)
    finally:
        _remove(folder / sidecar)
        if sdata.has_consolidated_metadata():
            sdata.write_consolidated_metadata()


def check_writable(path: Path) -> None:
    """Raise ``PermissionError`` if a table cannot be written to a store.

    Raises
    ------
    PermissionError
        If the store is read-only.
    """
    if not all(os.access(folder, os.W_OK) for folder in (path, path / "tables") if folder.exists()):
        raise PermissionError(
            f"the store {str(path)!r} is read-only, so no results can be written to it; pass the object "
            "(spatialdata.read_zarr(path)) or copy=True to have them in memory, or copy the store"
        )


def _check_annotated(sdata: SpatialData, table_key: str) -> None:
    """Refuse a table of elements that are in the object alone: read again, its rows would have no place."""
    stored = {path.split("/")[-1] for path in sdata.elements_paths_on_disk()}
    lacking = [name for name in regions_of(sdata.tables[table_key]) if name in sdata and name not in stored]
    if lacking:
        raise ValueError(
            f"table {table_key!r} annotates {lacking}, which are in the object but not in the store "
            f"{str(sdata.path)!r}; write them first, with sdata.write_element({lacking})"
        )


def _format_of(path: Path) -> Any:
    """SpatialData's format of a store: of zarr 2 or 3. Attributes of the wrong one make it unreadable."""
    import zarr
    from spatialdata._io.format import SpatialDataContainerFormats  # they are named nowhere else

    attrs: dict[str, Any] = zarr.open_group(path, mode="r", use_consolidated=False).attrs.asdict()
    # stores that note no version are older than all that do
    return SpatialDataContainerFormats[attrs.get("spatialdata_attrs", {}).get("version", "0.1")]


def _write_as(sdata: SpatialData, table_key: str, name: str, container: Any) -> None:
    """Write a table under another name; the object's own tables are as before afterwards."""
    with warnings.catch_warnings():
        # A table added under a second name annotates an element that already has one: that is the point.
        warnings.simplefilter("ignore", UserWarning)
        sdata.tables[name] = sdata.tables[table_key]
    try:
        with without_notices():
            sdata.write_element(name, sdata_formats=container)
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
