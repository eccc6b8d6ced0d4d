"""Xenium Explorer: its selections as shapes, and cell groups for it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._cell_elements import planar_transformations
from pastpy._elements import check_mpp, image_levels, level0_affine, require_spatialdata, table_of, transform_shapes
from pastpy.io._cells import check_names, check_on_image, replace_file
from pastpy.io._groups import cell_ids, obs_column, palette
from pastpy.io._st_files import existing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

__all__ = ["read_xenium_explorer", "write_xenium_explorer_groups"]


def read_xenium_explorer(
    sdata: SpatialData,
    path: str | Path,
    *,
    key_added: str = "selections",
    like: str = "cell_boundaries",
    pixel_um: float | None = None,
) -> None:
    """Read the selections that Xenium Explorer exports as shapes.

    Parameters
    ----------
    sdata
        Object of :func:`read_xenium`.
    path
        Its "selection coordinates" (``.csv``): lines with ``#`` that name the selection, then the columns ``X``,
        ``Y`` in µm, and ``Selection`` where there are several.
    key_added
        Name of the shapes.
    like
        Shapes of the bundle, whose coordinates are the same µm: their transformations are used.
    pixel_um
        µm per pixel of the morphology image, in place of ``like``, for an object whose ``global`` is its pixels.

    Returns
    -------
    None
        Adds ``shapes[key_added]``, polygons in µm, with the names of the selections as index, and their transformation.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If there are no shapes ``like``.
    ValueError
        If the file is none of Explorer's, a selection has fewer than three corners, or none lies on any image.

    Examples
    --------
    >>> import pastpy as past
    >>> past.io.read_xenium_explorer(sdata, "Selection_1_coordinates.csv")  # doctest: +SKIP
    """
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Scale

    check_names(require_spatialdata(sdata), key_added)
    if pixel_um is not None:
        per_um = 1 / check_mpp(pixel_um, "pixel_um")
        places = {_keys.COORDINATE_SYSTEM: Scale([per_um, per_um], axes=("x", "y"))}
    elif like in sdata.shapes:
        places = planar_transformations(sdata.shapes[like])
    else:
        raise KeyError(
            f"no shapes {like!r} to lie like; this object has {list(sdata.shapes) or 'none'}: pass pixel_um="
        )
    corners = _corners(Path(path))
    polygons = [shapely.make_valid(shapely.Polygon(xy), method="structure") for xy in corners.values()]
    frame = gpd.GeoDataFrame(geometry=polygons, index=list(corners))
    shapes = ShapesModel.parse(frame, transformations=places)
    _check_on_images(sdata, shapes, Path(path).name)
    sdata.shapes[key_added] = shapes


def write_xenium_explorer_groups(
    data: SpatialData | AnnData, path: str | Path, *, groupby: str, table_key: str | None = None
) -> None:
    """Write a column of ``obs`` as the cell groups that Xenium Explorer loads.

    Parameters
    ----------
    data
        Object or table of a Xenium run.
    path
        File (``.csv``) to write; one that is there is replaced when the new one is complete.
    groupby
        Column of ``obs``. Cells without a value are left out. Its colours in ``uns[f"{groupby}_colors"]`` are kept.
    table_key
        Table; default: the only one that :func:`read_xenium` read, whose ids Explorer knows, else pastpy's cells or the
        only one.

    Raises
    ------
    KeyError
        If there is no such table or column.
    ValueError
        If no cell has a value, one has no id, or a cell's id is there twice.

    Notes
    -----
    Columns ``cell_id``, ``group`` and, with a palette, ``color``; ids are ``obs["cell_id"]`` where there is one, else
    the table's index.

    Examples
    --------
    >>> import pastpy as past
    >>> past.io.write_xenium_explorer_groups(sdata, "groups.csv", groupby="past_label")  # doctest: +SKIP
    """
    from matplotlib.colors import to_hex

    table = table_of(data, _xenium_table(data) if table_key is None else table_key)
    column, ids = obs_column(table, groupby), cell_ids(table)
    if ids.duplicated().any():
        raise ValueError(f"cell id {ids[ids.duplicated()].iloc[0]!r} is there twice; make them unique")
    rows = np.flatnonzero(column.notna())
    if not len(rows):
        raise ValueError(f"no cell has a value in obs column {groupby!r}")
    colours = {group: to_hex(colour) for group, colour in palette(table, groupby).items()}

    def lines() -> Iterator[str]:
        yield "cell_id,group,color\n" if colours else "cell_id,group\n"
        for row in rows:
            group = str(column.iloc[row])
            cells = [ids.iloc[row], group, *([colours.get(group, "")] if colours else [])]
            yield ",".join(_quoted(cell) for cell in cells) + "\n"

    replace_file(Path(path), lines())


def _check_on_images(sdata: SpatialData, shapes: GeoDataFrame, source: str) -> None:
    """Refuse selections none of which touches an image: an H&E may show a part of what was selected from only."""
    import shapely

    def is_shared(element: Any) -> bool:
        return _keys.COORDINATE_SYSTEM in planar_transformations(element)

    images = [name for name, image in sdata.images.items() if is_shared(image)] if is_shared(shapes) else []
    for image_key in images:
        affine = level0_affine(sdata, shapes, image_key, name=source)
        geometry, _, centroids = transform_shapes(shapes, affine)
        sizes = image_levels(sdata, image_key)[0].sizes
        if shapely.intersects(geometry, shapely.box(0, 0, sizes["x"], sizes["y"])).any():
            return
    if images:
        check_on_image(sdata, image_key, centroids, source, what="selections")


def _xenium_table(data: SpatialData | AnnData) -> str | None:
    """Name of the only table of a bundle, if there is one."""
    tables = getattr(data, "tables", {})
    read = [name for name, table in tables.items() if "read_xenium" in table.uns.get(_keys.PAST, {})]
    return read[0] if len(read) == 1 else None


def _quoted(cell: str) -> str:
    return f'"{cell.replace(chr(34), chr(34) * 2)}"' if any(c in cell for c in ',"\n\r') else cell


def _corners(path: Path) -> dict[str, np.ndarray]:
    """Corners (n, 2) in µm of each selection, in the order of the file."""
    try:
        lines = existing(path, "selections").read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not a text file ({error})") from error
    notes = [line.lstrip('#"').strip() for line in lines if line.lstrip('"').startswith("#")]
    # spreadsheets fill rows up with empty cells, and in many countries save semicolons and decimal commas
    table = [line for line in lines if line.strip(" ,;\t") and not line.lstrip('"').startswith("#")]
    separator = max(",;\t", key=table[0].count) if table else ","
    decimal = "." if separator == "," else ","
    rows = list(csv.DictReader(table, delimiter=separator))
    if not rows or not {"X", "Y"} <= set(rows[0]):
        got = list(rows[0]) if rows else "nothing"
        raise ValueError(
            f"{path.name} has no columns 'X', 'Y' ({got}); expected Xenium Explorer's selection coordinates"
        )
    named = next((n.partition(":")[2].strip(' ",;\t') for n in notes if n.lower().startswith("selection name:")), "")
    corners: dict[str, list[tuple[float, float]]] = {}
    for number, row in enumerate(rows, start=1):
        try:
            xy = float(row["X"].replace(decimal, ".")), float(row["Y"].replace(decimal, "."))
        except (AttributeError, ValueError) as error:
            raise ValueError(f"{path.name}, row {number}: 'X' or 'Y' is no number") from error
        corners.setdefault(row.get("Selection") or named or "Selection 1", []).append(xy)
    found = {name: np.array(xy) for name, xy in corners.items()}
    for name, polygon in found.items():
        if len(polygon) < 3 or not np.isfinite(polygon).all():
            raise ValueError(f"{path.name}: selection {name!r} has fewer than three corners, or one that is not finite")
        if np.linalg.matrix_rank(polygon - polygon[0]) < 2:
            raise ValueError(f"{path.name}: the corners of selection {name!r} lie on one line; it has no area")
    return found
