"""Cells a second with one backbone: windows that cells share, against a crop a cell.

    python benchmarks/dense_vs_crops.py [--cells 10000] [--crops 100] [--out dense_vs_crops.json]

A ViT-S/16 with random weights at 0.25 µm/px, 56 µm (224 px) in view, H&E with 5,000 cells a mm². Only speed is
compared. All cells are embedded densely and, before and after that, some of them by crops, which take a constant time
each; the slide and the reader are the same.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from simulated_slide import lattice_cells, lazy_image, machine, report, side_for

if TYPE_CHECKING:
    from pastpy.engine import FieldReader, Step, UnitShapes

MPP = 0.25


class Crops:
    """The class token of a crop."""

    crop_px = 224

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of crops."""
        return self.network((pixels - 0.5) / 0.5)


def output(features: torch.Tensor, units: np.ndarray) -> dict[str, torch.Tensor]:
    """The features themselves."""
    return {"embedding": features.flatten(1)}


def measure(reader: FieldReader, shapes: UnitShapes, step: Step) -> dict[str, float]:
    """Cells a second, by the clock and by processor time."""
    from pastpy.engine import MemorySink, run_step

    n = len(shapes.radius)
    wall, cpu = time.perf_counter(), time.process_time()
    stats = run_step(reader, shapes, step, MemorySink(n), device="cpu", progress=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert stats.cells == n
    return {"cells": n, "per_second": round(n / wall, 2), "per_cpu_second": round(n / cpu, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--crops", type=int, default=100, help="crops before and after")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import timm
    from xarray import DataArray

    from pastpy.engine import CropStep, FieldReader, Region, TokenStep, UnitShapes
    from pastpy.models import WindowEncoder
    from pastpy.models.adapters import PatchTokens

    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    encoder = WindowEncoder(
        PatchTokens(network, None), window_px=224, stride=16, channels=384, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    side = side_for(arguments.cells, MPP)
    xy, radius = lattice_cells(side, mpp=MPP)
    n = len(xy)
    shapes = UnitShapes(xy, radius, np.zeros((0, 4)), np.zeros(n + 1, dtype=np.int64))
    drawn = np.random.default_rng(0).permutation(n)[: 2 * arguments.crops]
    before, after = (shapes.take(np.sort(part), (0.0, 0.0)) for part in np.split(drawn, 2))
    reader = FieldReader([DataArray(lazy_image(side, mpp=MPP), dims=("c", "y", "x"))], mpp=MPP, target_mpp=MPP)
    regions = (Region("nucleus", "shape"), Region("ring", "ring", 10.0))
    one = CropStep(Crops(network), output)
    first = measure(reader, before, one)
    dense = measure(reader, shapes, TokenStep(encoder, regions, output, MPP))
    last = measure(reader, after, one)
    result = {"machine": machine(), "slide_mm2": round((side * MPP / 1000) ** 2, 3), "dense": dense}
    result |= {"crops before": first, "crops after": last}
    for figure in ("per_second", "per_cpu_second"):
        crops = (first[figure] + last[figure]) / 2
        result[f"dense is faster, {figure}"] = round(dense[figure] / crops, 2)
    report(result, arguments.out)


if __name__ == "__main__":
    main()
