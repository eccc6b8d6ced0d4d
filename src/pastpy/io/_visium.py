"""Reader of Visium outputs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import check_mpp
from pastpy._provenance import record
from pastpy.io._bundle import annotate, bundle_folder, element_name, opened_by, require_files
from pastpy.io._spaceranger import add_images, hires_size, into_global, open_fullres, pitch_mpp, read_scalefactors

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_visium"]

#: Diameter in µm of the area of a spot that captures RNA.
SPOT_UM = 55.0
_COUNTS = "filtered_feature_bc_matrix.h5"


def read_visium(
    path: str | Path,
    *,
    fullres_image_file: str | Path | None = None,
    mpp: float | None = None,
    image_key: str = _keys.IMAGE,
    **kw: Any,
) -> SpatialData:
    """Read a Visium output of Space Ranger.

    The folder is read by :func:`spatialdata_io.visium`. µm/px follows from the 100 µm between neighbouring spots and
    is checked by ``spot_diameter_fullres`` (which Space Ranger states for 65 µm); circles are given the 55 µm that
    capture RNA.

    Parameters
    ----------
    path
        Output folder (``outs``).
    fullres_image_file
        The image that Space Ranger was given, anything :func:`read_wsi` takes.
    mpp
        µm per full-resolution pixel, to check the spots' distance by, in place of what the image file states.
    image_key
        Name of the full-resolution image.
    **kw
        Passed to :func:`spatialdata_io.visium`.

    Returns
    -------
    SpatialData
        ``tables["spots"]`` with ``obsm["spatial"]`` (n_spots, 2) in µm from the image's top-left corner,
        ``shapes["spot_circles"]`` in full-resolution pixels, which is what ``global`` is; ``images[image_key]``, a lazy
        multiscale image, and Space Ranger's small pictures, noted so that defaults skip them (without a full-resolution
        image the ``hires`` one is used, with a warning); ``attrs["past"]["mpp"]`` for each.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged, the spots do not form Visium's grid, or the image is not the one the data were aligned to.

    References
    ----------
    Ståhl et al., Science 353:78–82 (2016), https://doi.org/10.1126/science.aaf2403

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.io.read_visium("outs", fullres_image_file="slide.tif")  # doctest: +SKIP
    """
    from spatialdata_io import visium

    folder = bundle_folder(path, "Visium output")
    counts = str(kw.pop("counts_file", _COUNTS))
    scale_file = folder / kw.get("scalefactors_file", "spatial/scalefactors_json.json")
    found = [file.name for file in sorted(folder.glob(f"*{counts}"))]
    require_files(folder, "Visium output", [counts if not found else found[0], str(scale_file.relative_to(folder))])
    factors = read_scalefactors(scale_file, ("spot_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef"))
    prefix = str(kw.pop("dataset_id", found[0].removesuffix(counts).rstrip("_") or element_name(folder)))
    with opened_by(f"Visium output {folder.name}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting `region_key")  # spatialdata-io's own column
        sdata = visium(folder, dataset_id=prefix, counts_file=counts, **kw)
    into_global(sdata, prefix)
    table = sdata.tables["table"]
    with opened_by(f"Visium output {folder.name}: its tissue positions"):
        pixels = np.asarray(table.obsm[_keys.SPATIAL], dtype=float)
        array = table.obs[["array_col", "array_row"]].to_numpy(dtype=float)
    if not (np.isfinite(pixels).all() and np.isfinite(array).all()):
        raise ValueError(f"Visium output {folder.name}: spots of the counts are missing from the tissue positions")
    mpp_data = check_mpp(
        pitch_mpp(
            array,
            pixels,
            diameter_px=factors["spot_diameter_fullres"],
            name=f"Visium output {folder.name}",
        ),
        f"Visium output {folder.name}: µm/px",
    )
    slide = None
    if fullres_image_file is not None:
        slide = open_fullres(
            Path(fullres_image_file),
            mpp=mpp_data,
            given=mpp,
            hires=hires_size(sdata, prefix),
            hires_scale=factors["tissue_hires_scalef"],
        )
    _name_spots(sdata, prefix, pixels, mpp_data)
    add_images(sdata, slide, image_key, prefix=prefix, mpp=mpp_data, factors=factors)
    record(sdata.tables[_keys.SPOTS], "read_visium", {"mpp": mpp_data, "spot_diameter_um": SPOT_UM})
    return sdata


def _name_spots(sdata: SpatialData, prefix: str, pixels: np.ndarray, mpp: float) -> None:
    """Give spots and their table the names they have in :func:`pastpy.io.read_st`, positions in µm, and 55 µm."""
    circles, table = sdata.shapes[prefix], sdata.tables["table"]
    del sdata.shapes[prefix], sdata.tables["table"]
    circles["radius"] = SPOT_UM / 2 / mpp
    sdata.shapes[_keys.SPOT_SHAPES] = circles
    table.obsm[_keys.SPATIAL] = pixels * mpp
    annotate(sdata, _keys.SPOTS, _keys.SPOT_SHAPES, "spot_id", table=table)
