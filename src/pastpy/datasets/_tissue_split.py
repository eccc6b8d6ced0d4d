"""One object a donor from a simulated cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._elements import image_levels, past_attrs, record_added, require_spatialdata, resolve_mpp, set_mpp

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

__all__ = ["split_donors"]

_PAIRS = (
    (_keys.NUCLEI_TRUE, _keys.CELLS_TRUE), (_keys.SPOT_SHAPES, _keys.SPOTS), (_keys.BIN_SHAPES, _keys.BINS),
)  # fmt: skip


def split_donors(sdata: SpatialData) -> dict[str, SpatialData]:
    """Cut a simulated cohort into one object a donor, for functions that take a list.

    Parameters
    ----------
    sdata
        As :func:`simulate_tissue` gives it, unchanged. Elements that were added later are not taken along.

    Returns
    -------
    dict
        Donor → SpatialData with the donor's part of the image (lazy if the whole is), of the shapes and of the tables.
        Positions are counted from the part's own corner; ids stay.

    Raises
    ------
    KeyError
        If the object was not made by :func:`simulate_tissue`.

    Examples
    --------
    >>> import pastpy as past
    >>> cohort = past.datasets.simulate_tissue(n_cells=120, n_genes=20, n_donors=2)
    >>> [part.tables["cells_true"].n_obs for part in past.datasets.split_donors(cohort).values()]
    [60, 60]
    """
    sdata = require_spatialdata(sdata)
    made = sdata.tables[_keys.CELLS_TRUE].uns.get(_keys.PAST, {}) if _keys.CELLS_TRUE in sdata.tables else {}
    if "simulate_tissue" not in made:
        raise KeyError("this object was not made by pastpy.datasets.simulate_tissue, so it has no donors to split by")
    truth = made["simulate_tissue"]
    return {
        name: _part(sdata, name, np.asarray(facts["origin_px"]), int(truth["box_px"]))
        for name, facts in truth["donors"].items()
    }


def _part(sdata: SpatialData, donor: str, origin: np.ndarray, box: int) -> SpatialData:
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, TableModel

    x0, y0 = (int(v) for v in origin)
    pixels = image_levels(sdata, _keys.IMAGE)[0].data[:, y0 : y0 + box, x0 : x0 + box]
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"])
    part = SpatialData(images={_keys.IMAGE: image})
    mpp = resolve_mpp(sdata, _keys.IMAGE)
    for shapes_key, table_key in _PAIRS:
        if table_key not in sdata.tables:
            continue
        table = sdata.tables[table_key]
        table = table[table.obs[_keys.DONOR].astype(str) == donor].copy()
        table.obsm[_keys.SPATIAL] = table.obsm[_keys.SPATIAL] - origin * mpp
        del table.uns[TableModel.ATTRS_KEY]
        part.shapes[shapes_key] = _moved(sdata.shapes[shapes_key].loc[table.obs[_keys.INSTANCE_ID]], origin)
        part.tables[table_key] = TableModel.parse(
            table, region=shapes_key, region_key=_keys.REGION, instance_key=_keys.INSTANCE_ID
        )
        if table_key in past_attrs(sdata).get(_keys.ADDED, []):
            record_added(part, table_key)
    set_mpp(part, _keys.IMAGE, mpp)
    return part


def _moved(shapes: GeoDataFrame, origin: np.ndarray) -> GeoDataFrame:
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel

    geometry = shapely.transform(shapes.geometry.to_numpy(), lambda xy: xy - origin)
    columns = {"radius": shapes["radius"].to_numpy()} if "radius" in shapes else {}
    return ShapesModel.parse(gpd.GeoDataFrame(columns, geometry=geometry, index=shapes.index))
