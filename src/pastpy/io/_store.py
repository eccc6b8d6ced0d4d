"""A whole object on disk, complete or not there."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["write_store"]


def write_store(sdata: SpatialData, path: str | Path) -> None:
    """Write a SpatialData object beside ``path`` first, and move it there when it is complete.

    Parameters
    ----------
    sdata
        The object; it may be backed by another store.
    path
        Zarr store to write.

    Raises
    ------
    FileExistsError
        If there is something at ``path``.

    Examples
    --------
    >>> import pastpy as past
    >>> past.io.write_store(past.datasets.breast_st(), "breast.zarr")  # doctest: +SKIP
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{str(path)!r} exists; choose another path or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    try:
        with warnings.catch_warnings():
            # a notice from anndata to its own callers, once an array
            warnings.filterwarnings("ignore", message="zarr v3 autosharding")
            sdata.write(unfinished)
        unfinished.rename(path)
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished)
