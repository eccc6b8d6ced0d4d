"""Nuclei of a whole slide: blocks are segmented one after the other and merged into shapes and a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._cell_elements import cell_table, planar_transformations
from pastpy._elements import image_levels, require_spatialdata, resolve_image, resolve_mpp
from pastpy._provenance import record
from pastpy._settings import show_progress
from pastpy.pp._blocks import Block, WorkingImage, plan_blocks
from pastpy.pp._objects import measure_objects, outlines
from pastpy.pp._watershed import NucleiParameters, haematoxylin, watershed_nuclei

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from pandas import DataFrame
    from spatialdata import SpatialData

    Segment = Callable[[np.ndarray, float], np.ndarray]

__all__ = ["segment_nuclei"]

# Nuclei are some 6 µm wide: on coarser pixels there is nothing to outline.
_COARSEST_MPP = 2.0
# Below this nearly all of what is read is halo.
_SMALLEST_BLOCK = 64


def segment_nuclei(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    method: str | Segment = "watershed",
    parameters: NucleiParameters | None = None,
    mpp: float | None = None,
    key_added: str = _keys.NUCLEI,
    table_key_added: str = _keys.CELLS,
    block_px: int = 1536,
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Find and outline the nuclei of an H&E image.

    Haematoxylin by colour deconvolution, Gaussian smoothing, a local threshold, seeds at maxima of depth and blob
    response, watershed, limits of area. The image is read in blocks with a halo, so that a slide of any size streams
    through bounded memory; a nucleus belongs to the block that holds its centroid, and the result does not depend on
    the size of the blocks.

    Parameters
    ----------
    sdata
        Object with an H&E image, (c, y, x), RGB or RGBA (alpha is dropped); may be lazy. 8-bit values are used as they
        are, other integers are divided by their type's maximum, floats must lie between 0 and 1.
    image_key
        Name of the image; default: the only one that pastpy did not write.
    method
        ``"watershed"``, or a callable ``(rgb, mpp) -> labels`` that gets uint8 (h, w, 3) with its µm per pixel and
        returns non-negative integers (h, w), 0 for background. The limits of area are then its own affair.
    parameters
        Lengths, areas and thresholds; ``target_mpp`` and the halo hold for callables too.
    mpp
        µm per level-0 pixel; default: what the reader stored.
    key_added
        Name of the shapes.
    table_key_added
        Name of the table.
    block_px
        Side of a block without its halo, in pixels of the working resolution.
    progress
        Show a progress bar.
    overwrite
        Replace elements of these names.

    Returns
    -------
    None. Writes

    - ``sdata.shapes[key_added]``: polygons in level-0 pixels, index 1, 2, … from top to bottom, with the image's own
      transformations;
    - ``sdata.tables[table_key_added]``: a row a nucleus, no genes; ``obs`` with ``region``, ``cell_id`` (index of the
      shapes), ``area_um2`` (of the polygon, µm²), ``eccentricity`` (0 round, near 1 elongated), ``haematoxylin_od``
      (mean optical density); ``obsm["spatial"]`` (n, 2), µm from the image's top-left corner; ``uns["past"]``, how it
      was made.

    Raises
    ------
    KeyError
        If the image cannot be told.
    ValueError
        If µm/px is unknown or coarser than 2, the image is not RGB, a name is taken or not allowed, a callable returns
        something else than labels, or no nucleus is found. The object is then unchanged.

    References
    ----------
    Ruifrok & Johnston, Anal Quant Cytol Histol 23:291–299 (2001): colour deconvolution.
    Niblack, An Introduction to Digital Image Processing (1986): local threshold.
    Vincent & Soille, IEEE TPAMI 13:583–598 (1991), https://doi.org/10.1109/34.87344: watershed.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.pp.segment_nuclei(sdata)
    >>> sdata["cells"].obs.columns.tolist()
    ['region', 'cell_id', 'area_um2', 'eccentricity', 'haematoxylin_od']
    """
    sdata = require_spatialdata(sdata)
    parameters = parameters or NucleiParameters()
    image_key = resolve_image(sdata, image_key)
    mpp = resolve_mpp(sdata, image_key, mpp)
    _check_arguments(image_key, method, mpp, block_px)
    _check_names(sdata, key_added, table_key_added, overwrite)
    image = WorkingImage(image_levels(sdata, image_key), mpp=mpp, target_mpp=parameters.target_mpp, name=image_key)
    segment = method if callable(method) else partial(watershed_nuclei, parameters=parameters)
    halo_px = int(np.ceil(parameters.halo_um / image.mpp))
    blocks = plan_blocks(*image.shape, block_px=block_px, halo_px=halo_px)
    nuclei = _merge(_segment_blocks(image, segment, blocks, progress=progress))
    if not len(nuclei):
        raise ValueError(
            f"no nucleus found on image {image_key!r}; check that mpp={mpp:g} µm/px is right, that the image is H&E "
            "with its channels in the order red, green, blue, and that the parameters fit the stain"
        )
    nuclei["geometry"] = _to_level0(nuclei["geometry"].to_numpy(), image.level0_px)
    shapes, table = _elements(sdata, nuclei, image_key, key_added, mpp)
    facts = {
        "method": method if isinstance(method, str) else f"{method.__module__}.{method.__qualname__}",
        "image_key": image_key,
        "mpp": mpp,
        "working_mpp": image.mpp,
        "block_px": block_px,
        "parameters": asdict(parameters),
    }
    record(table, "segment_nuclei", facts)
    _write(sdata, shapes, key_added, table, table_key_added)


def _check_arguments(image_key: str, method: str | Segment, mpp: float, block_px: int) -> None:
    if method != "watershed" and not callable(method):
        raise ValueError(f"method must be 'watershed' or a callable (rgb, mpp) -> labels, got {method!r}")
    if mpp > _COARSEST_MPP:
        raise ValueError(
            f"image {image_key!r} has {mpp:g} µm/px, too coarse for nuclei; {_COARSEST_MPP:g} µm/px or finer is needed"
        )
    if not isinstance(block_px, (int, np.integer)) or block_px < _SMALLEST_BLOCK:
        raise ValueError(f"block_px must be a whole number of at least {_SMALLEST_BLOCK}, got {block_px!r}")


def _check_names(sdata: SpatialData, shapes_key: str, table_key: str, overwrite: bool) -> None:
    """Refuse names that SpatialData would refuse after the computation."""
    if shapes_key == table_key:
        raise ValueError(f"key_added and table_key_added are both {shapes_key!r}; two elements need two names")
    kinds = {"key_added": (shapes_key, sdata.shapes), "table_key_added": (table_key, sdata.tables)}
    for argument, (name, elements) in kinds.items():
        if not re.fullmatch(r"(?!__)[\w.-]+", name) or name in {".", ".."}:
            raise ValueError(f"{argument}={name!r} is no element name; use letters, digits, '_', '-' and '.'")
        if name in sdata and name not in elements:
            raise ValueError(f"{argument}={name!r} is already the name of another kind of element; choose another name")
        if name in sdata and not overwrite:
            raise ValueError(f"this object already has {name!r}; pass overwrite=True, or another name as {argument}=")


def _segment_blocks(image: WorkingImage, segment: Segment, blocks: list[Block], *, progress: bool) -> list[DataFrame]:
    from tqdm import tqdm

    # One after the other: two threads took the same time (docs/segmentation.md) and more memory.
    shown = tqdm(blocks, desc="nuclei", unit="block", disable=not show_progress(progress))
    return [_segment_block(image, segment, block) for block in shown]


def _segment_block(image: WorkingImage, segment: Segment, block: Block) -> DataFrame:
    """Nuclei whose centroid lies in a block's core: working pixels of the whole image."""
    import pandas as pd
    import shapely

    rgb = image.read(block.outer)
    labels = _checked_labels(segment(rgb, image.mpp), rgb.shape[:2])
    top, bottom, left, right = block.core
    origin = block.outer[0], block.outer[2]
    found = measure_objects(labels, haematoxylin(rgb), origin=origin)
    x, y = found.centroid.T
    mine = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    polygons = outlines(labels, found.label[mine])
    return pd.DataFrame(
        {
            "geometry": shapely.transform(polygons, lambda xy: xy + (origin[1], origin[0])),
            "x": x[mine],
            "y": y[mine],
            "eccentricity": found.eccentricity[mine],
            "haematoxylin_od": found.mean[mine],
        }
    )


def _checked_labels(labels: Any, shape: tuple[int, ...]) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise ValueError(
            f"method must return non-negative integer labels of shape {shape}, got {labels.dtype} {labels.shape}"
        )
    return labels


def _merge(parts: list[DataFrame]) -> DataFrame:
    import pandas as pd

    # Order by position, not by block: the ids of nuclei must not depend on the size of blocks.
    filled = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(filled, ignore_index=True).sort_values(["y", "x"], ignore_index=True)


def _to_level0(polygons: np.ndarray, level0_px: tuple[float, float]) -> np.ndarray:
    import shapely

    return shapely.transform(polygons, lambda xy: xy * level0_px)


def _elements(
    sdata: SpatialData, nuclei: DataFrame, image_key: str, shapes_key: str, mpp: float
) -> tuple[GeoDataFrame, AnnData]:
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel

    ids = np.arange(1, len(nuclei) + 1)
    polygons = nuclei["geometry"].to_numpy()
    shapes = ShapesModel.parse(
        gpd.GeoDataFrame(geometry=polygons, index=ids), transformations=planar_transformations(sdata.images[image_key])
    )
    centroids = shapely.get_coordinates(shapely.centroid(polygons))
    further = nuclei[["eccentricity", "haematoxylin_od"]]
    return shapes, cell_table(ids, polygons, centroids, mpp=mpp, region=shapes_key, obs=further)


def _write(sdata: SpatialData, shapes: GeoDataFrame, shapes_key: str, table: AnnData, table_key: str) -> None:
    """Add both elements or, should SpatialData refuse one, neither."""
    before = dict(sdata.shapes), dict(sdata.tables)
    try:
        for name, elements, new in ((shapes_key, sdata.shapes, shapes), (table_key, sdata.tables, table)):
            if name in elements:
                del elements[name]
            elements[name] = new
    except Exception:
        for name, elements, old in zip((shapes_key, table_key), (sdata.shapes, sdata.tables), before, strict=True):
            if name in elements:
                del elements[name]
            if name in old:
                elements[name] = old[name]
        raise
