"""Confusion table of ``pp.check_alignment``: every her2st section × every fault × cells and spots.

    PASTPY_SHARED_DATA=… python benchmarks/alignment_faults.py --out faults.csv [--nuclei FOLDER] [C2 C3 …]

Nuclei are segmented once a section (some 2.5 minutes each on one core) and kept as parquet in ``--nuclei``. The faults
are put on the nuclei and spots, not on the image.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

MPP = 0.69
SECTIONS = ("C2", "C3", "C4", "C5", "C6")


def faults(width: float, height: float) -> dict[str, tuple[Any, float]]:
    """Matrix on level-0 pixels and factor of µm/px of every fault; ``"none"`` first."""
    one = np.eye(3)
    shift, swap, flip_x, flip_y, turn = (np.eye(3) for _ in range(5))
    shift[:2, 2] = 9 / MPP, 12 / MPP
    swap[:2, :2] = [[0, 1], [1, 0]]
    flip_x[0, [0, 2]] = -1, width
    flip_y[1, [1, 2]] = -1, height
    turn[:2] = np.array([[0, -1, height], [1, 0, 0]])
    return {
        "none": (one, 1.0),
        "15 µm shift": (shift, 1.0),
        "x/y swap": (swap, 1.0),
        "horizontal flip": (flip_x, 1.0),
        "vertical flip": (flip_y, 1.0),
        "quarter turn": (turn, 1.0),
        "positions ×2": (np.diag([2.0, 2.0, 1.0]), 1.0),
        "positions ×½": (np.diag([0.5, 0.5, 1.0]), 1.0),
        "µm/px ×2": (one, 2.0),
        "µm/px ×½": (one, 0.5),
    }


def image_size(sdata: SpatialData) -> tuple[int, int]:
    """Width and height of the image in level-0 pixels."""
    level = next(iter(sdata["he"]["scale0"].values()))
    return level.sizes["x"], level.sizes["y"]


def nuclei_of(sdata: SpatialData, kept: Path) -> GeoDataFrame:
    """Outlines of a section's nuclei, from the file if it is there."""
    import geopandas as gpd

    import pastpy as past

    if not kept.exists():
        past.pp.segment_nuclei(sdata)
        frame = gpd.GeoDataFrame(geometry=sdata["nuclei"].geometry.to_numpy())
        kept.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(kept)
    return gpd.read_parquet(kept)


def with_fault(sdata: SpatialData, unit: str, nuclei: GeoDataFrame, matrix: np.ndarray) -> SpatialData:
    """The image with displaced nuclei or spots only; pastpy's provenance of the nuclei is not copied."""
    import geopandas as gpd
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Affine, set_transformation

    moved = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    if unit == "spot":
        shapes = ShapesModel.parse(sdata["spot_circles"].copy())
        set_transformation(shapes, moved, "global")
        return SpatialData(
            images={"he": sdata["he"]}, shapes={"spot_circles": shapes}, tables={"units": sdata["spots"].copy()}
        )
    ids = np.arange(len(nuclei))
    obs = pd.DataFrame({"region": pd.Categorical(["nuclei"] * len(ids)), "cell_id": ids}, index=ids.astype(str))
    table = TableModel.parse(
        AnnData(np.zeros((len(ids), 0), dtype=np.float32), obs=obs),
        region="nuclei", region_key="region", instance_key="cell_id",
    )  # fmt: skip
    shapes = ShapesModel.parse(
        gpd.GeoDataFrame(geometry=nuclei.geometry.to_numpy(), index=ids), transformations={"global": moved}
    )
    return SpatialData(images={"he": sdata["he"]}, shapes={"nuclei": shapes}, tables={"units": table})


def main() -> None:
    """Run and print the table."""
    import pandas as pd

    import pastpy as past
    from pastpy.train.data import read_section

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", default=SECTIONS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nuclei", type=Path, default=Path(past.settings.cache_dir) / "alignment_faults")
    arguments = parser.parse_args()
    shared = os.environ.get("PASTPY_SHARED_DATA")
    if not shared:
        parser.error("set PASTPY_SHARED_DATA to the folder that has her2st/")
    rows = []
    for name in arguments.sections:
        sdata = read_section(Path(shared) / "her2st", name, mpp=MPP, spot_diameter_um=100)
        nuclei = nuclei_of(sdata, arguments.nuclei / f"{name}.parquet")
        width, height = image_size(sdata)
        for fault, (matrix, factor) in faults(width, height).items():
            for unit in ("cell", "spot"):
                moved = with_fault(sdata, unit, nuclei, matrix)
                found = past.pp.check_alignment(moved, mpp=MPP * factor).iloc[0]
                rows.append({"section": name, "fault": fault, "units": unit, **found.to_dict()})
                print(f"{name} {unit} {fault}: {found['verdict']} – {found['reason']}", flush=True)
        pd.DataFrame(rows).to_csv(arguments.out, index=False)
    table = pd.DataFrame(rows)
    print(table.pivot_table(index=["units", "fault"], columns="section", values="verdict", aggfunc="first", sort=False))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
