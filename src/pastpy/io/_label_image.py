"""Label images as shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._cell_elements import finest, planar_transformations
from pastpy._elements import check_mpp, image_levels, require_spatialdata, resolve_image, resolve_mpp
from pastpy.io._cells import add_cells, check_names
from pastpy.io._damaged import DAMAGED
from pastpy.io._label_polygons import label_polygons

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_labels"]


def read_labels(
    sdata: SpatialData,
    labels: str | Path | np.ndarray,
    *,
    image_key: str | None = None,
    key_added: str = _keys.NUCLEI,
    table_key_added: str | None = _keys.CELLS,
    labels_mpp: float | None = None,
    mpp: float | None = None,
) -> None:
    """Turn a label image into shapes and a cell table, so that ``tl`` functions can use a segmentation made elsewhere.

    Outlines follow the sides of the pixels, so areas are those of the label image; an object in pieces keeps them all.

    Parameters
    ----------
    sdata
        Object with the H&E.
    labels
        Name of a labels element of ``sdata``, which lies where its transformations say; or an array (y, x), of NumPy,
        Dask or xarray, of non-negative integers, or a TIFF, PNG or ``.npy`` file of one, over the whole image. 0 is
        background.
    image_key
        H&E that the labels belong to; default: the only image that pastpy did not write.
    key_added, table_key_added
        Names of the shapes and of the table; ``table_key_added=None`` adds no table.
    labels_mpp
        µm per pixel of an array or file whose resolution is not that of the image; both start at the same corner.
    mpp
        µm per level-0 pixel of the H&E; default: what its reader stored.

    Returns
    -------
    None
        Adds ``shapes[key_added]``, polygons with the labels as index, in pixels of the label image with its
        transformation to every coordinate system; and ``tables[table_key_added]`` without genes, with
        ``obs["cell_id"]``, ``obs["area_um2"]`` and ``obsm["spatial"]`` (n, 2) in µm.

    Raises
    ------
    KeyError
        If there is no such labels element or image.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the labels are no labels, are empty, or do not fit the image; or µm/px is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> labels = np.zeros([sdata.images["he"].sizes[a] for a in "yx"], dtype=int)
    >>> labels[10:20, 30:50] = 7
    >>> past.io.read_labels(sdata, labels)
    >>> sdata.tables["cells"].obs["cell_id"].tolist()
    [7]
    """
    import geopandas as gpd
    from spatialdata.models import ShapesModel

    image_key = resolve_image(require_spatialdata(sdata), image_key)
    mpp = resolve_mpp(sdata, image_key, mpp)
    check_names(sdata, key_added, table_key_added)
    if isinstance(labels, str) and labels in sdata.labels:
        if labels_mpp is not None:
            raise ValueError(
                f"labels {labels!r} lie where their transformations say; labels_mpp= is for arrays and files"
            )
        element = sdata.labels[labels]
        name, array, places = f"labels {labels!r}", _element_array(element), planar_transformations(element)
    else:
        name, array = _load(labels, sdata)
        places = _places(sdata, image_key, array.shape, name, mpp=mpp, labels_mpp=labels_mpp)
    ids, polygons = label_polygons(_checked(array, name))
    if not len(ids):
        raise ValueError(f"{name} has no object: every pixel is 0")
    shapes = ShapesModel.parse(gpd.GeoDataFrame(geometry=polygons, index=ids), transformations=places)
    add_cells(
        sdata, shapes, image_key=image_key, mpp=mpp, key_added=key_added, table_key_added=table_key_added, source=name
    )


def _element_array(element: Any) -> np.ndarray:
    return np.asarray(finest(element).transpose("y", "x").data)


def _load(labels: str | Path | np.ndarray, sdata: SpatialData) -> tuple[str, np.ndarray]:
    """Name for messages, and the array."""
    if not isinstance(labels, str | Path):
        return "the label array", np.asarray(labels)
    path = Path(labels)
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(labels)!r} is neither a file nor labels of this object ({list(sdata.labels) or 'none'})"
        )
    name = f"label image {path.name}"
    try:
        if path.suffix.lower() == ".npy":
            return name, np.load(path, allow_pickle=False)
        if path.suffix.lower() in {".tif", ".tiff"}:
            import tifffile

            return name, tifffile.imread(path)
        from PIL import Image

        with Image.open(path) as image:
            return name, np.asarray(image)
    except DAMAGED as error:
        raise ValueError(f"{name} cannot be read ({error}); expected TIFF, PNG or .npy") from error


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}; expected integers (y, x)")
    if array.min() < 0:
        raise ValueError(f"{name} has negative values; labels are positive and 0 is background")
    if array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} has labels up to {array.max()}, beyond 64-bit integers with a sign; renumber them")
    return array


def _places(
    sdata: SpatialData,
    image_key: str,
    shape: tuple[int, ...],
    name: str,
    *,
    mpp: float,
    labels_mpp: float | None,
) -> dict[str, Any]:
    """Transformations of an array that starts at the image's corner."""
    from spatialdata.transformations import Scale, Sequence

    places = planar_transformations(sdata.images[image_key])
    sizes = image_levels(sdata, image_key)[0].sizes
    ratio = 1.0 if labels_mpp is None else check_mpp(labels_mpp, "labels_mpp") / mpp
    covered = [n * ratio for n in shape]
    # a pixel of the coarser of the two is what rounding costs
    slack = max(1.0, ratio) * (0 if labels_mpp is None else 1)
    if len(shape) == 2 and any(abs(c - sizes[a]) > slack for c, a in zip(covered, "yx", strict=True)):
        raise ValueError(
            f"{name} of {shape[1]}×{shape[0]} px does not cover image {image_key!r} of {sizes['x']}×{sizes['y']} px; "
            "pass labels_mpp= (µm per pixel of the labels) if its resolution is another"
        )
    if ratio == 1.0:
        return places
    return {system: Sequence([Scale([ratio, ratio], axes=("x", "y")), t]) for system, t in places.items()}
