"""Open whatever a path holds: a SpatialData store, a Xenium bundle, or a slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pastpy._cell_elements import levels_of
from pastpy._elements import check_mpp, past_attrs, set_mpp
from pastpy._keys import MPP
from pastpy.io._wsi import is_store, read_wsi
from pastpy.io._xenium import MANIFEST, is_bundle, read_xenium

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_any"]


def read_any(
    path: str | Path,
    *,
    mpp: float | None = None,
    he_image: str | Path | None = None,
    he_alignment: str | Path | None = None,
) -> SpatialData:
    """A SpatialData store, a Xenium bundle, or a slide through :func:`pastpy.io.read_wsi`.

    Parameters
    ----------
    path
        Zarr store of a SpatialData object, folder of a Xenium bundle, or anything that ``read_wsi`` takes.
    mpp
        µm per level-0 pixel. As in ``read_wsi`` for a slide, and in ``read_xenium`` for a bundle; for a store it is
        noted where one image is all it has and no µm/px is stored (functions take ``mpp=`` of their own, which
        overrides what is stored).
    he_image, he_alignment
        For a Xenium bundle, as in ``read_xenium``.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError
        If it cannot be read, a bundle is not whole, or an H&E is given for what is no bundle.

    Examples
    --------
    >>> from pastpy.io._open import read_any
    >>> read_any("slide.svs")  # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no SpatialData store, Xenium bundle or slide at {str(path)!r}; check the path")
    if path.suffix == ".h5ad":
        raise ValueError(
            f"{str(path)!r} is a table without an image, and what is opened by its path is a SpatialData store, a "
            "Xenium bundle or a slide; in Python, read it with anndata.read_h5ad(path) and pass the AnnData"
        )
    if is_bundle(path):
        return read_xenium(path, mpp=mpp, he_image=he_image, he_alignment=he_alignment)
    if he_image is not None or he_alignment is not None:
        raise ValueError(
            f"he_image= and he_alignment= are for a Xenium bundle, and {str(path)!r} is none: it has no {MANIFEST}"
        )
    if not (path.is_dir() and is_store(path)):
        return read_wsi(path, mpp=mpp)
    sdata = _read_store(path)
    if mpp is not None:
        mpp = check_mpp(mpp, "mpp")
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
