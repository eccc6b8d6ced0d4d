"""A whole object on disk, complete or not there."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["without_notices", "write_store"]


@contextmanager
def without_notices() -> Iterator[None]:
    """Write without anndata's notice to its own callers, once an array, of what its next version will do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        yield


def write_store(sdata: SpatialData, path: str | Path) -> None:
    """Write a SpatialData object beside ``path`` first, and move it there when it is complete.

    The object is then backed by that store, as after ``sdata.write(path)``; if writing fails, by what it was before.

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
    before = sdata.path
    try:
        with without_notices():
            sdata.write(unfinished)
        unfinished.rename(path)
        sdata.path = path
    except BaseException:
        sdata.path = before
        raise
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished)
