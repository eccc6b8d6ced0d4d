"""Outlines from GeoJSON, as QuPath exports them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._cell_elements import planar_transformations
from pastpy._elements import require_spatialdata, resolve_image, resolve_mpp
from pastpy.io._cells import add_cells, check_names
from pastpy.io._st_files import existing, unzipped

if TYPE_CHECKING:
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["read_geojson"]

#: Columns of the shapes that `read_geojson` writes.
CLASSIFICATION, NAME, OBJECT_TYPE = "classification", "name", "object_type"
#: And the id that QuPath knows an object by, where all have one of their own; `write_geojson` gives it back.
OBJECT_ID = "object_id"


def read_geojson(
    sdata: SpatialData,
    path: str | Path,
    *,
    image_key: str | None = None,
    key_added: str = "annotations",
    table_key_added: str | None = None,
    mpp: float | None = None,
) -> None:
    """Read outlines from GeoJSON, as QuPath exports annotations, detections and cells.

    Parameters
    ----------
    sdata
        Object with the image.
    path
        GeoJSON file, also gzipped: a FeatureCollection, a list of features or one feature, of polygons and
        multipolygons in level-0 pixels of the image.
    image_key
        Image that the outlines were drawn on; default: the only image that pastpy did not write.
    key_added
        Name of the shapes.
    table_key_added
        Name of a table without genes that annotates them, with the measurements as columns: then ``tl`` functions
        take the outlines as cells. Default: no table.
    mpp
        µm per level-0 pixel; needed only for a table, where the reader of the image stored none.

    Returns
    -------
    None
        Adds ``shapes[key_added]`` in level-0 pixels, with the image's transformations and the columns
        ``classification`` (missing where unclassified, ``"Tumor: Positive"`` for a derived class), ``name``,
        ``object_type`` and, where every feature has one of its own, ``object_id``, QuPath's. The index is the
        ``cell_id`` that :func:`write_geojson` noted where every feature has one, else 1 to n. Columns of measurements
        that would be named alike are numbered.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no GeoJSON, has another geometry or none, or no outline lies on the image.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.io.read_geojson(sdata, "annotations.geojson")  # doctest: +SKIP
    """
    import geopandas as gpd
    import pandas as pd
    from spatialdata.models import ShapesModel

    image_key = resolve_image(require_spatialdata(sdata), image_key)
    um = resolve_mpp(sdata, image_key, mpp) if table_key_added is not None else 1.0
    check_names(sdata, key_added, table_key_added)
    path = Path(path)
    features = _features(path)
    polygons = _polygons(features, path.name)
    properties = [_mapping(f.get("properties")) for f in features]
    columns: dict[str, Any] = {
        CLASSIFICATION: pd.Categorical([_class_name(p.get("classification")) for p in properties]),
        NAME: [_text(p.get("name")) for p in properties],
        OBJECT_TYPE: [_text(p.get("objectType")) for p in properties],
    }
    ids = [_text(f.get("id")) for f in features]
    if None not in ids and len(set(ids)) == len(ids):
        columns[OBJECT_ID] = ids
    shapes = ShapesModel.parse(
        gpd.GeoDataFrame(columns, geometry=polygons, index=_index(properties)),
        transformations=planar_transformations(sdata.images[image_key]),
    )
    add_cells(
        sdata,
        shapes,
        image_key=image_key,
        mpp=um,
        key_added=key_added,
        table_key_added=table_key_added,
        obs=_measurements(properties).assign(classification=columns[CLASSIFICATION]),
        source=path.name,
    )


def _features(path: Path) -> list[dict[str, Any]]:
    raw = existing(path, "GeoJSON").read_bytes()
    try:
        content = json.loads(unzipped(raw).decode("utf-8-sig"))
    except (ValueError, RecursionError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path.name} is not GeoJSON ({error}); is it complete?") from error
    if isinstance(content, Mapping):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list) or not all(isinstance(f, Mapping) and f.get("type") == "Feature" for f in content):
        raise ValueError(f"{path.name} holds no features; expected a FeatureCollection as QuPath exports it")
    if not content:
        raise ValueError(f"{path.name} has no feature")
    return [dict(f) for f in content]


def _polygons(features: list[dict[str, Any]], name: str) -> np.ndarray:
    """Valid (multi)polygons of the features."""
    import shapely

    polygons = np.empty(len(features), dtype=object)
    for i, feature in enumerate(features):
        geometry = _mapping(feature.get("geometry"))
        if geometry.get("type") not in {"Polygon", "MultiPolygon"}:
            raise ValueError(
                f"{name}, feature {i + 1} is a {geometry.get('type')}; expected Polygon or MultiPolygon: export "
                "objects with an area"
            )
        try:
            polygons[i] = shapely.force_2d(shapely.from_geojson(json.dumps(geometry)))
        except (shapely.errors.GEOSException, ValueError, TypeError) as error:
            raise ValueError(f"{name}, feature {i + 1}: its coordinates form no polygon ({error})") from error
    crossing = ~shapely.is_valid(polygons)
    # An outline drawn by hand may cross itself; what lies inside of it stays inside.
    polygons[crossing] = shapely.make_valid(polygons[crossing], method="structure", keep_collapsed=False)
    area = shapely.area(polygons)
    if not (np.isfinite(area) & (area > 0)).all():
        raise ValueError(f"{name}, feature {int(np.argmin(area > 0)) + 1} has no area")
    return polygons


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _class_name(classification: Any) -> str | None:
    """QuPath's class as it shows it; a derived class has several names since 0.4."""
    if isinstance(classification, str):
        return classification
    found = _mapping(classification)
    names = found.get("names")
    return ": ".join(map(str, names)) if isinstance(names, list) and names else _text(found.get("name"))


def _index(properties: list[dict[str, Any]]) -> np.ndarray:
    """Ids that pastpy noted, whole numbers as such, where each feature has its own; else 1 to n."""
    noted = [_mapping(p.get("metadata")).get(_keys.INSTANCE_ID) for p in properties]
    ids = [str(i) for i in noted if i is not None]
    if len(set(ids)) < len(properties):
        return np.arange(1, len(properties) + 1)
    if all(i.isdecimal() and str(int(i)) == i for i in ids):
        return np.array([int(i) for i in ids])
    return np.array(ids, dtype=object)


def _measurements(properties: list[dict[str, Any]]) -> DataFrame:
    """Measurements as columns, NaN where a feature has none. Before 0.4 QuPath wrote them as a list."""
    import pandas as pd

    rows = []
    # names of the table's own columns; on disk none may differ by case only
    columns, taken = {}, {_keys.REGION, _keys.INSTANCE_ID, _keys.AREA_UM2, CLASSIFICATION}
    for each in properties:
        found = each.get("measurements")
        if isinstance(found, list):
            found = {m["name"]: m.get("value") for m in found if isinstance(m, Mapping) and "name" in m}
        values = {k: v for k, v in _mapping(found).items() if isinstance(v, int | float)}
        rows.append(values)
    names = dict.fromkeys(name for row in rows for name in row)
    for name in names:
        base = _column(name)
        numbered = (base, *(f"{base}_{i}" for i in range(2, len(names) + 6)))
        columns[name] = next(c for c in numbered if c.lower() not in taken)
        taken.add(columns[name].lower())
    return pd.DataFrame(rows, index=range(len(rows)), columns=list(names), dtype=float).rename(columns=columns)


def _column(name: str) -> str:
    """A name that a table on disk can have: QuPath's has spaces, colons and units."""
    kept = "".join(c if c.isalnum() or c in "_.-" else "_" for c in name.replace("µ", "u").replace("^", ""))
    return kept.strip("_") or "measurement"
