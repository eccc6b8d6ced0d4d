"""Nuclei of a whole slide: blocks are segmented one after the other and merged into shapes and a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._cell_elements import cell_table, planar_transformations
from pastpy._elements import image_levels, require_spatialdata, resolve_image, resolve_mpp
from pastpy._names import check_distinct, check_new
from pastpy._provenance import record
from pastpy._settings import show_progress
from pastpy.pp._blocks import Block, WorkingImage, plan_blocks
from pastpy.pp._objects import measure_objects, outlines
from pastpy.pp._seams import keep_once
from pastpy.pp._segmenters import SEGMENTERS, Segment, load_segmenter, name_of, user_segmenter
from pastpy.pp._watershed import NucleiParameters, haematoxylin, watershed_nuclei

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["segment_nuclei"]

# Nuclei are some 6 µm wide: on coarser pixels there is nothing to outline.
_COARSEST_MPP = 2.0
# Below this nearly all of what is read is halo.
_SMALLEST_BLOCK = 64
# How far beyond its core a block hands over nuclei: blocks that disagree on one put its centroid less than this apart.
_SEAM_UM = 5.0
#: Blocks begin at multiples of this, pixels: networks pool pixels in groups, which are then the same in every block.
_GRID_PX = 32
# Windows of the slide, pixels a side and in all, from which a network's scaling is taken.
_SAMPLE_PX = 128
_SAMPLES = 64


def segment_nuclei(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    method: str | Callable[..., np.ndarray] = "watershed",
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
    the size of the blocks. Other segmenters see the same blocks; where two of those disagree on a nucleus at their
    seam, it is still there once.

    Parameters
    ----------
    sdata
        Object with an H&E image, (c, y, x), RGB or RGBA (alpha is dropped); may be lazy. 8-bit values are used as they
        are, other integers are divided by their type's maximum, floats must lie between 0 and 1.
    image_key
        Name of the image; default: the only one that pastpy did not write.
    method
        ``"watershed"``; ``"instanseg"``, ``"stardist"`` or ``"cellpose"``, which are packages of their own and fetch
        nothing here; or a callable ``rgb -> labels`` or ``(rgb, mpp) -> labels`` that gets uint8 (h, w, 3), and µm per
        pixel, and returns non-negative integers (h, w), 0 for background. The limits of area are then its own affair.
    parameters
        Lengths, areas and thresholds; ``target_mpp`` and the halo hold for the other methods too. Default: those of
        :class:`NucleiParameters`, at the µm/px that a segmenter by name works at.
    mpp
        µm per level-0 pixel; default: what the reader stored.
    key_added
        Name of the shapes.
    table_key_added
        Name of the table.
    block_px
        Side of a block without its halo, in pixels of the working resolution; for networks best a multiple of 32.
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
    ModuleNotFoundError, FileNotFoundError
        If a segmenter, or its weights, are not on this machine; the message says how to get them.
    ValueError
        If µm/px is unknown or coarser than 2, the image is not RGB, a name is taken or not allowed, a callable returns
        something else than labels or fails, or no nucleus is found. The object is then unchanged.

    References
    ----------
    Ruifrok & Johnston, Anal Quant Cytol Histol 23:291–299 (2001): colour deconvolution.
    Niblack, An Introduction to Digital Image Processing (1986): local threshold.
    Vincent & Soille, IEEE TPAMI 13:583–598 (1991), https://doi.org/10.1109/34.87344: watershed.
    Goldsborough et al., arXiv:2408.15954 (2024): InstanSeg.
    Schmidt et al., MICCAI (2018), https://doi.org/10.1007/978-3-030-00934-2_30: StarDist.
    Stringer et al., Nat Methods 18:100–106 (2021), https://doi.org/10.1038/s41592-020-01018-x: Cellpose.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.pp.segment_nuclei(sdata)
    >>> sdata["cells"].obs.columns.tolist()
    ['region', 'cell_id', 'area_um2', 'eccentricity', 'haematoxylin_od']
    """
    sdata = require_spatialdata(sdata)
    image_key = resolve_image(sdata, image_key)
    mpp = resolve_mpp(sdata, image_key, mpp)
    _check_arguments(image_key, method, mpp, block_px)
    _check_names(sdata, key_added, table_key_added, overwrite)
    if parameters is None:
        named = SEGMENTERS.get(method) if isinstance(method, str) else None
        parameters = NucleiParameters(target_mpp=named.mpp) if named else NucleiParameters()
    image = WorkingImage(image_levels(sdata, image_key), mpp=mpp, target_mpp=parameters.target_mpp, name=image_key)
    segment = _segmenter(method, image, parameters)
    halo_px = _GRID_PX * int(np.ceil(parameters.halo_um / image.mpp / _GRID_PX))
    blocks = plan_blocks(*image.shape, block_px=block_px, halo_px=halo_px)
    nuclei = _merge(_segment_blocks(image, segment, blocks, progress=progress), _SEAM_UM / image.mpp)
    if not len(nuclei):
        raise ValueError(
            f"no nucleus found on image {image_key!r}; check that mpp={mpp:g} µm/px is right, that the image is H&E "
            "with its channels in the order red, green, blue, and that the parameters fit the stain"
        )
    nuclei["geometry"] = _to_level0(nuclei["geometry"].to_numpy(), image.level0_px)
    shapes, table = _elements(sdata, nuclei, image_key, key_added, mpp)
    facts = {
        "method": method if isinstance(method, str) else name_of(method),
        "image_key": image_key,
        "mpp": mpp,
        "working_mpp": image.mpp,
        "block_px": block_px,
        "parameters": asdict(parameters),
    }
    record(table, "segment_nuclei", facts)
    _write(sdata, shapes, key_added, table, table_key_added)


def _check_arguments(image_key: str, method: object, mpp: float, block_px: int) -> None:
    names = ["watershed", *SEGMENTERS]
    if not callable(method) and method not in names:
        raise ValueError(f"method must be one of {names} or a callable rgb -> labels, got {method!r}")
    if mpp > _COARSEST_MPP:
        raise ValueError(
            f"image {image_key!r} has {mpp:g} µm/px, too coarse for nuclei; {_COARSEST_MPP:g} µm/px or finer is needed"
        )
    if not isinstance(block_px, (int, np.integer)) or block_px < _SMALLEST_BLOCK:
        raise ValueError(f"block_px must be a whole number of at least {_SMALLEST_BLOCK}, got {block_px!r}")


def _check_names(sdata: SpatialData, shapes_key: str, table_key: str, overwrite: bool) -> None:
    """Refuse names that SpatialData would refuse after the computation."""
    check_new(sdata, shapes_key, "key_added", replaces=sdata.shapes, overwrite=overwrite)
    check_new(sdata, table_key, "table_key_added", replaces=sdata.tables, overwrite=overwrite)
    check_distinct(key_added=shapes_key, table_key_added=table_key)


def _segmenter(method: str | Callable[..., np.ndarray], image: WorkingImage, parameters: NucleiParameters) -> Segment:
    if not isinstance(method, str):
        return user_segmenter(method)
    if method == "watershed":
        return partial(watershed_nuclei, parameters=parameters)
    return load_segmenter(method, _sample(image))


def _sample(image: WorkingImage) -> np.ndarray:
    """Pixels of windows spread evenly over the slide, uint8 (n, 3); they do not depend on the blocks."""
    windows = plan_blocks(*image.shape, block_px=_SAMPLE_PX, halo_px=0)
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _SAMPLES)).round().astype(int))
    return np.concatenate([image.read(windows[i].core).reshape(-1, 3) for i in chosen])


def _segment_blocks(image: WorkingImage, segment: Segment, blocks: list[Block], *, progress: bool) -> list[DataFrame]:
    from tqdm import tqdm

    # One after the other: two threads took the same time (docs/segmentation.md) and more memory.
    shown = tqdm(blocks, desc="nuclei", unit="block", disable=not show_progress(progress))
    return [_segment_block(image, segment, block).assign(block=i) for i, block in enumerate(shown)]


def _segment_block(image: WorkingImage, segment: Segment, block: Block) -> DataFrame:
    """Nuclei whose centroid lies in a block's core, or just beyond a seam: working pixels of the whole image."""
    import pandas as pd
    import shapely

    rgb = image.read(block.outer)
    labels = segment(rgb, image.mpp)
    origin = block.outer[0], block.outer[2]
    found = measure_objects(labels, haematoxylin(rgb), origin=origin)
    depth = _depth(found.centroid, block.core, image.shape)
    mine = depth >= -_SEAM_UM / image.mpp
    x, y = found.centroid[mine].T
    polygons = outlines(labels, found.label[mine])
    return pd.DataFrame(
        {
            "geometry": shapely.transform(polygons, lambda xy: xy + (origin[1], origin[0])),
            "x": x,
            "y": y,
            "depth": depth[mine],
            "eccentricity": found.eccentricity[mine],
            "haematoxylin_od": found.mean[mine],
        }
    )


def _depth(centroid: np.ndarray, core: tuple[int, int, int, int], shape: tuple[int, int]) -> np.ndarray:
    """Distance from the nearest seam, negative outside the core; the edges of the image are none."""
    top, bottom, left, right = core
    x, y = centroid.T
    sides = [
        (y - top, top > 0),
        (bottom - y, bottom < shape[0]),
        (x - left, left > 0),
        (right - x, right < shape[1]),
    ]
    return np.min([np.where(seam, distance, np.inf) for distance, seam in sides], axis=0)


def _merge(parts: list[DataFrame], seam_px: float) -> DataFrame:
    import pandas as pd

    filled = [part for part in parts if len(part)] or parts[:1]
    nuclei = pd.concat(filled, ignore_index=True)
    # its other version lies at most that far beyond the seam, and this one not much further from there
    near = np.flatnonzero(nuclei["depth"] < 4 * seam_px)
    kept = keep_once(*(nuclei[column].to_numpy()[near] for column in ("geometry", "depth", "block")))
    # Order by position, not by block: the ids of nuclei must not depend on the size of blocks.
    return nuclei.drop(index=near[~kept]).sort_values(["y", "x"], ignore_index=True)


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
