"""A slide of any size, computed block by block when it is read: jittered nuclei on a stained ground, no file.

Every square of a lattice holds one nucleus whose place, size and colour come from a hash of the square, so any block
can be drawn without its neighbours. With it, what the benchmarks share: the machine, the report.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import dask.array as da
    from spatialdata import SpatialData

#: µm per pixel, and the pitch that gives 5,000 cells a mm².
MPP = 0.5
PITCH_PX = 1000 / MPP / 5000**0.5

_GROUND = np.array([226, 172, 205], dtype=np.float32)
_NUCLEUS = np.array([[70, 44, 126], [128, 96, 168]], dtype=np.float32)


def side_for(n_cells: int, mpp: float = MPP) -> int:
    """Side in pixels of a slide that holds about this many cells."""
    return int(round(n_cells**0.5 * PITCH_PX * MPP / mpp))


def _hash(column: np.ndarray, row: np.ndarray, salt: int) -> np.ndarray:
    """A number in [0, 1) for every square of the lattice, float32."""
    x = column.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + row.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    x += np.uint64(salt * 0x165667B19E3779F9 % 2**64)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(32)
    return ((x >> np.uint64(40)).astype(np.float32)) / np.float32(2**24)


def _nuclei(column: np.ndarray, row: np.ndarray, pitch: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centre x, y and radius in pixels, and kind (0 dark, 1 pale) of the nuclei in squares of the lattice."""
    pale = _hash(column, row, 3) < 0.5
    radius = (np.where(pale, 0.27, 0.19) + 0.02 * _hash(column, row, 4)) * np.float32(pitch)
    room = pitch - 2 * radius
    x = column * pitch + radius + room * _hash(column, row, 1)
    y = row * pitch + radius + room * _hash(column, row, 2)
    return x, y, radius, pale.astype(np.intp)


def draw(x0: int, y0: int, width: int, height: int, *, mpp: float = MPP) -> np.ndarray:
    """Pixels of a rectangle, uint8 (3, height, width)."""
    pitch = PITCH_PX * MPP / mpp
    columns = np.arange(int(x0 // pitch), int((x0 + width) // pitch) + 1)
    rows = np.arange(int(y0 // pitch), int((y0 + height) // pitch) + 1)
    cx, cy, radius, kind = _nuclei(*np.meshgrid(columns, rows), pitch)
    x, y = np.arange(x0, x0 + width) + 0.5, np.arange(y0, y0 + height) + 0.5
    at = np.ix_((y // pitch).astype(int) - rows[0], (x // pitch).astype(int) - columns[0])
    apart = (x.astype(np.float32)[None] - cx.astype(np.float32)[at]) ** 2
    apart += (y.astype(np.float32)[:, None] - cy.astype(np.float32)[at]) ** 2
    inside = apart <= radius[at] ** 2
    noise = np.random.default_rng([x0, y0]).integers(-12, 12, (height, width), dtype=np.int8).astype(np.float32)
    out = np.empty((3, height, width), dtype=np.uint8)
    for channel in range(3):
        colour = np.where(inside, _NUCLEUS[kind, channel][at], _GROUND[channel])
        out[channel] = np.clip(colour + noise, 0, 255)
    return out


def _block(block_info: Any = None, *, mpp: float) -> np.ndarray:
    (_, _), (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return draw(x0, y0, x1 - x0, y1 - y0, mpp=mpp)


def lazy_image(side: int, *, mpp: float = MPP, chunk: int = 1024) -> da.Array:
    """The slide as a lazy (3, side, side) array."""
    import dask.array as da

    sides = tuple(min(chunk, side - start) for start in range(0, side, chunk))
    block = partial(_block, mpp=mpp)
    return da.map_blocks(block, chunks=((3,), sides, sides), dtype=np.uint8, meta=np.empty(0, np.uint8))


def lattice_cells(side: int, *, mpp: float = MPP) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2) and radii (n,) in pixels of all nuclei that lie on the slide as a whole."""
    pitch = PITCH_PX * MPP / mpp
    lattice = np.arange(int(side // pitch))
    x, y, radius, _ = (part.ravel() for part in _nuclei(*np.meshgrid(lattice, lattice), pitch))
    return np.column_stack([x, y]).astype(float), radius.astype(float)


def slide(n_cells: int, *, mpp: float = MPP, chunk: int = 1024, outlines: str = "polygons") -> SpatialData:
    """The slide with its nuclei as a SpatialData.

    Parameters
    ----------
    n_cells
        About how many cells; 5,000 a mm².
    mpp
        µm per pixel.
    chunk
        Side of the image's blocks, pixels.
    outlines
        ``"polygons"`` of 16 vertices, or ``"circles"``: centroids and radii only.
    """
    import geopandas as gpd
    import pandas as pd
    import shapely
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel

    side = side_for(n_cells, mpp)
    centre, radius = lattice_cells(side, mpp=mpp)
    ids = np.arange(1, len(centre) + 1)
    if outlines == "circles":
        shapes = ShapesModel.parse(centre, geometry=0, radius=radius, index=ids)
    else:
        polygons = shapely.buffer(shapely.points(centre), radius, quad_segs=4)
        shapes = ShapesModel.parse(gpd.GeoDataFrame(geometry=polygons, index=ids))
    obs = pd.DataFrame({"region": pd.Categorical(["nuclei"] * len(ids)), "cell_id": ids}, index=ids.astype(str))
    table = AnnData(np.zeros((len(ids), 0), dtype=np.float32), obs=obs)
    sdata = SpatialData(
        images={"he": Image2DModel.parse(lazy_image(side, mpp=mpp, chunk=chunk), dims=("c", "y", "x"))},
        shapes={"nuclei": shapes},
        tables={"cells": TableModel.parse(table, region="nuclei", region_key="region", instance_key="cell_id")},
    )
    sdata.attrs["past"] = {"mpp": {"he": mpp}}
    return sdata


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        name = names[0] if names else name
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def report(result: Mapping[str, Any] | list[dict[str, Any]], out: Path | None) -> None:
    """Print a benchmark's result, and write it as JSON where that is asked for."""
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
