"""Draw docs/_static/simulated_tissue.jpg and measure what docs/simulator.md states of the simulator.

    python scripts/preview_simulated_tissue.py                 # picture, and figures of ten donors
    python scripts/preview_simulated_tissue.py --cells 100000  # also time and memory of a slide

The figures go to docs/_static/simulated_tissue.json, and from there into the table of docs/simulator.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import pastpy as past
from pastpy.metrics import detection
from pastpy.pp._watershed import haematoxylin

DOCS = Path(__file__).resolve().parents[1] / "docs"
STATIC = DOCS / "_static"
FIRST, LAST = "<!-- figures, written by scripts/preview_simulated_tissue.py -->", "<!-- end of figures -->"
PANEL, GAP = 640, 12


def picture() -> Image.Image:
    """Six donors, three magnifications: the whole at 2 µm/px, 0.5 µm/px, and 0.25 µm/px."""
    cohort = past.datasets.simulate_tissue(n_cells=18_000, n_genes=10, n_donors=6, seed=12)
    parts = list(past.datasets.split_donors(cohort).values())
    fine = past.datasets.simulate_tissue(n_cells=1500, n_genes=10, seed=3, mpp=0.25).images["he"].values
    rows = [
        [_whole(part.images["he"].values) for part in parts[:3]],
        [_middle(parts[k].images["he"].values) for k in (0, 3, 5)],
        [_middle(parts[k].images["he"].values) for k in (1, 4)] + [_middle(fine)],
    ]
    side = 3 * PANEL + 2 * GAP
    sheet = np.full((side, side, 3), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            top, left = i * (PANEL + GAP), j * (PANEL + GAP)
            sheet[top : top + PANEL, left : left + PANEL] = panel
    return Image.fromarray(sheet)


def _whole(he: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(he.transpose(1, 2, 0)).resize((PANEL, PANEL), Image.Resampling.BOX))


def _middle(he: np.ndarray) -> np.ndarray:
    y, x = (np.array(he.shape[1:]) - PANEL) // 2
    return he[:, y : y + PANEL, x : x + PANEL].transpose(1, 2, 0)


def measure() -> dict[str, Any]:
    """What the image carries, and how well nuclei are found and states are measured, over ten donors."""
    cohort = past.datasets.simulate_tissue(n_cells=20_000, n_genes=100, n_donors=10, seed=100)
    table = cohort.tables["cells_true"]
    truth = table.uns["past"]["simulate_tissue"]
    f1: dict[str, list[float]] = {"3 µm": [], "6 µm": []}
    for part in past.datasets.split_donors(cohort).values():
        past.pp.segment_nuclei(part, progress=False)
        found, true = part.tables["cells"].obsm["spatial"], part.tables["cells_true"].obsm["spatial"]
        for key, reach in (("3 µm", 3.0), ("6 µm", 6.0)):
            f1[key].append(detection(found, true, max_distance=reach).f1)
    return {
        "n_cells": 20_000, "n_donors": 10, "n_genes": 100, "seed": 100,
        "mean_counts": truth["mean_counts"],
        "image_share_quantiles": np.quantile(table.var["image_share"], [0, 0.25, 0.5, 0.75, 1]).round(3).tolist(),
        "measured_share_median": round(truth["measured_share_median"], 3),
        "bayes_r_mean": round(truth["bayes_r_mean"], 3),
        "bayes_r_quantiles": np.quantile(table.var["bayes_r"], [0, 0.25, 0.5, 0.75, 1]).round(3).tolist(),
        "cell_types": table.obs["cell_type"].value_counts(normalize=True).round(3).to_dict(),
        "segmentation_f1": {key: [round(v, 3) for v in values] for key, values in f1.items()},
        "state_correlations": _states(cohort),
    }  # fmt: skip


def _states(cohort: Any) -> dict[str, float]:
    """Correlation of simple measurements on the picture with the visible states, within tumour cells and donors."""
    corr: dict[str, list[float]] = {"nuclear_size": [], "chromatin": [], "cytoplasm": [], "elongation": []}
    for part in past.datasets.split_donors(cohort).values():
        rgb = part.images["he"].values.transpose(1, 2, 0)
        blue, red = haematoxylin(rgb), -np.log10(np.maximum(rgb[..., 1], 1) / 255.0)
        nuclei = part.shapes["nuclei_true"].geometry
        inside, around = (_mean_in(g, (blue, red)) for g in (nuclei, nuclei.buffer(5).difference(nuclei.buffer(1.5))))
        table = part.tables["cells_true"]
        tumour = (table.obs["look"] == "tumour").to_numpy()
        box = nuclei.minimum_rotated_rectangle()
        sides = box.length.to_numpy() / 2
        long = (sides + np.sqrt(np.maximum(sides**2 - 4 * box.area.to_numpy(), 0))) / 2
        found = {
            "nuclear_size": np.log(nuclei.area.to_numpy()), "chromatin": np.log(inside[0] + 0.01),
            "cytoplasm": around[1] - 1.5 * around[0], "elongation": np.log(long / (sides - long)),
        }  # fmt: skip
        for k, (name, values) in enumerate(found.items()):
            state = table.obsm["true_visible"][:, k]
            ok = tumour & np.isfinite(values)
            corr[name].append(float(np.corrcoef(values[ok], state[ok])[0, 1]))
    return {name: round(float(np.mean(values)), 3) for name, values in corr.items()}


def _mean_in(geometry: Any, layers: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Mean of layers over each shape, NaN where a shape covers nothing of the image."""
    from pastpy._raster import filled_spans

    row, start, stop, which = filled_spans(geometry.to_numpy())
    height, width = layers[0].shape
    start, stop = start.clip(0, width), stop.clip(0, width)
    seen = (row >= 0) & (row < height) & (stop > start)
    row, start, stop, which = row[seen], start[seen], stop[seen], which[seen]
    n = np.bincount(which, weights=stop - start, minlength=len(geometry))
    out = []
    for layer in layers:
        sums = np.concatenate([np.zeros((height, 1)), np.cumsum(layer, axis=1, dtype=float)], axis=1)
        total = np.bincount(which, weights=sums[row, stop] - sums[row, start], minlength=len(geometry))
        out.append(np.where(n > 0, total / np.maximum(n, 1), np.nan))
    return out


def figures(facts: dict[str, Any]) -> str:
    """The table of docs/simulator.md, from the facts alone."""
    share, r = ("{2:.2f} ({1:.2f}–{3:.2f})".format(*facts[f"{name}_quantiles"]) for name in ("image_share", "bayes_r"))
    f1 = facts["segmentation_f1"]["3 µm"]
    states = ", ".join(f"{name.replace('_', ' ')} {r:.2f}" for name, r in facts["state_correlations"].items())
    rows = [
        ("share of the variance of log expression that the image carries, median gene (quartiles)", share),
        ("… of the variance of measured log1p expression, median gene", f"{facts['measured_share_median']:.2f}"),
        ("attainable Pearson r per cell, mean over genes", f"{facts['bayes_r_mean']:.3f}"),
        ("… median gene (quartiles)", r),
        ("correlation of what simple features measure with the visible state, tumour nuclei", states),
        (
            "nuclei that `pp.segment_nuclei` finds, F1 at 3 µm, mean over donors (least, most)",
            f"{np.mean(f1):.2f} ({min(f1):.2f}, {max(f1):.2f})",
        ),
    ]
    if "slide" in facts:
        slide = facts["slide"]
        what = f"{slide['n_cells']:,} cells, {slide['n_genes']} genes, {slide['shape'][2]} × {slide['shape'][1]} px"
        took = f"{slide['cpu_s']:.0f} s of CPU, {slide['wall_s']:.0f} s by the clock on the day, "
        rows.append((f"time to simulate {what}", f"{took}{slide['peak_rss_gb']:.1f} GB at most"))
    head = f"Defaults, {facts['n_donors']} donors, {facts['n_cells']:,} cells, {facts['n_genes']} genes"
    lines = [f"{head} (`docs/_static/simulated_tissue.json`, same command):", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows)])


def fill_page(facts: dict[str, Any]) -> None:
    """Replace the figures of docs/simulator.md."""
    page = DOCS / "simulator.md"
    before, rest = page.read_text(encoding="utf-8").split(FIRST)
    after = rest.split(LAST)[1]
    page.write_text(f"{before}{FIRST}\n\n{figures(facts)}\n\n{LAST}{after}", encoding="utf-8")


def main() -> None:
    """Write the picture, the figures and the table of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=0, help="also time a slide of so many cells")
    args = parser.parse_args()
    out = STATIC / "simulated_tissue.json"
    facts = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if args.cells:
        wall, cpu = time.perf_counter(), time.process_time()
        image = past.datasets.simulate_tissue(n_cells=args.cells).images["he"]
        facts["slide"] = {
            "n_cells": args.cells, "n_genes": 100, "shape": list(image.shape),
            "wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1),
            "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        }  # fmt: skip
    picture().save(STATIC / "simulated_tissue.jpg", quality=88, optimize=True)
    facts.update(measure())
    out.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fill_page(facts)
    print(json.dumps(facts, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
