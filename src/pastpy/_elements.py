"""Which image, which shapes, which table, what µm/px: one resolver for all of ``pp``, ``tl`` and ``pl``.

Geometry convention: level-0 pixel coordinates with (0, 0) at the image's top-left *corner*, so that the centre of the
first pixel is (0.5, 0.5), as in SpatialData. Elements reach them through SpatialData's transformations; micrometres
are level-0 pixels times ``mpp``. The unit of a coordinate system is never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._cell_elements import finest, levels_of
from pastpy._warn import warn_user

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from pandas import DataFrame
    from spatialdata import SpatialData
    from xarray import DataArray

__all__ = [
    "UnitGeometry",
    "expression_frame",
    "image_levels",
    "level0_affine",
    "level_affine",
    "past_attrs",
    "record_added",
    "regions_of",
    "require_spatialdata",
    "resolve_image",
    "resolve_mpp",
    "resolve_regions",
    "resolve_shapes",
    "resolve_table",
    "rows_alone",
    "set_mpp",
    "table_of",
    "table_rows",
    "unit_geometry",
]

#: Pixels per unit of an element, between which any units lie: nanometres on coarse images to metres on fine ones.
_SCALE = (1e-9, 1e9)
#: µm per pixel that differ by this factor are not the same one, rounded.
_OTHER_MPP = 1.1
#: µm/px of tissue images. A 100× objective gives about 0.06; at 50 a nucleus is a fraction of a pixel, while the print
#: resolutions that cameras and editors write (72 to 300 dpi) read as 350 to 85.
PLAUSIBLE_MPP = (0.02, 50.0)
#: How many times smaller than the slide a thumbnail is at least, and how far rounding moves its proportions.
_THUMBNAIL, _SAME_SHAPE = 1.5, 0.03


def require_spatialdata(data: object) -> SpatialData:
    """Return ``data`` if it is a SpatialData (or a subclass, as WSIData is), else raise ``TypeError``."""
    from spatialdata import SpatialData

    if not isinstance(data, SpatialData):
        raise TypeError(
            f"expected a SpatialData object, got {type(data).__name__}; read one with spatialdata.read_zarr(path) "
            "or pastpy.io"
        )
    return data


def past_attrs(sdata: SpatialData) -> dict[str, Any]:
    """``sdata.attrs["past"]``, or an empty dict that is not attached to the object."""
    return dict(sdata.attrs.get(_keys.PAST, {}))


def record_added(sdata: SpatialData, name: str) -> None:
    """Remember that pastpy wrote element ``name``, so that defaults can skip it."""
    attrs = past_attrs(sdata)
    attrs[_keys.ADDED] = sorted({*attrs.get(_keys.ADDED, []), name})
    sdata.attrs[_keys.PAST] = attrs


def set_mpp(sdata: SpatialData, image_key: str, mpp: float) -> None:
    """Store µm per level-0 pixel of an image in ``sdata.attrs``."""
    attrs = past_attrs(sdata)
    attrs[_keys.MPP] = {**attrs.get(_keys.MPP, {}), image_key: _positive(mpp, f"mpp of image {image_key!r}")}
    sdata.attrs[_keys.PAST] = attrs


def check_mpp(mpp: object, what: str = "mpp") -> float:
    """Return ``mpp`` as a float if a tissue image can have it, else raise ``ValueError``."""
    value = _positive(mpp, what)
    if not plausible_mpp(value):
        raise ValueError(
            f"{what} cannot be: {value:g} µm/px, where tissue images have {PLAUSIBLE_MPP[0]:g} to "
            f"{PLAUSIBLE_MPP[1]:g}; pass mpp= in µm per level-0 pixel"
        )
    return value


def plausible_mpp(value: float) -> bool:
    """Whether a tissue image can have this µm/px."""
    return PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1]


def _positive(mpp: object, what: str) -> float:
    """As :func:`check_mpp`, but also of an overview that is too coarse to show tissue."""
    try:
        # True is 1 to float()
        value = float("nan") if isinstance(mpp, bool | np.bool_) else float(mpp)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{what} must be a positive number of µm per level-0 pixel, got {mpp!r}")
    return value


def _choose(
    kind: str, key: str | None, names: Iterable[str], candidates: Iterable[str], argument: str, *, several: str = ""
) -> str:
    names, candidates = list(names), list(candidates)
    if key is not None:
        if key not in names:
            raise KeyError(
                f"no {kind} named {key!r}; this object has {names or 'none'}: pass one of them as {argument}="
            )
        return key
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise KeyError(
            f"this object has no {kind}; add one, or pass {argument}= if it has another name ({names or 'none'})"
        )
    raise KeyError(
        f"this object has {len(candidates)} {several or f'{kind}s'}, {candidates}: say which with {argument}="
    )


def resolve_image(sdata: SpatialData, image_key: str | None = None) -> str:
    """Name of the image to use: ``image_key``, else the only one that pastpy did not write and that is no thumbnail.

    Where there are several, those that can't be an H&E are left aside.

    Raises
    ------
    KeyError
        If there is no such image, or more than one to choose from; the message names the candidates.
    """
    added = set(past_attrs(sdata).get(_keys.ADDED, []))
    candidates = [n for n in sdata.images if n not in added and not _is_thumbnail(sdata, n)]
    if len(candidates) > 1:
        candidates = [n for n in candidates if _is_colour(sdata.images[n])] or candidates
    if image_key is None and not candidates and _wsidata_slide(sdata):
        raise KeyError(
            f"this slide's pixels are not among the images {list(sdata.images) or '(none)'}; open it with "
            "wsidata.open_wsi(path, attach_images=True), or with pastpy.io.read_wsi(path)"
        )
    if image_key is None and not candidates and sdata.images:
        raise KeyError(
            f"none of the images {list(sdata.images)} is an H&E: they are fluorescence, or pastpy made them. Add the "
            "H&E (that of a Xenium bundle is read with he_image= and he_alignment=), or name an image with image_key=; "
            "to embed or impute from counts alone, pass modality='expression'"
        )
    if image_key is None and not sdata.images:
        raise KeyError(
            "this object has no image; add its H&E, for example that of pastpy.io.read_wsi(path); to embed or impute "
            "from counts alone, pass modality='expression'"
        )
    return _choose("image", image_key, sdata.images, candidates, "image_key")


def resolve_table(sdata: SpatialData, table_key: str | None = None) -> str:
    """Name of the table to use: ``table_key``, else pastpy's ``cells``, else the only one that pastpy did not add.

    Raises
    ------
    KeyError
        If there is no such table, or more than one to choose from; the message names the candidates.
    """
    if not sdata.tables:
        raise KeyError(
            "this object has no table; find its cells with pastpy.pp.segment_nuclei(sdata), or add a table whose rows "
            "annotate shapes"
        )
    added = set(past_attrs(sdata).get(_keys.ADDED, []))
    candidates = [_keys.CELLS] if _keys.CELLS in sdata.tables else [n for n in sdata.tables if n not in added]
    return _choose("table", table_key, sdata.tables, candidates, "table_key")


def table_of(data: SpatialData | AnnData, table_key: str | None = None) -> AnnData:
    """The table itself: ``data`` if it is an AnnData, else the SpatialData's table."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        return data
    sdata = require_spatialdata(data)
    return sdata.tables[resolve_table(sdata, table_key)]


def expression_frame(table: AnnData, key: str) -> DataFrame:
    """The ``obsm`` DataFrame ``key`` of a table, or a ``KeyError`` that names the ones there are."""
    from pandas import DataFrame

    frames = [name for name, value in table.obsm.items() if isinstance(value, DataFrame)]
    if key not in frames:
        there = f"obsm[{key!r}] is a {type(table.obsm[key]).__name__}" if key in table.obsm else f"no obsm[{key!r}]"
        raise KeyError(
            f"{there}; expected a DataFrame (cells × genes). DataFrames in obsm: {frames or 'none'}. Predict "
            "expression with pastpy.tl.impute_expression"
        )
    return table.obsm[key]


def resolve_shapes(sdata: SpatialData, shapes_key: str | None = None, *, table_key: str) -> str:
    """Name of the shapes that a table annotates: ``shapes_key``, else the table's only ``region``.

    Raises
    ------
    KeyError
        If the table annotates nothing, several elements, or an element that is not there; the message names them.
    """
    regions = regions_of(sdata.tables[table_key])
    if shapes_key is None and not regions:
        raise KeyError(
            f"table {table_key!r} annotates no element, so its rows have no place on the image; "
            "link it with spatialdata.models.TableModel.parse(table, region=…, region_key=…, instance_key=…)"
        )
    labels = [region for region in regions if region in sdata.labels]
    if labels and not any(region in sdata.shapes for region in regions):
        raise KeyError(
            f"table {table_key!r} annotates the labels {labels}, and cells are taken from shapes; make shapes of the "
            f"same ids with pastpy.io.read_labels(sdata, {labels[0]!r}, key_added='nuclei', table_key_added=None), and "
            "let the table annotate these: write their name into the column of its region, then "
            f"sdata.set_table_annotates_spatialelement({table_key!r}, region='nuclei')"
        )
    if shapes_key is not None and shapes_key in sdata.shapes and shapes_key not in regions:
        raise KeyError(f"table {table_key!r} annotates {regions or 'no element'}, not the shapes {shapes_key!r}")
    annotated = f"shapes annotated by table {table_key!r}"
    candidates = [region for region in regions if region in sdata.shapes]
    return _choose(annotated, shapes_key, sdata.shapes, candidates, "shapes_key", several=annotated)


def resolve_regions(sdata: SpatialData, shapes_key: str | None = None, *, table_key: str) -> list[str]:
    """Names of all shapes that a table annotates, or ``shapes_key`` alone; errors as in :func:`resolve_shapes`."""
    regions = [r for r in regions_of(sdata.tables[table_key]) if r in sdata.shapes]
    if shapes_key is None and len(regions) > 1:
        return regions
    return [resolve_shapes(sdata, shapes_key, table_key=table_key)]


def regions_of(table: AnnData) -> list[str]:
    """Names of the elements that a table annotates, whether they are there or not."""
    from spatialdata.models import TableModel

    attrs = table.uns.get(TableModel.ATTRS_KEY)
    if attrs is None:
        return []
    region = attrs[TableModel.REGION_KEY]
    if region is None:
        return []
    return [region] if isinstance(region, str) else list(region)


def resolve_mpp(sdata: SpatialData, image_key: str, mpp: float | None = None) -> float:
    """µm per level-0 pixel: ``mpp`` if given, else what the reader stored; never guessed.

    Raises
    ------
    ValueError
        If neither is there, or no tissue image can have the value.

    Warns
    -----
    UserWarning
        If what is given is more than 10 % off what is stored.
    """
    stored = past_attrs(sdata).get(_keys.MPP, {}).get(image_key)
    source = f"sdata.attrs['past']['mpp'][{image_key!r}]"
    if stored is None:
        stored, source = _wsidata_mpp(sdata, image_key), "sdata.attrs['slide_properties']['mpp']"
    if mpp is not None:
        given = check_mpp(mpp)
        # what is stored may be what no tissue has: that is why another is given
        if stored is not None and not 1 / _OTHER_MPP < given / _positive(stored, source) < _OTHER_MPP:
            warn_user(
                f"mpp={given:g} is {given / stored:.2g} times what is stored of image {image_key!r}, {stored:g} µm/px; "
                "the argument is taken, and lengths are wrong by this factor if it should not be"
            )
        return given
    if stored is None:
        raise ValueError(
            f"µm/px of image {image_key!r} is unknown; pass mpp= (µm per level-0 pixel), or store it once with "
            f"sdata.attrs['past'] = {{'mpp': {{{image_key!r}: …}}}}"
        )
    return check_mpp(stored, source)


def _wsidata_slide(sdata: SpatialData) -> dict[str, Any]:
    """What wsidata noted of its slide; empty where it did not read the object."""
    noted = sdata.attrs.get("slide_properties")
    return noted if isinstance(noted, dict) else {}


def _wsidata_mpp(sdata: SpatialData, image_key: str) -> float | None:
    """What wsidata noted of its slide, if this image is the slide and not a thumbnail of it."""
    noted = _wsidata_slide(sdata)
    if not noted or image_key not in sdata.images:
        return None
    sizes = image_levels(sdata, image_key)[0].sizes
    return noted.get("mpp") if list(noted.get("shape") or []) == [sizes["y"], sizes["x"]] else None


def _is_colour(image: Any) -> bool:
    """Whether an image may be brightfield: RGB or RGBA, no channel of which is called DAPI."""
    names = [str(name).lower() for name in finest(image).coords["c"].values]
    return len(names) in (3, 4) and not any("dapi" in name for name in names)


def _is_thumbnail(sdata: SpatialData, image_key: str) -> bool:
    """Whether an image is the slide that wsidata read, at a fraction of its size."""
    shape = list(_wsidata_slide(sdata).get("shape") or [])
    if len(shape) != 2:
        return False
    sizes = finest(sdata.images[image_key]).sizes
    down, across = shape[0] / sizes["y"], shape[1] / sizes["x"]
    # a part that was cut out of the slide has proportions of its own
    return down > _THUMBNAIL and abs(down / across - 1) < _SAME_SHAPE


def image_levels(sdata: SpatialData, image_key: str) -> list[DataArray]:
    """Pyramid levels of an image as lazy (c, y, x) arrays, level 0 first.

    Where an image lies is told by its transformations alone, as SpatialData stores it: one that was sliced with xarray
    begins at its own first pixel, whatever its coordinates say. Cut with ``spatialdata.bounding_box_query`` at whole
    pixels instead: between pixels, it notes a corner that is up to one off.
    """
    levels = levels_of(sdata.images[image_key])
    if "z" in levels[0].dims:
        raise ValueError(
            f"image {image_key!r} has {levels[0].sizes['z']} planes along z; an H&E has one: add that plane as a 2-D "
            "image with spatialdata.models.Image2DModel"
        )
    return [level.transpose("c", "y", "x") for level in levels]


def level_affine(sdata: SpatialData, image_key: str, level: int = 0, *, mpp: float | None = None) -> np.ndarray:
    """Affine (3, 3) from (x, y) in pixels of a pyramid level to µm from the image's top-left corner.

    Parameters
    ----------
    sdata
        Object that holds the image.
    image_key
        Name of the image.
    level
        The pyramid level; where its pixels lie on level 0 is measured, see :mod:`pastpy.engine.levels`.
    mpp
        µm per level-0 pixel; default: what the reader stored.

    Raises
    ------
    ValueError
        If µm/px is unknown.
    IndexError
        If the image has no such level.
    """
    from pastpy.engine.levels import level_geometry

    mpp, levels = resolve_mpp(sdata, image_key, mpp), image_levels(sdata, image_key)
    if not 0 <= level < len(levels):
        raise IndexError(f"image {image_key!r} has levels 0 to {len(levels) - 1}, not {level}")
    lies = level_geometry(levels, level)
    to_um = np.diag([*lies.scale, 1.0])
    to_um[:2, 2] = lies.offset
    return np.diag([mpp, mpp, 1.0]) @ to_um


def level0_affine(
    sdata: SpatialData, element: Any, image_key: str, *, name: str, coordinate_system: str = _keys.COORDINATE_SYSTEM
) -> np.ndarray:
    """Affine (3, 3) from an element's intrinsic (x, y) to level-0 pixels of an image.

    Parameters
    ----------
    sdata
        Object that holds the image.
    element
        The element whose coordinates are mapped.
    image_key
        Name of the image.
    name
        Name of the element, for messages.
    coordinate_system
        Coordinate system in which both meet.

    Raises
    ------
    ValueError
        If either is not in that coordinate system, a transformation cannot be inverted, or the two lie at a scale that
        no units explain.
    """
    from spatialdata.transformations import get_transformation

    image = finest(sdata.images[image_key])
    matrices = []
    for what, thing in ((f"element {name!r}", element), (f"image {image_key!r}", image)):
        known = get_transformation(thing, get_all=True)
        if coordinate_system not in known:
            raise ValueError(
                f"{what} is not in coordinate system {coordinate_system!r} (it is in {sorted(known)}); align it with "
                "spatialdata.transformations.set_transformation"
            )
        matrices.append(known[coordinate_system].to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y")))
    to_common, image_to_common = matrices
    for what, matrix in ((f"element {name!r}", to_common), (f"image {image_key!r}", image_to_common)):
        # Whether a matrix can be inverted does not depend on the unit of the coordinate system: metres are fine.
        if not np.isfinite(matrix).all() or np.linalg.cond(matrix[:2, :2]) > 1e9:
            raise ValueError(f"the transformation of {what} to {coordinate_system!r} cannot be inverted:\n{matrix}")
    affine = np.linalg.inv(image_to_common) @ to_common
    scale = np.linalg.norm(affine[:2, :2], 2)
    if not (np.isfinite(affine).all() and _SCALE[0] <= scale <= _SCALE[1]):
        raise ValueError(
            f"element {name!r} and image {image_key!r} meet in {coordinate_system!r} at a scale that cannot be: one "
            f"unit of the element is {scale:g} pixels; correct one of their transformations"
        )
    return affine


def rows_alone(sdata: SpatialData, table_key: str, shapes_key: str) -> np.ndarray | None:
    """Tell which rows of a table annotate ``shapes_key``, bool (n,); ``None`` where it annotates nothing else."""
    table = sdata.tables[table_key]
    if len(regions_of(table)) < 2:
        return None
    return _annotates(table, shapes_key)


def _annotates(table: AnnData, shapes_key: str) -> np.ndarray:
    """Whether each row of a table is one of some shapes, bool (n,)."""
    from spatialdata.models import TableModel

    region_key = table.uns[TableModel.ATTRS_KEY][TableModel.REGION_KEY_KEY]
    return table.obs[region_key].astype(str).to_numpy() == shapes_key


def table_rows(sdata: SpatialData, table_key: str, shapes_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a table that annotate ``shapes_key`` and the position of each one's shape, −1 where it has none.

    Returns
    -------
    rows
        int (k,), positions in the table.
    shape_positions
        int (k,), positions in the shapes element.

    Raises
    ------
    ValueError
        If an id stands more than once in the index of the shapes or among the rows: whose row is whose is then unknown.
        If no id at all is in the index.
    """
    import pandas as pd
    from spatialdata.models import TableModel

    table, shapes = sdata.tables[table_key], sdata.shapes[shapes_key]
    attrs = table.uns[TableModel.ATTRS_KEY]
    rows = np.flatnonzero(_annotates(table, shapes_key))
    if shapes.index.has_duplicates:
        twice = shapes.index[shapes.index.duplicated()].tolist()[0]
        raise ValueError(f"shapes {shapes_key!r} has the index {twice!r} more than once; make its index unique")
    instance_key = attrs[TableModel.INSTANCE_KEY]
    ids = pd.Index(table.obs[instance_key].to_numpy()[rows])
    again = ids.duplicated() & ids.notna()
    if again.any():
        twice = ids[again].unique().tolist()
        raise ValueError(
            f"obs[{instance_key!r}] of table {table_key!r} has {len(twice)} ids of {shapes_key!r} more than once "
            f"({', '.join(map(repr, twice[:5]))}); keep one row of each"
        )
    positions = shapes.index.get_indexer(ids)
    if len(rows) and len(shapes) and not (positions >= 0).any():
        one, other = (f"{index.dtype}, e.g. {index.tolist()[0]!r}" for index in (ids, shapes.index))
        raise ValueError(
            f"no id in obs[{instance_key!r}] of table {table_key!r} ({one}) is in the index of shapes {shapes_key!r} "
            f"({other}); make them the same ids, of one type"
        )
    return rows, positions


@dataclass(frozen=True)
class UnitGeometry:
    """Where the rows of a table lie on an image.

    Attributes
    ----------
    geometry
        Shapes of the rows in level-0 pixels: a GeoSeries-like array of shapely polygons or points, ``None`` where a
        row has no shape.
    radius
        Radius in level-0 pixels where the shape is a circle, NaN where it is a polygon.
    centroids
        float64 (n, 2), x and y in level-0 pixels, NaN where a row has no shape.
    mpp
        µm per level-0 pixel.
    """

    geometry: np.ndarray
    radius: np.ndarray
    centroids: np.ndarray
    mpp: float

    @property
    def spatial_um(self) -> np.ndarray:
        """float64 (n, 2), µm from the image's top-left corner."""
        return self.centroids * self.mpp

    @property
    def area_um2(self) -> np.ndarray:
        """float64 (n,), µm², NaN where a row has no shape."""
        import shapely

        circles = np.isfinite(self.radius)
        area = np.where(circles, np.pi * self.radius**2, shapely.area(self.geometry))
        return np.where(np.isfinite(self.centroids[:, 0]), area * self.mpp**2, np.nan)


def unit_geometry(
    sdata: SpatialData,
    table_key: str,
    shapes_key: str,
    image_key: str,
    *,
    mpp: float,
    coordinate_system: str = _keys.COORDINATE_SYSTEM,
) -> UnitGeometry:
    """Shapes and centroids of a table's rows on an image, in level-0 pixels.

    Rows that annotate other elements, or have no shape, come out as ``None`` and NaN, in the table's order.
    """
    shapes = sdata.shapes[shapes_key]
    affine = level0_affine(sdata, shapes, image_key, name=shapes_key, coordinate_system=coordinate_system)
    rows, positions = table_rows(sdata, table_key, shapes_key)
    n = sdata.tables[table_key].n_obs
    geometry, radius, centroids = transform_shapes(shapes, affine)
    found = positions >= 0
    out = UnitGeometry(
        geometry=np.full(n, None, dtype=object), radius=np.full(n, np.nan), centroids=np.full((n, 2), np.nan), mpp=mpp
    )
    out.geometry[rows[found]] = geometry[positions[found]]
    out.radius[rows[found]] = radius[positions[found]]
    out.centroids[rows[found]] = centroids[positions[found]]
    return out


def transform_shapes(shapes: GeoDataFrame, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map a shapes element by an affine; a circle's radius is scaled by the square root of the determinant.

    A shape without a place (none, empty, NaN or infinite coordinates, a circle of unknown radius) is ``None`` and NaN.
    """
    import shapely

    geometry = shapes.geometry.to_numpy()
    if not np.array_equal(affine, np.eye(3)):  # a million polygons are not copied without need
        geometry = shapely.transform(geometry, _apply(affine))
    points = shapely.get_type_id(geometry) == shapely.GeometryType.POINT
    radius = np.full(len(shapes), np.nan)
    if points.any():
        scale = float(np.sqrt(abs(np.linalg.det(affine[:2, :2]))))
        radius[points] = shapes["radius"].to_numpy(dtype=float)[points] * scale
    with np.errstate(invalid="ignore"):
        centre = shapely.centroid(geometry)
    placed = ~(shapely.is_missing(centre) | shapely.is_empty(centre)) & (np.isfinite(radius) | ~points)
    centroids = np.full((len(shapes), 2), np.nan)
    centroids[placed] = shapely.get_coordinates(centre[placed])
    placed &= np.isfinite(centroids).all(axis=1)
    if not placed.all():
        geometry = geometry.copy()
        geometry[~placed], radius[~placed], centroids[~placed] = None, np.nan, np.nan
    return geometry, radius, centroids


def _apply(affine: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def mapped(xy: np.ndarray) -> np.ndarray:
        return xy @ affine[:2, :2].T + affine[:2, 2]

    return mapped
