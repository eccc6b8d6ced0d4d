"""Shapes of a table as GeoJSON that QuPath opens."""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import (
    expression_frame,
    require_spatialdata,
    resolve_image,
    resolve_shapes,
    resolve_table,
    table_rows,
    unit_geometry,
)
from pastpy.io._cells import replace_file
from pastpy.io._geojson import NAME, OBJECT_ID
from pastpy.io._groups import cell_ids, obs_column, palette

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

__all__ = ["write_geojson"]


def write_geojson(
    sdata: SpatialData,
    path: str | Path,
    *,
    label: str | None = None,
    columns: Sequence[str] = (),
    genes: Sequence[str] = (),
    expression_key: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    object_type: str = "detection",
) -> None:
    """Write the shapes of a table as GeoJSON that QuPath opens over the slide.

    Parameters
    ----------
    sdata
        The object.
    path
        File to write; one that is there is replaced when the new one is complete.
    label
        Column of ``obs`` that becomes the classification; cells without a value have none. Its colours in
        ``uns[f"{label}_colors"]`` are kept.
    columns
        Numeric columns of ``obs`` that become measurements.
    genes
        Genes whose values become measurements.
    expression_key
        DataFrame in ``obsm`` with the genes; default: ``"past_expression"``.
    image_key
        Image whose level-0 pixels the coordinates are; default: the only image that pastpy did not write.
    shapes_key, table_key
        Shapes and table; default: pastpy's cells, else the only table, and what it annotates.
    object_type
        QuPath's type of the objects: ``"detection"``, ``"annotation"`` or ``"cell"``.

    Raises
    ------
    KeyError
        If an element, a column or a gene is not there.
    ValueError
        If a column is not numeric, or the type is none of QuPath's.

    Notes
    -----
    Rows without a shape are left out, with a warning, and so are measurements without a value. Circles become polygons
    of 32 corners. Objects that :func:`read_geojson` read keep their ``name`` and QuPath's id; others get an id that is
    the same in every export.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.io.write_geojson(sdata, "spots.geojson", columns=["n_counts"])
    """
    import shapely

    sdata = require_spatialdata(sdata)
    if object_type not in {"detection", "annotation", "cell"}:
        raise ValueError(f"object_type must be 'detection', 'annotation' or 'cell', got {object_type!r}")
    image_key = resolve_image(sdata, image_key)
    table_key = resolve_table(sdata, table_key)
    shapes_key = resolve_shapes(sdata, shapes_key, table_key=table_key)
    table = sdata.tables[table_key]
    labels, colours = _labels(table, label)
    values = _values(table, columns, genes, expression_key or _keys.Slots().expression)
    # Positions in pixels need no µm/px.
    where = unit_geometry(sdata, table_key, shapes_key, image_key, mpp=1.0)
    geometry = np.where(
        np.isfinite(where.radius), shapely.buffer(where.geometry, where.radius, quad_segs=8), where.geometry
    )
    rows = np.flatnonzero(~shapely.is_missing(geometry))
    if len(rows) < len(geometry):
        warnings.warn(
            f"{len(geometry) - len(rows)} of {len(geometry)} rows of table {table_key!r} have no shape in "
            f"{shapes_key!r} and are left out",
            UserWarning,
            stacklevel=2,
        )
    names = cell_ids(table).tolist()
    own_names, own_ids = (_of_shapes(sdata, table_key, shapes_key, column) for column in (NAME, OBJECT_ID))

    def features() -> Iterator[str]:
        yield '{"type": "FeatureCollection", "features": ['
        for i, row in enumerate(rows.tolist()):
            properties: dict[str, Any] = {
                "objectType": object_type,
                "name": own_names.get(row, names[row]),
                "metadata": {_keys.INSTANCE_ID: names[row]},
                "measurements": {k: float(v[row]) for k, v in values.items() if np.isfinite(v[row])},
            }
            group = None if labels is None else labels[row]
            if group is not None:
                properties["classification"] = {"name": group} | colours.get(group, {})
            feature = {
                "type": "Feature",
                # QuPath wants ids of this form
                "id": own_ids.get(row, str(uuid.uuid5(uuid.NAMESPACE_OID, f"{shapes_key}/{names[row]}"))),
                "geometry": json.loads(shapely.to_geojson(geometry[row])),
                "properties": properties,
            }
            yield ("\n" if i == 0 else ",\n") + json.dumps(feature, ensure_ascii=False)
        yield "\n]}\n"

    replace_file(Path(path), features())


def _of_shapes(sdata: SpatialData, table_key: str, shapes_key: str, column: str) -> dict[int, str]:
    """What a column of the shapes says of rows of the table, where there is such a column and it says something."""
    shapes = sdata.shapes[shapes_key]
    if column not in shapes:
        return {}
    rows, positions = table_rows(sdata, table_key, shapes_key)
    rows, positions = rows[positions >= 0], positions[positions >= 0]
    values = shapes[column].iloc[positions]
    return {int(row): str(value) for row, value in zip(rows, values, strict=True) if isinstance(value, str)}


def _labels(table: AnnData, label: str | None) -> tuple[list[str | None] | None, dict[str, dict[str, list[int]]]]:
    """Classification of each row, and QuPath's colour of each class where there is a palette."""
    import pandas as pd
    from matplotlib.colors import to_rgb

    if label is None:
        return None, {}
    column = obs_column(table, label)
    named = palette(table, label).items()
    colours = {group: {"color": [round(255 * c) for c in to_rgb(colour)]} for group, colour in named}
    return [None if pd.isna(v) else str(v) for v in column], colours


def _values(table: AnnData, columns: Sequence[str], genes: Sequence[str], key: str) -> dict[str, np.ndarray]:
    """Measurements by name, float64 (n,)."""
    values = {}
    for name in columns:
        column = obs_column(table, name)
        try:
            values[name] = column.to_numpy(dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"obs column {name!r} is not numeric; pass it as label=, or leave it out") from error
    if len(genes):
        frame = expression_frame(table, key)
        for gene in genes:
            if gene not in frame:
                raise KeyError(f"no gene {gene!r} in obsm[{key!r}]")
            values[gene] = frame[gene].to_numpy(dtype=float)
    return values
