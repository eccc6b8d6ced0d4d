"""Reader of Visium HD outputs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import check_mpp
from pastpy._provenance import record
from pastpy.io._bundle import bundle_folder, element_name, opened_by
from pastpy.io._spaceranger import add_images, hires_size, into_global, open_fullres, read_scalefactors

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_visium_hd"]

_SLICE = "feature_slice.h5"
#: A name that no file has: keeps spatialdata-io from decoding the full-resolution image, which is read lazily here.
_NO_IMAGE = ".no-image"


def read_visium_hd(
    path: str | Path,
    *,
    fullres_image_file: str | Path | None = None,
    mpp: float | None = None,
    image_key: str = _keys.IMAGE,
    **kw: Any,
) -> SpatialData:
    """Read a Visium HD output of Space Ranger: bins of each size, and segmented cells where there are any.

    The folder is read by :func:`spatialdata_io.visium_hd`; µm/px is the ``microns_per_pixel`` of its scale factors.

    Parameters
    ----------
    path
        Output folder (``outs``).
    fullres_image_file
        The image that Space Ranger was given, anything :func:`read_wsi` takes; default: the only file in the folder's
        ``microscope_image``, or ``*tissue_image.*`` in the folder.
    mpp
        µm per full-resolution pixel, to check the scale factors by, in place of what the image file states.
    image_key
        Name of the full-resolution image.
    **kw
        Passed to :func:`spatialdata_io.visium_hd`; ``bin_size=8`` reads one size only, which is far quicker than all.

    Returns
    -------
    SpatialData
        ``tables["square_008um"]`` and so on, each annotating squares ``shapes["<id>_square_008um"]``, and
        ``tables["cell_segmentations"]`` annotating polygons ``shapes["<id>_cell_segmentations"]``;
        ``obsm["spatial"]`` in µm from the image's top-left corner; images and ``attrs`` as in :func:`read_visium`.
        ``global`` is full-resolution pixels.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged, or the image is not the one that the data were aligned to.

    References
    ----------
    Oliveira et al., Nat Genet 57:1512–1523 (2025), https://doi.org/10.1038/s41588-025-02193-3

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.io.read_visium_hd("outs", bin_size=8, fullres_image_file="slide.btf")  # doctest: +SKIP
    """
    from spatialdata_io import visium_hd

    folder = bundle_folder(path, "Visium HD output")
    prefix = str(kw.pop("dataset_id", _dataset_id(folder)))
    factors, mpp_data = _resolution(folder)
    image = _find_image(folder, fullres_image_file)
    options = {"load_segmentations_only": False, **kw}
    with opened_by(f"Visium HD output {folder.name}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{_NO_IMAGE}.* does not exist")
        sdata = visium_hd(folder, dataset_id=prefix, fullres_image_file=folder / _NO_IMAGE, **options)
    into_global(sdata, prefix)
    slide = None
    if image is not None:
        hires = hires_size(sdata, prefix)
        slide = open_fullres(image, mpp=mpp_data, given=mpp, hires=hires, hires_scale=factors["tissue_hires_scalef"])
    add_images(sdata, slide, image_key, prefix=prefix, mpp=mpp_data, factors=factors)
    _into_um(sdata, mpp_data)
    return sdata


def _dataset_id(folder: Path) -> str:
    """What the files' names begin with, else the folder's name."""
    found = sorted(folder.glob(f"*{_SLICE}"))
    if len(found) != 1:
        raise FileNotFoundError(f"Visium HD output {folder.name} has {len(found)} files *{_SLICE}, expected one")
    return found[0].name.removesuffix(_SLICE).rstrip("_") or element_name(folder)


def _resolution(folder: Path) -> tuple[dict[str, float], float]:
    """Scale factors and µm per full-resolution pixel, the same in every part of the output."""
    files = sorted(folder.rglob("*scalefactors_json.json"))
    if not files:
        raise FileNotFoundError(f"Visium HD output {folder.name} lacks scalefactors_json.json; copy the whole folder")
    needed = ("microns_per_pixel", "tissue_hires_scalef", "tissue_lowres_scalef")
    each = [read_scalefactors(file, needed) for file in files]
    stated = {float(f["microns_per_pixel"]) for f in each}
    if max(stated) > min(stated) * 1.001:
        raise ValueError(f"Visium HD output {folder.name}: its scale factors state several µm/px, {sorted(stated)}")
    return each[0], check_mpp(min(stated), f"Visium HD output {folder.name}: 'microns_per_pixel'")


def _find_image(folder: Path, given: str | Path | None) -> Path | None:
    if given is not None:
        return Path(given)
    place = folder / "microscope_image"
    found = [f for f in sorted(place.iterdir()) if f.is_file()] if place.is_dir() else []
    found = found or sorted(f for f in folder.glob("*tissue_image.*") if f.is_file())
    if len(found) > 1:
        raise ValueError(
            f"Visium HD output {folder.name} has several images, {[f.name for f in found]}: pass fullres_image_file="
        )
    return found[0] if found else None


def _into_um(sdata: SpatialData, mpp: float) -> None:
    """µm from the image's corner into each table: centres of bins are known, those of cells are their polygons'."""
    import shapely
    from spatialdata.models import TableModel

    for name, table in sdata.tables.items():
        region = table.uns[TableModel.ATTRS_KEY][TableModel.REGION_KEY]
        if _keys.SPATIAL in table.obsm:
            table.obsm[_keys.SPATIAL] = np.asarray(table.obsm[_keys.SPATIAL], dtype=float) * mpp
        elif isinstance(region, str) and region in sdata.shapes:
            shapes = sdata.shapes[region]
            ids = table.obs[table.uns[TableModel.ATTRS_KEY][TableModel.INSTANCE_KEY]]
            centre = shapely.centroid(shapes.geometry.loc[ids].to_numpy())
            table.obsm[_keys.SPATIAL] = np.column_stack([shapely.get_x(centre), shapely.get_y(centre)]) * mpp
        record(table, "read_visium_hd", {"mpp": mpp, "table": name})
