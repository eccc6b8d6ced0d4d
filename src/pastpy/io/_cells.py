"""Users' own outlines as elements: checked, placed on an image, with a table where one is asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import image_levels, level0_affine, transform_shapes

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["add_cells", "check_names", "planar_transformations", "replace_file"]


def check_names(sdata: SpatialData, *names: str) -> None:
    """Refuse names that are taken, the same, or that SpatialData would refuse after the work.

    Raises
    ------
    ValueError
        Naming the first such name.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"two elements cannot both be named {names[0]!r}")
    for name in names:
        if not re.fullmatch(r"(?!__)[\w.-]+", name) or name in {".", ".."}:
            raise ValueError(f"{name!r} is no element name; use letters, digits, '_', '-' and '.'")
        if name in sdata:
            raise ValueError(f"this object already has an element {name!r}; choose another name, or delete it first")


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
    _check_on_image(sdata, image_key, centroids, source)
    table = None
    if table_key_added is not None:
        table = _table(shapes, geometry, centroids, obs, mpp=mpp, region=key_added)
    sdata.shapes[key_added] = shapes
    if table is not None:
        sdata.tables[table_key_added] = table


def _check_on_image(sdata: SpatialData, image_key: str, centroids: np.ndarray, source: str) -> None:
    sizes = image_levels(sdata, image_key)[0].sizes
    inside = ((centroids >= 0) & (centroids <= [sizes["x"], sizes["y"]])).all(axis=1)
    if not inside.any():
        low, high = centroids.min(axis=0), centroids.max(axis=0)
        raise ValueError(
            f"{source}: none of the {len(centroids)} outlines lies on image {image_key!r} "
            f"({sizes['x']}×{sizes['y']} px); in its pixels "
            f"they reach from ({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f})"
        )


def _table(
    shapes: GeoDataFrame, geometry: np.ndarray, centroids: np.ndarray, obs: DataFrame | None, *, mpp: float, region: str
) -> Any:
    import pandas as pd
    import shapely
    from anndata import AnnData
    from spatialdata.models import TableModel

    columns = pd.DataFrame(
        {
            _keys.REGION: pd.Categorical([region] * len(shapes)),
            _keys.INSTANCE_ID: shapes.index.to_numpy(),
            _keys.AREA_UM2: shapely.area(geometry) * mpp**2,
        },
        index=shapes.index.astype(str).astype(object),
    )
    if obs is not None:
        columns = columns.assign(**{name: obs[name].array for name in obs.columns if name not in columns})
    table = AnnData(X=np.zeros((len(shapes), 0), dtype=np.float32), obs=columns)
    table.obsm[_keys.SPATIAL] = centroids * mpp
    return TableModel.parse(table, region=region, region_key=_keys.REGION, instance_key=_keys.INSTANCE_ID)


def planar_transformations(element: Any) -> dict[str, Any]:
    """An element's transformations to every coordinate system, for x and y only: shapes have no channels."""
    from spatialdata import get_pyramid_levels
    from spatialdata.transformations import Affine, Identity, get_transformation
    from xarray import DataTree

    if isinstance(element, DataTree):
        element = next(iter(get_pyramid_levels(element)))
    axes = ("x", "y")
    planar: dict[str, Any] = {}
    for system, transformation in get_transformation(element, get_all=True).items():
        matrix = transformation.to_affine_matrix(input_axes=axes, output_axes=axes)
        same = np.array_equal(matrix, np.eye(3))
        planar[system] = Identity() if same else Affine(matrix, input_axes=axes, output_axes=axes)
    return planar


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
