"""Confusion table of ``pp.check_alignment``: her2st's cells and spots, and simulated cells, with every fault.

    python scripts/alignment_faults.py --data ../shared/data [--out FILE] [--nuclei FOLDER]

Nuclei of her2st are segmented once a section (some 2.5 minutes each on one core) and kept as parquet in ``--nuclei``;
cells of simulated tissue lie where the simulation put them. The faults are put on cells and spots, not on the image.
The JSON file goes to docs/_data by default, and the table into docs/platforms.md.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from result_tables import DOCS, fill, table

from pastpy.bench._runs import HER2ST

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

SECTIONS, MPP, SPOT_UM = HER2ST
#: Seeds of simulated tissue: the tests, by which the check was written, use another.
SEEDS = (101, 102, 103, 104, 105)
#: Columns of the table.
KINDS = ("cells of her2st", "spots of her2st", "cells of simulated tissue")


def faults(width: float, height: float, mpp: float) -> dict[str, tuple[Any, float]]:
    """Matrix on level-0 pixels and factor of µm/px of every fault; ``"none"`` first."""
    one = np.eye(3)
    shift, swap, flip_x, flip_y, turn = (np.eye(3) for _ in range(5))
    shift[:2, 2] = 9 / mpp, 12 / mpp
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


def with_fault(sdata: SpatialData, shapes_key: str, table_key: str, matrix: np.ndarray) -> SpatialData:
    """The image with displaced cells or spots only; pastpy's provenance is not copied."""
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Affine, set_transformation

    shapes, table = ShapesModel.parse(sdata[shapes_key].copy()), sdata[table_key].copy()
    set_transformation(shapes, Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y")), "global")
    table.uns.pop("past", None)
    return SpatialData(images={"he": sdata["he"]}, shapes={shapes_key: shapes}, tables={table_key: table})


def with_nuclei(sdata: SpatialData, nuclei: GeoDataFrame) -> SpatialData:
    """The object with nuclei and a table of them that has no genes."""
    import pandas as pd
    from anndata import AnnData
    from spatialdata.models import ShapesModel, TableModel

    ids = np.arange(len(nuclei))
    obs = pd.DataFrame({"region": pd.Categorical(["nuclei"] * len(ids)), "cell_id": ids}, index=ids.astype(str))
    sdata["nuclei"] = ShapesModel.parse(nuclei.set_index(ids))
    sdata["cells"] = TableModel.parse(
        AnnData(np.zeros((len(ids), 0), dtype=np.float32), obs=obs),
        region="nuclei", region_key="region", instance_key="cell_id",
    )  # fmt: skip
    return sdata


def pairs(data: Path, kept: Path) -> Iterator[tuple[str, str, SpatialData, str, str, float]]:
    """Kind, name, object, shapes, table and µm/px of every pair that is right."""
    import pastpy as past
    from pastpy.train.data import read_section

    for seed in SEEDS:
        sdata = past.datasets.simulate_tissue(n_cells=1500, n_genes=10, seed=seed)
        yield KINDS[2], f"seed {seed}", sdata, "nuclei_true", "cells_true", sdata.attrs["past"]["mpp"]["he"]
    for name in SECTIONS:
        sdata = read_section(data / "her2st", name, mpp=MPP, spot_diameter_um=SPOT_UM)
        sdata = with_nuclei(sdata, nuclei_of(sdata, kept / f"{name}.parquet"))
        yield KINDS[0], name, sdata, "nuclei", "cells", MPP
        yield KINDS[1], name, sdata, "spot_circles", "spots", MPP


def rows(found: dict[str, Any]) -> str:
    """How often each fault was called suspicious, of how many."""
    lines = []
    for fault in next(iter(found.values()))["faults"]:
        cells = []
        for kind in KINDS:
            verdicts = [pair["faults"][fault]["verdict"] for pair in found.values() if pair["kind"] == kind]
            cells.append(f"{verdicts.count('suspicious')} of {len(verdicts)}")
        lines.append((fault, *cells))
    return table(("fault", *(f"{kind}, called suspicious" for kind in KINDS)), lines)


def main() -> None:
    """Run, write the JSON and the table."""
    import pastpy as past
    from pastpy._elements import image_levels

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=DOCS / "_data" / "alignment.json")
    parser.add_argument("--nuclei", type=Path, default=Path(past.settings.cache_dir) / "alignment_faults")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for kind, name, sdata, shapes_key, table_key, mpp in pairs(arguments.data, arguments.nuclei):
        level = image_levels(sdata, "he")[0]
        pair = found[f"{kind}, {name}"] = {"kind": kind, "faults": {}}
        for fault, (matrix, factor) in faults(level.sizes["x"], level.sizes["y"], mpp).items():
            moved = with_fault(sdata, shapes_key, table_key, matrix)
            row = past.pp.check_alignment(moved, mpp=mpp * factor).iloc[0]
            pair["faults"][fault] = {k: row[k] for k in ("verdict", "reason")}
            print(f"{kind}, {name}, {fault}: {row['verdict']} – {row['reason']}", flush=True)
    arguments.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.out == DOCS / "_data" / "alignment.json":
        fill(DOCS / "platforms.md", {"alignment": rows})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
