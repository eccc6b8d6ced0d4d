"""Reader of Spatial Transcriptomics tables: an H&E photograph, a counts table and a spot table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._elements import check_mpp, set_mpp
from pastpy.io._damaged import read_file
from pastpy.io._st_files import existing, read_counts, read_image, read_spots

if TYPE_CHECKING:
    from pandas import DataFrame
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

__all__ = ["assemble_st", "read_st"]

#: Instance key of the spot table: ``"{x}x{y}"``.
SPOT_ID = "spot_id"

# Images longer than this get a pyramid, so that overviews do not decode level 0.
_PYRAMID_FROM = 4096
_CHUNK = 1024


def read_st(
    image: str | Path,
    counts: str | Path,
    spots: str | Path,
    *,
    mpp: float,
    spot_diameter_um: float,
    image_key: str = _keys.IMAGE,
) -> SpatialData:
    """Read a Spatial Transcriptomics section (H&E, counts, spot positions) as SpatialData.

    Spots are the inner join of the counts and the spot table. Where the spot table has a column ``selected``, only its
    rows with 1 are spots on tissue.

    Parameters
    ----------
    image
        H&E image, 8-bit JPEG, PNG or TIFF. Pixels are taken as stored (no EXIF rotation), since spot positions refer
        to them.
    counts
        Tab-separated raw counts, plain or gzip: a row a spot with the key ``"{x}x{y}"`` first, a column a gene.
    spots
        Tab-separated spot table with columns ``x``, ``y`` (array coordinates, integers), ``pixel_x``, ``pixel_y``
        (pixels of ``image``, (0, 0) = its top-left corner) and optionally ``selected``.
    mpp
        µm per pixel of ``image``.
    spot_diameter_um
        Diameter of a spot in µm.
    image_key
        Name of the image element.

    Returns
    -------
    SpatialData
        ``images[image_key]`` (c, y, x) uint8, a pyramid where a side exceeds 4096 px; ``tables["spots"]``,
        int32 CSR counts (n_spots, n_genes) with ``obs`` columns ``region``, ``spot_id``, ``array_row``, ``array_col``,
        ``n_counts``, ``obsm["spatial"]`` (n_spots, 2) in µm, and ``uns["past"]["read_st"]`` with the diameter;
        ``shapes["spot_circles"]``, the circles that the table annotates, in level-0 pixels with the spot keys as index
        (SpatialData wants names to differ between shapes and tables); ``attrs["past"]["mpp"][image_key]``. The
        coordinate system ``global`` is level-0 pixels.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing.
    ValueError
        If a column is missing, a key or gene is there twice, counts are not non-negative integers, a position is NaN
        or outside the image, no spot is in both tables, the image is not 8-bit, or ``mpp`` or ``spot_diameter_um`` is
        not positive.

    References
    ----------
    Ståhl et al., Science 353:78–82 (2016), https://doi.org/10.1126/science.aaf2403

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.io.read_st(
    ...     "C3.jpg", "C3.tsv.gz", "C3_selection.tsv", mpp=0.69, spot_diameter_um=100
    ... )  # doctest: +SKIP
    """
    mpp, spot_diameter_um = check_mpp(mpp), _check_diameter(spot_diameter_um)
    files = [existing(image, "image"), existing(counts, "counts table"), existing(spots, "spot table")]
    positions = read_file(read_spots, files[2], "spot table")
    matrix, spot_ids, genes = read_file(read_counts, files[1], "counts table")
    rows = spot_ids.get_indexer(positions.index)
    positions, rows = positions[rows >= 0], rows[rows >= 0]
    if not len(rows):
        raise ValueError(
            f"no spot is in both tables: {files[1].name} has keys like {list(spot_ids[:3])}, {files[2].name} has other "
            'ones; keys must be "{x}x{y}"'
        )
    pixels = read_image(files[0], name=files[0].name)
    _check_inside(positions, pixels.shape[:2], files[0])
    return assemble_st(
        pixels, matrix[rows], genes, positions, mpp=mpp, spot_diameter_um=spot_diameter_um, image_key=image_key
    )


def assemble_st(
    pixels: np.ndarray,
    counts: csr_matrix,
    genes: list[str],
    positions: DataFrame,
    *,
    mpp: float,
    spot_diameter_um: float,
    image_key: str = _keys.IMAGE,
) -> SpatialData:
    """Build the object of :func:`read_st` from arrays.

    Parameters
    ----------
    pixels
        uint8 (height, width, 3).
    counts
        Sparse counts (n_spots, n_genes).
    genes
        Unique gene names (n_genes).
    positions
        A row a spot, index = spot keys, columns ``x``, ``y``, ``pixel_x``, ``pixel_y``.
    mpp
        µm per pixel.
    spot_diameter_um
        Diameter of a spot in µm.
    image_key
        Name of the image element.

    Raises
    ------
    ValueError
        If ``mpp`` or ``spot_diameter_um`` is not positive.
    """
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    mpp = check_mpp(mpp)
    radius = _check_diameter(spot_diameter_um) / 2 / mpp
    index = pd.Index(positions.index.to_numpy(dtype=object), dtype=object)
    xy = positions[["pixel_x", "pixel_y"]].to_numpy(dtype=float)
    obs = pd.DataFrame(
        {
            _keys.REGION: pd.Categorical([_keys.SPOT_SHAPES] * len(index)),
            SPOT_ID: index.to_numpy(),
            "array_row": positions["y"].to_numpy(dtype=np.int64),
            "array_col": positions["x"].to_numpy(dtype=np.int64),
            "n_counts": np.asarray(counts.sum(axis=1)).ravel().astype(np.int64),
        },
        index=index,
    )
    table = AnnData(X=counts, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))
    table.obsm[_keys.SPATIAL] = xy * mpp
    table.uns[_keys.PAST] = {"read_st": {"mpp": float(mpp), "spot_diameter_um": float(spot_diameter_um)}}
    sdata = SpatialData(
        images={image_key: _parse_image(pixels)},
        shapes={_keys.SPOT_SHAPES: ShapesModel.parse(xy, geometry=0, radius=radius, index=index)},
        tables={
            _keys.SPOTS: TableModel.parse(
                table, region=_keys.SPOT_SHAPES, region_key=_keys.REGION, instance_key=SPOT_ID
            )
        },
    )
    set_mpp(sdata, image_key, mpp)
    return sdata


def _parse_image(pixels: np.ndarray) -> object:
    from spatialdata.models import Image2DModel

    return Image2DModel.parse(
        np.ascontiguousarray(pixels.transpose(2, 0, 1)),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        # Each factor is relative to the level before: levels at 1/2 and 1/4.
        scale_factors=[2, 2] if max(pixels.shape[:2]) > _PYRAMID_FROM else None,
        chunks=(3, _CHUNK, _CHUNK),
    )


def _check_diameter(value: object) -> float:
    if not isinstance(value, int | float | np.number) or not (np.isfinite(value) and value > 0):
        raise ValueError(f"spot_diameter_um must be a positive number of µm, got {value!r}")
    return float(value)


def _check_inside(positions: DataFrame, shape: tuple[int, int], image: Path) -> None:
    height, width = shape
    x, y = positions["pixel_x"].to_numpy(), positions["pixel_y"].to_numpy()
    outside = (x < 0) | (y < 0) | (x > width) | (y > height)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"{outside.sum()} of {len(positions)} spots lie outside the image {image.name} ({width}×{height} px), the "
            f"first is {positions.index[first]!r} at ({x[first]:g}, {y[first]:g}); "
            "pixel_x and pixel_y must refer to this image"
        )
