"""Files of a Spatial Transcriptomics section: the image, the counts and the spots, each validated."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from pastpy.io._counts import are_counts, header_of, refuse_duplicates
from pastpy.io._slide import opaque

if TYPE_CHECKING:
    import pandas as pd
    from pandas import DataFrame
    from scipy.sparse import csr_matrix

__all__ = ["existing", "read_counts", "read_image", "read_spots", "unzipped"]

#: Columns of a spot table: array coordinates and pixels of the full-resolution image.
SPOT_COLUMNS = ("x", "y", "pixel_x", "pixel_y")

# An RGB image of this many pixels takes 6 GiB once decoded; beyond that a tiled reader is the right tool.
_MAX_PIXELS = 2**31


def read_image(path: Path | IO[bytes], *, name: str = "") -> np.ndarray:
    """Read an 8-bit image file as uint8 (height, width, 3), what is transparent over white.

    Parameters
    ----------
    path
        File, or an open binary file.
    name
        What messages call it.

    Raises
    ------
    ValueError
        If the file is no image, is not 8-bit grey or colour, or has more than 2³¹ pixels.
    """
    from PIL import Image

    with _large_images_allowed():
        try:
            opened = Image.open(path)
        except (OSError, SyntaxError, struct.error) as error:  # UnidentifiedImageError is an OSError
            raise ValueError(f"image {name} is no picture (JPEG, PNG, BMP, TIFF) or slide that can be read") from error
        with opened:
            width, height = opened.size
            if width * height > _MAX_PIXELS:
                raise ValueError(
                    f"image {name} has {width}×{height} pixels, too many to hold in memory; crop or "
                    "downsample it, and change pixel_x, pixel_y and mpp accordingly"
                )
            if opened.mode not in {"RGB", "RGBA", "L", "P"}:
                raise ValueError(f"image {name} has mode {opened.mode!r}; expected 8-bit RGB, convert it first")
            try:
                if not opened.has_transparency_data:
                    return np.asarray(opened.convert("RGB"))
                return opaque(np.asarray(opened.convert("RGBA")).transpose(2, 0, 1)).transpose(1, 2, 0)
            except (OSError, SyntaxError, ValueError, struct.error) as error:  # Pillow's own, for a file cut short
                raise ValueError(f"image {name} cannot be decoded ({error}); is it complete?") from error


@contextmanager
def _large_images_allowed() -> Iterator[None]:
    # Pillow refuses large images as possible decompression bombs. The file is one the user named on this machine, and
    # our own limit is checked from the header before anything is decoded.
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def existing(path: str | Path, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{what} {str(path)!r} is not a file; check the path")
    return path


def unzipped(content: bytes) -> bytes:
    """What gzip has packed, or the bytes as they are."""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def read_spots(path: Path) -> DataFrame:
    """Spot table with the spot keys as index, only spots on tissue, validated."""
    import pandas as pd

    spots = pd.read_csv(path, sep="\t")
    missing = [column for column in SPOT_COLUMNS if column not in spots]
    if missing:
        raise ValueError(
            f"spot table {path.name} has no column {missing[0]!r}; expected the tab-separated columns "
            f"{list(SPOT_COLUMNS)}, got {list(spots.columns[:8])}"
        )
    if "selected" in spots:
        spots = spots[spots["selected"] == 1]
    values = spots[list(SPOT_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(f"spot table {path.name}, row {bad.idxmax() + 2}: a coordinate is missing or not a number")
    array = values[["x", "y"]]
    if (array % 1 != 0).any(axis=None):
        raise ValueError(f"spot table {path.name}: columns 'x' and 'y' must be whole array coordinates")
    array = array.astype(np.int64)
    values = values.assign(x=array["x"], y=array["y"])
    values.index = pd.Index(array["x"].astype(str) + "x" + array["y"].astype(str), dtype=object)
    refuse_duplicates(values.index, f"spot table {path.name}", "spot")
    return values


def read_counts(path: Path) -> tuple[csr_matrix, pd.Index, list[str]]:
    """Counts (all rows of the file), spot keys and genes, validated."""
    import pandas as pd
    from scipy.sparse import csr_matrix

    header = header_of(path, "\t")
    if not header:
        raise ValueError(f"counts table {path.name} is empty")
    body = pd.read_csv(path, sep="\t", header=None, skiprows=1, index_col=0, dtype={0: str}, low_memory=False)
    if len(header) == body.shape[1] + 1:  # R leaves out the corner cell, others leave it empty
        header = header[1:]
    if len(header) != body.shape[1] or not header:
        raise ValueError(
            f"counts table {path.name} has {len(header)} gene names for {body.shape[1]} columns; expected a "
            "tab-separated table with spots in rows, genes in columns and the spot key first"
        )
    genes, spot_ids = pd.Index(header, dtype=object), pd.Index(body.index, dtype=object)
    refuse_duplicates(genes, f"counts table {path.name}", "gene")
    refuse_duplicates(spot_ids, f"counts table {path.name}", "spot")
    for gene, kind in zip(genes, body.dtypes, strict=True):
        if not pd.api.types.is_numeric_dtype(kind):
            raise ValueError(f"counts table {path.name}, gene {gene!r}: values must be numbers")
    values = body.to_numpy()
    wrong = ~are_counts(values)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"counts table {path.name}, spot {spot_ids[row]!r}, gene {genes[column]!r}: {values[row, column]} is not a "
            "count; raw counts (non-negative integers) are needed"
        )
    return csr_matrix(values.astype(np.int32)), spot_ids, list(genes)
