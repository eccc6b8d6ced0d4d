"""Read a 64-px crop of 20,000 cells: pastpy's engine against ImageTilesDataset and against slicing an array per cell.

    python benchmarks/reading.py [--out reading.json] [--side 8192] [--cells 20000]

The slide is simulated and written as SpatialData zarr and as JPEG TIFF with tiles of 256 and of 512 px. The engine
crops all cells; of the two others, which take a constant time a crop, some hundred cells spread over the slide are
timed, their set-up apart. The three are measured in turn, several times over; the ratios are medians of the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from simulated_slide import MPP, lazy_image, machine, report

if TYPE_CHECKING:
    from spatialdata import SpatialData

CROP = 64
TILES = (256, 512)


def write_slides(folder: Path, side: int) -> None:
    """The slide as SpatialData zarr and as tiled JPEG TIFF."""
    import tifffile
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel

    image = lazy_image(side, chunk=512)
    sdata = SpatialData(images={"he": Image2DModel.parse(image, dims=("c", "y", "x"))})
    sdata.attrs["past"] = {"mpp": {"he": MPP}}
    sdata.write(folder / "slide.zarr")
    pixels = image.compute().transpose(1, 2, 0)
    for tile in TILES:
        tifffile.imwrite(
            folder / f"slide_{tile}.tif", pixels, tile=(tile, tile), compression="jpeg", compressionargs={"level": 90},
            photometric="rgb", resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit=3,
        )  # fmt: skip


def with_cells(sdata: SpatialData, xy: np.ndarray) -> SpatialData:
    """The slide with circles and a table that annotates them."""
    import pandas as pd
    from anndata import AnnData
    from spatialdata.models import ShapesModel, TableModel

    ids = np.arange(len(xy))
    sdata["nuclei"] = ShapesModel.parse(xy, geometry=0, radius=CROP / 2, index=ids)
    obs = pd.DataFrame({"region": pd.Categorical(["nuclei"] * len(xy)), "cell_id": ids}, index=ids.astype(str))
    sdata["cells"] = TableModel.parse(
        AnnData(np.zeros((len(xy), 1), np.float32), obs=obs), region="nuclei", region_key="region",
        instance_key="cell_id",
    )  # fmt: skip
    return sdata


def rate(work: Callable[[], int]) -> tuple[float, float]:
    """Crops a second, by the clock and by processor time of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    n = work()
    return n / (time.perf_counter() - wall), n / (time.process_time() - cpu)


def engine(sdata: SpatialData, xy: np.ndarray) -> int:
    """All crops through the engine; touches each so that nothing stays lazy."""
    from pastpy._elements import image_levels
    from pastpy.engine import FieldReader, UnitShapes, read_crops

    n = len(xy)
    shapes = UnitShapes(xy, np.ones(n), np.zeros((0, 4)), np.zeros(n + 1, dtype=np.int64))
    reader = FieldReader(image_levels(sdata, "he"), mpp=MPP, target_mpp=MPP)
    return sum(len(crops) for _, crops in read_crops(reader, shapes, crop_px=CROP))


def tiles_dataset(sdata: SpatialData, xy: np.ndarray) -> Callable[[np.ndarray], int]:
    """Crops of some cells through spatialdata's dataset; setting it up is not timed."""
    from spatialdata.dataloader import ImageTilesDataset

    data = ImageTilesDataset(
        sdata=with_cells(sdata, xy), regions_to_images={"nuclei": "he"},
        regions_to_coordinate_systems={"nuclei": "global"}, tile_dim_in_units=CROP, rasterize=False,
        table_name="cells", transform=lambda tile: np.asarray(next(iter(tile.images.values())).data),
    )  # fmt: skip

    def work(some: np.ndarray) -> int:
        for i in some:
            assert min(data[int(i)].shape[1:]) >= CROP - 1
        return len(some)

    return work


def slices(array: Any, xy: np.ndarray, some: np.ndarray, *, channel_last: bool) -> int:
    """Crops of some cells, each sliced from an array on disk."""
    for x, y in np.round(xy[some] - CROP / 2).astype(int).tolist():
        rows, columns = slice(y, y + CROP), slice(x, x + CROP)
        np.asarray(array[rows, columns] if channel_last else array[:, rows, columns])
    return len(some)


def compare(sdata: SpatialData, array: Any, xy: np.ndarray, *, channel_last: bool, rounds: int) -> dict[str, Any]:
    """Crops a second of the three, and how many times faster the engine is."""
    order = np.random.default_rng(1).permutation(len(xy))
    found: dict[str, list[tuple[float, float]]] = {"pastpy": [], "slicing": [], "ImageTilesDataset": []}
    dataset = tiles_dataset(sdata, xy)
    engine(sdata, xy[:50])  # imports
    for i in range(rounds):
        some, few = order[i * 500 : (i + 1) * 500], order[i * 100 : (i + 1) * 100]
        found["pastpy"].append(rate(partial(engine, sdata, xy)))
        found["slicing"].append(rate(partial(slices, array, xy, some, channel_last=channel_last)))
        found["ImageTilesDataset"].append(rate(partial(dataset, few)))
    rates = {name: np.array(pairs) for name, pairs in found.items()}
    out: dict[str, Any] = {
        name: dict(zip(("per_second", "per_cpu_second"), np.median(pairs, axis=0).round(1).tolist(), strict=True))
        for name, pairs in rates.items()
    }
    for other in ("slicing", "ImageTilesDataset"):
        times = np.median(rates["pastpy"] / rates[other], axis=0).round(1).tolist()
        out[f"times faster than {other}"] = dict(zip(("by the clock", "by processor time"), times, strict=True))
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import spatialdata
    import tifffile
    import zarr

    import pastpy as past

    rng = np.random.default_rng(0)
    xy = rng.uniform(CROP, arguments.side - CROP, (arguments.cells, 2))
    result: dict[str, Any] = {"machine": machine(), "side_px": arguments.side, "cells": arguments.cells}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slides(folder, arguments.side)
        zarr_array = zarr.open_array(folder / "slide.zarr/images/he/s0", mode="r")
        sdata = spatialdata.read_zarr(folder / "slide.zarr")
        result["zarr"] = compare(sdata, zarr_array, xy, channel_last=False, rounds=arguments.rounds)
        for tile in TILES:
            path = folder / f"slide_{tile}.tif"
            with tifffile.TiffFile(path) as tiff:
                array = zarr.open_array(tiff.aszarr(level=0), mode="r")
                sdata = past.io.read_wsi(path, mpp=MPP)
                found = compare(sdata, array, xy, channel_last=True, rounds=arguments.rounds)
                result[f"JPEG TIFF, tiles of {tile} px"] = found
    report(result, arguments.out)


if __name__ == "__main__":
    main()
