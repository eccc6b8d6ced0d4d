"""Open whatever a path holds: a SpatialData store, or a slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pastpy._cell_elements import levels_of
from pastpy._elements import past_attrs, set_mpp
from pastpy._keys import MPP
from pastpy.io._resolution import check_plausible
from pastpy.io._wsi import is_store, read_wsi

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_any"]


def read_any(path: str | Path, *, mpp: float | None = None) -> SpatialData:
    """A SpatialData store, or a slide through :func:`pastpy.io.read_wsi`.

    Parameters
    ----------
    path
        Zarr store of a SpatialData object, or anything that ``read_wsi`` takes.
    mpp
        µm per level-0 pixel. For a slide as in ``read_wsi``; for a store it is noted where one image is all it has
        and no µm/px is stored (functions take ``mpp=`` of their own, which overrides what is stored).

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError
        If it cannot be read.

    Examples
    --------
    >>> from pastpy.io._open import read_any
    >>> read_any("slide.svs")  # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no SpatialData store or slide at {str(path)!r}; check the path")
    if not (path.is_dir() and is_store(path)):
        return read_wsi(path, mpp=mpp)
    sdata = _read_store(path)
    if mpp is not None:
        mpp = check_plausible(mpp, "mpp")
        if len(sdata.images) == 1 and not past_attrs(sdata).get(MPP):
            set_mpp(sdata, next(iter(sdata.images)), mpp)
    return sdata


def _read_store(path: Path) -> SpatialData:
    import spatialdata

    try:
        sdata = spatialdata.read_zarr(path)
        _read_corners(sdata)
        return sdata
    except Exception as error:  # spatialdata's, zarr's, anndata's: no list of their errors would be complete
        raise ValueError(
            f"{path.name} is not a SpatialData store that can be read ({error}); is it complete?"
        ) from error


def _read_corners(sdata: SpatialData) -> None:
    """One pixel of every level: arrays are lazy, and chunks that are not as promised would fail much later."""
    for element in (*sdata.images.values(), *sdata.labels.values()):
        for level in levels_of(element):
            level.isel(y=slice(1), x=slice(1)).compute()
