"""Users' own outlines as elements: checked, placed on an image, with a table where one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy._cell_elements import cell_table
from pastpy._elements import image_levels, level0_affine, transform_shapes
from pastpy._names import check_distinct, check_new

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["add_cells", "check_names", "check_on_image", "replace_file"]


def check_names(sdata: SpatialData, key_added: str, table_key_added: str | None = None) -> None:
    """Refuse names that are taken, the same, or that SpatialData would refuse after the work.

    Raises
    ------
    ValueError
        Naming the first such name.
    """
    check_new(sdata, key_added, "key_added")
    if table_key_added is not None:
        check_new(sdata, table_key_added, "table_key_added")
        check_distinct(key_added=key_added, table_key_added=table_key_added)


def add_cells(
    sdata: SpatialData,
    shapes: GeoDataFrame,
    *,
    image_key: str,
    mpp: float,
    key_added: str,
    table_key_added: str | None,
    obs: DataFrame | None = None,
    source: str,
) -> None:
    """Add outlines to an object and, if named, a table without genes that annotates them.

    Parameters
    ----------
    sdata
        The object.
    shapes
        Polygons with their transformations, index = ids.
    image_key
        Image that they lie on.
    mpp
        µm per level-0 pixel of it.
    key_added, table_key_added
        Names of the elements; ``None``: no table.
    obs
        Further columns of the table, a row a shape.
    source
        What messages call the outlines.

    Raises
    ------
    ValueError
        If none of the outlines lies on the image.
    """
    affine = level0_affine(sdata, shapes, image_key, name=source)
    geometry, _, centroids = transform_shapes(shapes, affine)
    check_on_image(sdata, image_key, centroids, source)
    table = None
    if table_key_added is not None:
        ids = shapes.index.to_numpy()
        table = cell_table(ids, geometry, centroids, mpp=mpp, region=key_added, obs=obs)
    sdata.shapes[key_added] = shapes
    if table is not None:
        sdata.tables[table_key_added] = table


def check_on_image(
    sdata: SpatialData, image_key: str, centroids: np.ndarray, source: str, *, what: str = "outlines", hint: str = ""
) -> None:
    """Refuse centroids (n, 2), level-0 pixels, none of which lies on the image; ``hint`` ends the message.

    Raises
    ------
    ValueError
        Saying where they lie.
    """
    sizes = image_levels(sdata, image_key)[0].sizes
    inside = ((centroids >= 0) & (centroids <= [sizes["x"], sizes["y"]])).all(axis=1)
    if len(centroids) and not inside.any():
        placed = centroids[np.isfinite(centroids).all(axis=1)]
        if not len(placed):
            raise ValueError(f"{source}: none of the {len(centroids)} {what} has a place")
        low, high = placed.min(axis=0), placed.max(axis=0)
        raise ValueError(
            f"{source}: none of the {len(centroids)} {what} lies on image {image_key!r} "
            f"({sizes['x']}×{sizes['y']} px); in its pixels "
            f"they reach from ({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f}){hint}"
        )


def replace_file(path: Path, text: Any) -> None:
    """Write lines to a file beside ``path`` and move it there when all are written; on failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            file.writelines(text)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
