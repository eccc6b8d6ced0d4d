"""Cells as elements: where their outlines lie, and the table without genes that annotates them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame
    from xarray import DataArray

__all__ = ["cell_table", "finest", "levels_of", "planar_transformations"]


def levels_of(element: Any) -> list[DataArray]:
    """The pyramid levels of an image or labels as they are stored, level 0 first; one without a pyramid is its own."""
    from spatialdata import get_pyramid_levels
    from xarray import DataTree

    return list(get_pyramid_levels(element)) if isinstance(element, DataTree) else [element]


def finest(element: Any) -> DataArray:
    """The image or labels themselves, or level 0 of their pyramid."""
    return levels_of(element)[0]


def planar_transformations(element: Any) -> dict[str, Any]:
    """An element's transformations to every coordinate system, for x and y only: shapes have no channels."""
    from spatialdata.transformations import Affine, Identity, get_transformation

    axes = ("x", "y")
    planar: dict[str, Any] = {}
    for system, transformation in get_transformation(finest(element), get_all=True).items():
        matrix = transformation.to_affine_matrix(input_axes=axes, output_axes=axes)
        same = np.array_equal(matrix, np.eye(3))
        planar[system] = Identity() if same else Affine(matrix, input_axes=axes, output_axes=axes)
    return planar


def cell_table(
    ids: np.ndarray,
    geometry: np.ndarray,
    centroids: np.ndarray,
    *,
    mpp: float,
    region: str,
    obs: DataFrame | None = None,
) -> AnnData:
    """A table without genes, a row a cell.

    Parameters
    ----------
    ids
        Index of the shapes (n,).
    geometry
        Their outlines in level-0 pixels of the image, shapely (n,).
    centroids
        float (n, 2), their centres in level-0 pixels.
    mpp
        µm per level-0 pixel.
    region
        Name of the shapes.
    obs
        Further columns, a row a cell; those that the table has anyway are left out.
    """
    import pandas as pd
    import shapely
    from anndata import AnnData
    from spatialdata.models import TableModel

    columns = pd.DataFrame(
        {
            _keys.REGION: pd.Categorical([region] * len(ids)),
            _keys.INSTANCE_ID: ids,
            _keys.AREA_UM2: shapely.area(geometry) * mpp**2,
        },
        index=ids.astype(str).astype(object),
    )
    if obs is not None:
        columns = columns.assign(**{name: obs[name].array for name in obs.columns if name not in columns})
    table = AnnData(X=np.zeros((len(ids), 0), dtype=np.float32), obs=columns)
    table.obsm[_keys.SPATIAL] = centroids * mpp
    return TableModel.parse(table, region=region, region_key=_keys.REGION, instance_key=_keys.INSTANCE_ID)
