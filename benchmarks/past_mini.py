"""Cells a second of ``past.tl.embed`` with past-mini, end to end, and where the time goes.

    python benchmarks/past_mini.py [--cells 40000] [--threads 2] [--out past_mini.json]

H&E at 0.5 µm/px with 5,000 cells a mm²: read, encode, pool, project, write. The slide is drawn block by block when it
is read, which a stored slide does not need; that part is named. Stages are measured apart, on one thread.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from simulated_slide import MPP, lazy_image, machine, report, side_for, slide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spatialdata import SpatialData
    from xarray import DataArray

    from pastpy._elements import UnitGeometry
    from pastpy.models import PAST, ImagePass


def end_to_end(sdata: SpatialData, model: PAST) -> dict[str, float]:
    """One call of ``tl.embed``."""
    import pastpy as past

    wall, cpu = time.perf_counter(), time.process_time()
    past.tl.embed(sdata, model, modality="image", progress=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    n = sdata["cells"].n_obs
    return {"cells": n, "cells_per_second": round(n / wall), "cells_per_cpu_second": round(n / cpu)}


def stages(sdata: SpatialData, model: PAST) -> dict[str, float]:
    """µs a cell of every stage of every pass, for the two fullest fields of each, on one thread."""
    from pastpy import _elements

    units = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=MPP)
    levels = _elements.image_levels(sdata, "he")
    found: dict[str, float] = {}
    for each in model.passes:
        found |= {f"{each.name}: {name}": spent for name, spent in pass_stages(levels, units, model, each).items()}
    tokens = model.feature_mean.expand(5000, -1, -1)
    start = time.process_time()
    with torch.inference_mode():
        model.project_image(model.image_tokens(tokens))
    return {**found, "project": round((time.process_time() - start) / len(tokens) * 1e6, 1)}


def pass_stages(levels: Sequence[DataArray], units: UnitGeometry, model: PAST, each: ImagePass) -> dict[str, float]:
    """µs a cell of every stage of one pass."""
    from pastpy.engine import FieldReader, Outlines, TokenStep
    from pastpy.engine.chunks import ChunkedLevel
    from pastpy.engine.encode import FieldEncoder
    from pastpy.engine.read import FieldPixels

    reader = FieldReader(levels, mpp=MPP, target_mpp=each.target_mpp)
    shapes = Outlines(units.geometry, units.radius, units.centroids, MPP / each.target_mpp)
    step = TokenStep(model.image_encoder, each.regions, lambda pooled, _: {}, each.target_mpp)
    encode, level = FieldEncoder(step.encode, device=torch.device("cpu")), ChunkedLevel(reader.level)
    fields = sorted(step.plan(reader, shapes, core_px=None), key=lambda f: -len(f.units))[:2]
    spent = dict.fromkeys(("read", "outlines", "resample and encode", "pool"), 0.0)
    with torch.inference_mode():
        for field in fields:
            clock = [time.process_time()]
            pixels = FieldPixels(reader, field, level.slice(reader.window(field)))
            clock.append(time.process_time())
            outlines = shapes.take(field.units, (field.x, field.y))
            clock.append(time.process_time())
            tokens = encode.tokens(pixels, step.encoder)
            clock.append(time.process_time())
            step.pool(tokens, outlines, field, (reader.width, reader.height))
            clock.append(time.process_time())
            for name, seconds in zip(spent, np.diff(clock), strict=True):
                spent[name] += seconds
    n = sum(len(f.units) for f in fields)
    return {name: round(seconds / n * 1e6, 1) for name, seconds in spent.items()}


def drawing(n_cells: int) -> float:
    """µs a cell that drawing the slide takes."""
    side = side_for(n_cells)
    start = time.process_time()
    lazy_image(side).compute(scheduler="synchronous")
    return round((time.process_time() - start) / n_cells * 1e6, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=40_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch: fields side by side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    from pastpy.tl._inputs import load_past

    model = load_past("past-mini", "cpu")
    sdata = slide(arguments.cells)
    end_to_end(slide(500), model)
    rounds = [end_to_end(sdata, model) for _ in range(arguments.rounds)]
    result: dict[str, Any] = {
        "machine": machine(),
        "rounds": rounds,
        "median_cells_per_second": float(np.median([r["cells_per_second"] for r in rounds])),
        "median_cells_per_cpu_second": float(np.median([r["cells_per_cpu_second"] for r in rounds])),
    }
    torch.set_num_threads(1)
    result["µs a cell, one thread"] = stages(sdata, model)
    result["µs a cell to draw the slide (part of read)"] = drawing(10_000)
    report(result, arguments.out)


if __name__ == "__main__":
    main()
