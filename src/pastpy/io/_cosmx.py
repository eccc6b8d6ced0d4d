"""Reader of CosMx flat files, with the H&E of the section where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._elements import check_mpp
from pastpy.io._bundle import bundle_folder, opened_by
from pastpy.io._cosmx_files import CELL, CENTRE, find_files, pixel_size, read_cells, read_counts, read_polygons
from pastpy.io._damaged import read_file
from pastpy.io._he import add_he, he_path, open_he

if TYPE_CHECKING:
    from geopandas import GeoDataFrame, GeoSeries
    from numpy.typing import ArrayLike
    from pandas import DataFrame, Index
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

__all__ = ["read_cosmx"]

#: Names of the elements, the same as those of a Xenium bundle.
_TABLE, _SHAPES = "table", "cell_boundaries"
#: How names of probes begin that are no gene.
_CONTROLS = ("NegPrb", "Negative", "FalseCode", "SystemControl")


def read_cosmx(
    path: str | Path,
    *,
    pixel_um: float | None = None,
    he_image: str | Path | None = None,
    he_alignment: str | Path | ArrayLike | None = None,
    mpp: float | None = None,
    image_key: str = _keys.IMAGE,
) -> SpatialData:
    """Read the flat files of a CosMx run, with the H&E of the section where there is one.

    Cells of all fields of view and the H&E meet in ``global``, which is CosMx's global pixels. The fluorescence and
    label images are not read.

    Parameters
    ----------
    path
        Folder with ``*_exprMat_file.csv``, ``*_metadata_file.csv``, ``*_fov_positions_file.csv`` and, where cells
        shall have their outlines, ``*-polygons.csv``; each also gzipped.
    pixel_um
        µm per CosMx pixel: 0.12028 for the commercial instrument, 0.18 for data from before it. Default: the ratio of
        the millimetres and pixels of the positions of the fields of view, where the file has both.
    he_image
        H&E of the section, anything :func:`read_wsi` takes.
    he_alignment
        3×3 affine from H&E pixels to global pixels, as a file or an array, or a keypoint file, as in
        :func:`read_xenium` (``dapi_x``, ``dapi_y`` or ``fixedX``, ``fixedY`` being global pixels).
    mpp
        µm per level-0 pixel of the H&E, to check the alignment by, in place of what the image file states.
    image_key
        Name of the H&E.

    Returns
    -------
    SpatialData
        ``tables["table"]``, CSR counts (n_cells, n_genes) of the cells in both tables, ``obs`` with the metadata,
        ``fov`` and ``cell_id`` ("fov_cell"), ``var["control"]`` for negative probes, ``obsm["spatial"]`` in µm from
        the H&E's top-left corner (from the global origin without an H&E); ``shapes["cell_boundaries"]`` in global
        pixels, polygons, or circles of the cells' area where there is no polygon file; with an H&E the image and its
        µm/px.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged or lacks a column, counts are not counts, µm/px is unknown, or the alignment cannot be.

    References
    ----------
    He et al., Nat Biotechnol 40:1794–1806 (2022), https://doi.org/10.1038/s41587-022-01483-z

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.io.read_cosmx("Run5642_S3_Quarter", pixel_um=0.18)  # doctest: +SKIP
    """
    folder = bundle_folder(path, "CosMx folder")
    files = find_files(folder)
    if (he_image is None) != (he_alignment is None):
        raise ValueError("pass he_image= and he_alignment= together: CosMx has no image to find the other by")
    with opened_by(f"CosMx folder {folder.name}"):
        stated = read_file(pixel_size, files["fov_positions"], "file")
        cells = read_file(read_cells, files["metadata"], "file")
        counts = read_file(read_counts, files["counts"], "file")
        polygons = read_file(read_polygons, files["polygons"], "file") if "polygons" in files else None
    if pixel_um is None and stated is None:
        raise ValueError(
            f"{files['fov_positions'].name} does not give positions in both pixels and millimetres; pass pixel_um= "
            "(0.12028 for the commercial instrument, 0.18 for data from before it)"
        )
    pixel_um = check_mpp(stated if pixel_um is None else pixel_um, "pixel_um")
    he = None
    if he_image is not None and he_alignment is not None:
        he = open_he(he_path(he_image), he_alignment, pixel_um=pixel_um, mpp=mpp)
    sdata = _assemble(cells, counts, polygons, pixel_um=pixel_um, name=folder.name)
    if he is not None:
        parameters = {"pixel_um": pixel_um}
        add_he(
            sdata, he, image_key, pixel_um=pixel_um, table_key=_TABLE, function="read_cosmx", parameters=parameters
        )  # fmt: skip
    return sdata


def _assemble(
    cells: DataFrame,
    counts: tuple[csr_matrix, Index, list[str]],
    polygons: GeoSeries | None,
    *,
    pixel_um: float,
    name: str,
) -> SpatialData:
    """The cells that have metadata and counts, as a table that annotates their shapes."""
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData, sanitize_table
    from spatialdata.models import TableModel

    matrix, keys, genes = counts
    rows = keys.get_indexer(cells.index)
    if not (rows >= 0).any():
        raise ValueError(f"CosMx folder {name}: no cell is in both the metadata and the counts; they are of two runs")
    cells, rows = cells[rows >= 0], rows[rows >= 0]
    # Names that differ by case only cannot be stored, so CosMx's number within the field of view gets another.
    obs = cells.drop(columns=[c for c in ("cell_id", _keys.REGION) if c in cells]).rename(columns={CELL: "cell_in_fov"})
    obs = obs.assign(fov=pd.Categorical(obs["fov"].astype(str)), cell_id=cells.index.to_numpy())
    obs[_keys.REGION] = pd.Categorical([_SHAPES] * len(obs))
    var = pd.DataFrame({"control": [g.startswith(_CONTROLS) for g in genes]}, index=pd.Index(genes, dtype=object))
    table = AnnData(X=matrix[rows], obs=obs, var=var)
    sanitize_table(table)
    table.obsm[_keys.SPATIAL] = cells[list(CENTRE)].to_numpy(dtype=float) * pixel_um
    table.uns[_keys.PAST] = {"read_cosmx": {"pixel_um": pixel_um}}
    return SpatialData(
        shapes={_SHAPES: _shapes(cells, polygons, name)},
        tables={_TABLE: TableModel.parse(table, region=_SHAPES, region_key=_keys.REGION, instance_key="cell_id")},
    )


def _shapes(cells: DataFrame, polygons: GeoSeries | None, name: str) -> GeoDataFrame:
    import geopandas as gpd
    from spatialdata.models import ShapesModel

    if polygons is not None:
        known = polygons[polygons.index.isin(cells.index)]
        if known.empty:
            raise ValueError(f"CosMx folder {name}: no outline is of a cell in the metadata; they are of two runs")
        return ShapesModel.parse(gpd.GeoDataFrame(geometry=known))
    if "Area" not in cells:
        raise ValueError(f"CosMx folder {name} has neither *-polygons.csv nor a column 'Area', so cells have no extent")
    radius = np.sqrt(cells["Area"].to_numpy(dtype=float) / np.pi)
    centres = cells[list(CENTRE)].to_numpy(dtype=float)
    return ShapesModel.parse(centres, geometry=0, radius=radius, index=cells.index)
