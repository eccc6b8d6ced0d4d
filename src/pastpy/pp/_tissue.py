"""Tissue of a slide as polygons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy._cell_elements import planar_transformations
from pastpy._elements import image_levels, require_spatialdata, resolve_image, resolve_mpp
from pastpy._names import check_new
from pastpy.pp._overview import Overview, read_overview
from pastpy.pp._tissue_mask import TissueMaskParameters, tissue_mask

if TYPE_CHECKING:
    from pandas import DataFrame
    from spatialdata import SpatialData

    from pastpy.engine import Workers

__all__ = ["find_tissue", "tissue_overview"]


def find_tissue(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    key_added: str = "tissue",
    mpp: float | None = None,
    parameters: TissueMaskParameters | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> DataFrame | None:
    """Outline the tissue of an H&E slide, without glass, pen marks and black background.

    Works at some 8 µm/px, read from the nearest finer pyramid level. The level of glass is that of bright, nearly grey
    and smooth pixels, down to 170 of 255. Ink (blue, green, red, orange, yellow, black; not purple, pink and brown) and
    black background are told by their optical density; of the rest, tissue is what is denser than half of Otsu's
    threshold, kept within limits that faint shadows and slides without glass need.

    Parameters
    ----------
    sdata
        Object with an H&E image, (c, y, x), RGB or RGBA; may be lazy.
    image_key
        Name of the image; default: the only one that pastpy did not write.
    key_added
        Name of the shapes.
    mpp
        µm per level-0 pixel; default: what the reader stored.
    parameters
        Resolution, limits of area, threshold.
    overwrite
        Replace shapes of that name.
    copy
        Return the table of pieces instead of writing shapes.

    Returns
    -------
    None; writes ``sdata.shapes[key_added]``: a polygon with holes a piece of tissue (a core of a tissue microarray,
    say) in level-0 pixels, from top to bottom, with the image's own transformations and the columns ``area_mm2``,
    ``x_um`` and ``y_um`` (centroid, µm from the image's top-left corner). With ``copy=True`` a DataFrame with these
    columns, one row a piece. An image without tissue gives no row, and with ``copy=False`` an error, as SpatialData
    holds no empty shapes.

    Raises
    ------
    KeyError
        If the image cannot be told.
    ValueError
        If µm/px is unknown, the image is not RGB, the name is taken or not allowed, or there is no tissue to write.

    References
    ----------
    Otsu, IEEE Trans Syst Man Cybern 9:62–66 (1979), https://doi.org/10.1109/TSMC.1979.4310076

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.pp.find_tissue(sdata)
    >>> sdata["tissue"].columns.tolist()
    ['geometry', 'area_mm2', 'x_um', 'y_um']
    """
    sdata = require_spatialdata(sdata)
    parameters = parameters or TissueMaskParameters()
    image_key = resolve_image(sdata, image_key)
    mpp = resolve_mpp(sdata, image_key, mpp)
    if not copy:
        check_new(sdata, key_added, "key_added", replaces=sdata.shapes, overwrite=overwrite)
    overview, mask = tissue_overview(sdata, image_key, mpp, parameters)
    polygons = mask_polygons(mask)
    pieces = _pieces(polygons, overview.mpp)
    if copy:
        return pieces
    if not len(polygons):
        raise ValueError(
            f"no tissue found on image {image_key!r}; check that it is H&E with its channels in the order red, green, "
            f"blue, that mpp={mpp:g} µm/px is right, and the parameters (min_area_mm2={parameters.min_area_mm2:g})"
        )
    _write(sdata, key_added, _to_level0(polygons, overview.mpp / mpp), pieces, image_key)
    return None


def tissue_overview(
    sdata: SpatialData,
    image_key: str,
    mpp: float,
    parameters: TissueMaskParameters,
    workers: Workers | None = None,
) -> tuple[Overview, np.ndarray]:
    """Overview of an image and its tissue mask; workers of a Dask cluster read a large image."""
    overview = read_overview(
        image_levels(sdata, image_key), mpp=mpp, target_mpp=parameters.target_mpp, name=image_key, workers=workers
    )
    return overview, tissue_mask(overview.rgb, overview.mpp, parameters)


def mask_polygons(mask: np.ndarray) -> np.ndarray:
    """Polygons with holes around the connected parts of a mask: object (n,), pixels, (0, 0) = top-left corner.

    Examples
    --------
    >>> mask = np.zeros((6, 6), dtype=bool)
    >>> mask[1:5, 1:5] = True
    >>> mask_polygons(mask)[0].centroid.wkt
    'POINT (3 3)'
    """
    import shapely
    from contourpy import FillType, contour_generator

    padded = np.pad(mask, 1).astype(np.float32)
    # a pixel's centre lies at index + 0.5, less one for the padding
    at_x, at_y = np.arange(padded.shape[1]) - 0.5, np.arange(padded.shape[0]) - 0.5
    filled: Any = contour_generator(at_x, at_y, padded, fill_type=FillType.OuterOffset).filled(0.5, 2.0)
    polygons = []
    for xy, offset in zip(*filled, strict=True):
        rings = [xy[a:b] for a, b in zip(offset[:-1], offset[1:], strict=True)]
        polygons.append(shapely.make_valid(shapely.Polygon(rings[0], rings[1:])))
    parts = shapely.get_parts(np.array(polygons, dtype=object)) if polygons else np.empty(0, dtype=object)
    parts = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return parts[np.lexsort((shapely.bounds(parts)[:, 0], shapely.bounds(parts)[:, 1]))]


def _pieces(polygons: np.ndarray, mpp: float) -> DataFrame:
    import pandas as pd
    import shapely

    centre = shapely.get_coordinates(shapely.centroid(polygons)).reshape(-1, 2) * mpp
    area = shapely.area(polygons) * (mpp / 1000) ** 2
    index = pd.RangeIndex(1, len(polygons) + 1, name="piece")
    return pd.DataFrame({"area_mm2": area, "x_um": centre[:, 0], "y_um": centre[:, 1]}, index=index)


def _to_level0(polygons: np.ndarray, scale: float) -> np.ndarray:
    import shapely

    return shapely.transform(polygons, lambda xy: xy * scale)


def _write(sdata: SpatialData, name: str, polygons: np.ndarray, pieces: DataFrame, image_key: str) -> None:
    import geopandas as gpd
    from spatialdata.models import ShapesModel

    frame = gpd.GeoDataFrame({"geometry": polygons, **{c: pieces[c].to_numpy() for c in pieces}}, index=pieces.index)
    shapes = ShapesModel.parse(frame, transformations=planar_transformations(sdata.images[image_key]))
    if name in sdata.shapes:
        del sdata.shapes[name]
    sdata.shapes[name] = shapes
