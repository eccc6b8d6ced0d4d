"""CosMx flat files, each validated: cells, counts, outlines, and positions of the fields of view."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from geopandas import GeoSeries
    from pandas import DataFrame
    from scipy.sparse import csr_matrix

__all__ = ["CELL", "CENTRE", "find_files", "pixel_size", "read_cells", "read_counts", "read_polygons"]

FOV = "fov"
CELL = "cell_ID"
#: Centre of a cell in global pixels.
CENTRE = ("CenterX_global_px", "CenterY_global_px")

_PATTERNS = {
    "counts": "*exprMat_file.csv",
    "metadata": "*metadata_file.csv",
    "fov_positions": "*fov_positions_file.csv",
    "polygons": "*polygons.csv",
}
#: Rows of the counts table that are held as a dense block while it is read.
_ROWS = 4096


def find_files(folder: Path) -> dict[str, Path]:
    """The flat files of a folder by kind; ``polygons`` only where there is one.

    Raises
    ------
    FileNotFoundError
        If a needed one is missing.
    ValueError
        If there are several of a kind.
    """
    files: dict[str, Path] = {}
    for kind, pattern in _PATTERNS.items():
        found = sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])
        if len(found) > 1:
            raise ValueError(
                f"CosMx folder {folder.name} has several {pattern}: {[f.name for f in found]}; keep one run"
            )
        if found:
            files[kind] = found[0]
    missing = [pattern for kind, pattern in _PATTERNS.items() if kind not in files and kind != "polygons"]
    if missing:
        raise FileNotFoundError(f"CosMx folder {folder.name} lacks {', '.join(missing)}; export all flat files")
    return files


def read_cells(path: Path) -> DataFrame:
    """Metadata of the cells, index ``"fov_cell"``."""
    cells = _read(path, (FOV, CELL, *CENTRE))
    if not np.isfinite(cells[list(CENTRE)].to_numpy(dtype=float)).all():
        raise ValueError(f"{path.name}: a centre of a cell is missing")
    return cells.set_index(_keys_of(cells, CELL, path))


def read_counts(path: Path) -> tuple[csr_matrix, pd.Index, list[str]]:
    """Counts (n_cells, n_genes) without the rows of transcripts outside cells, keys ``"fov_cell"``, genes."""
    import pandas as pd
    from scipy.sparse import csr_matrix, vstack

    # The header is read apart: pandas would rename a gene that is there twice.
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        header = next(csv.reader(file), [])
    names = [name for name in header if name not in {FOV, CELL, "cell", "cell_id"}]
    if not {FOV, CELL} <= set(header) or not names:
        raise ValueError(f"{path.name} has no column {FOV!r}, {CELL!r} or no gene; got {header[:5]}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path.name} has the gene {next(n for n in names if names.count(n) > 1)!r} more than once")
    blocks, keys = [], []
    for block in pd.read_csv(path, chunksize=_ROWS):
        block = block[block[CELL] != 0]
        values = block[names].to_numpy(dtype=float)
        if not ((values >= 0) & (values == np.floor(values)) & (values < 2**31)).all():  # NaN is wrong too
            raise ValueError(
                f"{path.name} has values that are not counts; raw counts (non-negative integers) are needed"
            )
        blocks.append(csr_matrix(values.astype(np.int32)))
        keys.append(_keys_of(block, CELL, path))
    index = keys[0].append(keys[1:]) if keys else pd.Index([])
    _refuse_duplicates(index, path)
    return csr_matrix(vstack(blocks)) if blocks else csr_matrix((0, len(names)), dtype=np.int32), index, names


def read_polygons(path: Path) -> GeoSeries:
    """Outlines of cells in global pixels, index ``"fov_cell"``; what has fewer than three corners is left out."""
    import geopandas as gpd
    import pandas as pd
    import shapely

    vertices = _read(path, (FOV, "x_global_px", "y_global_px"))
    cell = next((name for name in ("cellID", CELL) if name in vertices), None)
    if cell is None:
        raise ValueError(f"{path.name} has no column 'cellID'; got {list(vertices.columns)}")
    codes, keys = pd.factorize(_keys_of(vertices, cell, path, unique=False))
    order = np.argsort(codes, kind="stable")
    corners = vertices[["x_global_px", "y_global_px"]].to_numpy(dtype=float)[order]
    if not np.isfinite(corners).all():
        raise ValueError(f"{path.name}: a corner of an outline is missing")
    enough = np.bincount(codes, minlength=len(keys)) >= 3
    used = enough[codes[order]]
    rings = shapely.linearrings(corners[used], indices=np.unique(codes[order][used], return_inverse=True)[1])
    return gpd.GeoSeries(shapely.polygons(rings), index=pd.Index(keys)[enough])


def pixel_size(path: Path) -> float | None:
    """µm per pixel, from positions of fields of view in both units; ``None`` where the file does not have them."""
    positions = _read(path, ())
    positions.columns = [str(name).lower() for name in positions.columns]
    if FOV not in positions:
        raise ValueError(f"{path.name} has no column 'fov'; got {list(positions.columns)}")
    for mm in (("x_global_mm", "y_global_mm"), ("x_mm", "y_mm")):
        if {*mm, "x_global_px", "y_global_px"} <= set(positions.columns) and len(positions) > 1:
            px = positions[["x_global_px", "y_global_px"]].to_numpy(dtype=float)
            um = positions[list(mm)].to_numpy(dtype=float) * 1000
            far = np.linalg.norm(px - px[0], axis=1).argmax()
            apart = np.linalg.norm(px[far] - px[0])
            return float(np.linalg.norm(um[far] - um[0]) / apart) if apart > 0 else None
    return None


def _read(path: Path, columns: tuple[str, ...]) -> DataFrame:
    import pandas as pd

    table = pd.read_csv(path)
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(f"{path.name} has no column {missing[0]!r}; got {list(table.columns)[:12]}")
    return table


def _keys_of(table: DataFrame, cell: str, path: Path, *, unique: bool = True) -> pd.Index:
    import pandas as pd

    keys = pd.Index(table[FOV].astype(int).astype(str) + "_" + table[cell].astype(int).astype(str), dtype=object)
    if unique:
        _refuse_duplicates(keys, path)
    return keys


def _refuse_duplicates(keys: pd.Index, path: Path) -> None:
    if keys.has_duplicates:
        raise ValueError(f"{path.name} has the cell {keys[keys.duplicated()][0]!r} (fov_cell) more than once")
