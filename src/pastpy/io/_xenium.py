"""Reader of Xenium bundles with their H&E."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy import _keys
from pastpy._elements import check_mpp, record_added, set_mpp
from pastpy._provenance import record
from pastpy.io._bundle import annotate, bundle_folder, opened_by, require_files
from pastpy.io._he import add_he, he_path, open_he
from pastpy.io._slide_tiff import check_complete

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from spatialdata import SpatialData

__all__ = ["MANIFEST", "is_bundle", "read_xenium"]

#: By this file a folder is known as a Xenium bundle.
MANIFEST = "experiment.xenium"
#: What else it holds. A folder with one of these alone may be something else, with a file of that name.
_TELLTALE = ("cell_feature_matrix*", "cells.parquet", "cells.csv.gz", "transcripts.parquet", "morphology*.ome.tif")
#: How 10x names the H&E in a bundle.
_HE_IMAGE_SUFFIX = "he_image.ome.tif"
_ALIGNMENT_SUFFIX = "he_imagealignment.csv"

#: What spatialdata-io reads a part of the bundle from, by the option that asks for it.
_FILES = {
    "cells_table": ("cell_feature_matrix.h5", "cells.parquet"),
    "cells_boundaries": ("cell_boundaries.parquet",),
    "nucleus_boundaries": ("nucleus_boundaries.parquet",),
    "transcripts": ("transcripts.parquet",),
}
#: Shapes that the table can annotate.
_OUTLINES = {"cells": "cell_boundaries", "nuclei": "cell_nuclei"}


def read_xenium(
    path: str | Path,
    *,
    he_image: str | Path | Literal[False] | None = None,
    he_alignment: str | Path | ArrayLike | None = None,
    mpp: float | None = None,
    image_key: str = _keys.IMAGE,
    outlines: Literal["cells", "nuclei"] = "cells",
    **kw: Any,
) -> SpatialData:
    """Read a Xenium output bundle, with the H&E of the section where there is one.

    The bundle is read by :func:`spatialdata_io.xenium`. Cells, transcripts and the H&E meet in ``global``, which is
    pixels of the morphology (DAPI) image: the shapes by a scale of one over its pixel size (they are in µm), the H&E
    by its alignment.

    Parameters
    ----------
    path
        Folder of the bundle.
    he_image
        H&E of the section, anything :func:`read_wsi` takes; default: the bundle's only ``*_he_image.ome.tif``;
        ``False``: none.
    he_alignment
        10x's ``*_he_imagealignment.csv``, a 3×3 affine from H&E pixels to morphology pixels, or this matrix as an
        array; or a keypoint file: separated by commas, semicolons or tabs, a row a pair of points, with the columns
        ``he_x``, ``he_y`` (H&E pixels) and ``dapi_x``, ``dapi_y`` (morphology pixels) or ``x_um``, ``y_um`` (the
        bundle's µm), or Xenium Explorer's ``alignmentX``, ``alignmentY``, ``fixedX``, ``fixedY``. Default: the file
        of the image's name beside it or in the bundle.
    mpp
        µm per level-0 pixel of the H&E, to check the alignment by, in place of what the image file states.
    image_key
        Name of the H&E.
    outlines
        Which shapes the table annotates, and tools therefore look under: ``"cells"``, the bundle's cell boundaries;
        or ``"nuclei"``, which ``past-mini`` was trained on and :func:`pastpy.tl.virtual_stain` expects:
        ``shapes["cell_nuclei"]``, the nucleus of each cell, the largest where it has several. Cells without one then
        have no shape, and get no embedding of their image, of which :func:`pastpy.tl.embed` warns.
    **kw
        Passed to :func:`spatialdata_io.xenium`. Label images and cell circles are not read by default.

    Returns
    -------
    SpatialData
        As :func:`spatialdata_io.xenium` gives it, with the table annotating ``shapes["cell_boundaries"]`` (or
        ``["cell_nuclei"]``) by ``cell_id``, and with an H&E: ``images[image_key]``, a lazy multiscale image;
        ``attrs["past"]["mpp"]``, for the H&E by the alignment; ``obsm["spatial"]`` in µm from the H&E's top-left
        corner; morphology images noted so that defaults skip them. ``table.uns["past"]["read_xenium"]`` has the
        affine, the residual of keypoints in µm and their number.

    Raises
    ------
    FileNotFoundError
        If the bundle lacks a file, or an image or alignment is not there.
    ValueError
        If a file is damaged, the alignment is no affine of an image of the section (singular, stretched, from fewer
        than three points or from points on a line), or its µm/px is more than 10 % off that of the image file.

    References
    ----------
    Janesick et al., Nat Commun 14:8353 (2023), https://doi.org/10.1038/s41467-023-43458-x

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.io.read_xenium(
    ...     "outs", he_image="he.ome.tif", he_alignment="he_imagealignment.csv"
    ... )  # doctest: +SKIP
    """
    from spatialdata_io import xenium

    if outlines not in _OUTLINES:
        raise ValueError(f"outlines={outlines!r} is unknown; use one of {list(_OUTLINES)}")
    folder = bundle_folder(path, "Xenium bundle")
    options = {"cells_labels": False, "nucleus_labels": False, "cells_as_circles": False, "aligned_images": False, **kw}
    pixel_um = _pixel_size(folder)
    wanted = [name for option, names in _FILES.items() if options.get(option, True) for name in names]
    require_files(folder, "Xenium bundle", ["cells.zarr.zip", *wanted])
    for name in (n for n in ("morphology_focus", "morphology_mip") if options.get(n, True)):
        for image in [*folder.glob(f"{name}.ome.tif"), *folder.glob(f"{name}/*.ome.tif")]:
            check_complete(image)
    files = _find_he(folder, he_image, he_alignment)
    he = None if files is None else open_he(*files, pixel_um=pixel_um, mpp=mpp)
    with opened_by(f"Xenium bundle {folder.name}"), warnings.catch_warnings():
        # label images are not read, and the table is made to annotate the outlines below
        warnings.filterwarnings("ignore", message="The table is annotating 'cell_labels'")
        sdata = xenium(folder, **options)
    parameters = {"morphology_mpp": pixel_um}
    if "table" in sdata.tables:
        record(sdata.tables["table"], "read_xenium", parameters)
    if outlines == "nuclei":
        _add_cell_nuclei(sdata, folder)
    if "table" in sdata.tables and _OUTLINES[outlines] in sdata.shapes:
        annotate(sdata, "table", _OUTLINES[outlines], "cell_id")
    for name in [n for n in sdata.images if n.startswith("morphology")]:
        set_mpp(sdata, name, pixel_um)
        record_added(sdata, name)  # those of four channels would pass for RGBA
    if he is not None:
        add_he(
            sdata, he, image_key, pixel_um=pixel_um, table_key="table", function="read_xenium", parameters=parameters
        )  # fmt: skip
    return sdata


def _add_cell_nuclei(sdata: SpatialData, folder: Path) -> None:
    """Add the largest nucleus of each cell, by the cell's id; bundles since 2.0 name several nuclei of a cell."""
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    if "nucleus_boundaries" not in sdata.shapes:
        raise ValueError(
            f"Xenium bundle {folder.name}: outlines='nuclei' needs its nucleus boundaries, which were not read; use "
            "outlines='cells', or past.pp.segment_nuclei"
        )
    nuclei = sdata.shapes["nucleus_boundaries"]
    of_cell = nuclei["cell_id"].to_numpy() if "cell_id" in nuclei else nuclei.index.to_numpy()
    by_area = np.argsort(-nuclei.area.to_numpy(), kind="stable")
    largest = GeoDataFrame(geometry=nuclei.geometry.to_numpy()[by_area], index=of_cell[by_area])
    largest = largest[~largest.index.duplicated()].rename_axis("cell_id")
    sdata.shapes[_OUTLINES["nuclei"]] = ShapesModel.parse(
        largest, transformations=get_transformation(nuclei, get_all=True)
    )


def _pixel_size(folder: Path) -> float:
    """µm per morphology pixel, from the bundle's manifest."""
    require_files(folder, "Xenium bundle", [MANIFEST])
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        size = float(manifest["pixel_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Xenium bundle {folder.name}: {MANIFEST} is damaged or states no 'pixel_size' ({error}); copy it again"
        ) from error
    return check_mpp(size, f"Xenium bundle {folder.name}: 'pixel_size' in {MANIFEST}")


def is_bundle(path: Path) -> bool:
    """Whether a folder is a Xenium bundle, be it not copied whole: the reader says what is missing then."""
    return (path / MANIFEST).is_file() or sum(any(path.glob(name)) for name in _TELLTALE) > 1


def _bundled_he(folder: Path) -> list[Path]:
    """H&E images in the folder of a bundle, sorted."""
    return sorted(folder.glob(f"*{_HE_IMAGE_SUFFIX}"))


def _find_he(
    folder: Path, image: str | Path | Literal[False] | None, alignment: str | Path | ArrayLike | None
) -> tuple[Path, str | Path | ArrayLike] | None:
    """The H&E's file and its alignment, ``None`` for a bundle without."""
    if image is False:
        if alignment is not None:
            raise ValueError("he_alignment= was given, but he_image=False leaves the H&E out; pass one of them only")
        return None
    if image is None:
        found = _bundled_he(folder)
        if len(found) > 1:
            raise ValueError(
                f"Xenium bundle {folder.name} has several H&E images, {[f.name for f in found]}: pass he_image="
            )
        if not found and alignment is not None:
            raise ValueError("he_alignment= was given, but no he_image=, and the bundle has none; pass both")
        if not found:
            return None
        image = found[0]
    image = he_path(image)
    if alignment is not None:
        return image, alignment
    is_bundled = image.name.endswith(_HE_IMAGE_SUFFIX)
    name = image.name.split(".")[0]
    # slide_he_image.ome.tif and slide.tif with slide_he_imagealignment.csv, he.tif with he_imagealignment.csv
    stems = [image.name.removesuffix(_HE_IMAGE_SUFFIX)] if is_bundled else [f"{name}_"]
    if name.endswith("he"):
        stems.append(name.removesuffix("he"))
    candidates = [place / f"{stem}{_ALIGNMENT_SUFFIX}" for place in (image.parent, folder) for stem in stems]
    here = next((file for file in candidates if file.is_file()), None)
    if here is None:
        names = dict.fromkeys(file.name for file in candidates)
        raise ValueError(
            f"H&E {image.name} has no alignment beside it ({' or '.join(names)}); pass he_alignment=, a 3×3 affine "
            "from H&E pixels to morphology pixels, or a keypoint file"
        )
    return image, here
