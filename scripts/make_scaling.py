"""Write the tables of the benchmarks into the pages of docs, from the JSON files in docs/_data.

    python benchmarks/run_all.py
    python benchmarks/dense_accuracy.py --data ../shared/data --out docs/_data/dense_accuracy.json
    python benchmarks/backbone_stages.py --data ../shared/data --out docs/_data/backbone_stages.json
    python benchmarks/cpu_runtimes.py --out docs/_data/cpu_runtimes.json
    python benchmarks/segmentation_memory.py --out docs/_data/segmentation_memory.json
    python scripts/make_scaling.py

A table whose file is not there says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from result_tables import DOCS, fill, table


def on(machine: dict[str, Any]) -> str:
    """Where it was measured."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['torch_threads']} thread(s) of PyTorch "
        f"{machine['torch']}; load in the minute before the end {machine['load_1min']:g}."
    )


def reading(result: dict[str, Any]) -> str:
    """Crops a second, and the ratios."""
    rows = [
        (
            name,
            *(f"{found[way]['per_second']:,.0f}" for way in ("pastpy", "slicing", "ImageTilesDataset")),
            *(f"{found[f'times faster than {way}']['by the clock']:g}" for way in ("slicing", "ImageTilesDataset")),
        )
        for name, found in result.items()
        if isinstance(found, dict) and "pastpy" in found
    ]
    header = (
        "slide", "pastpy, crops/s", "slices, crops/s", "ImageTilesDataset, crops/s", "× slices", "× ImageTilesDataset",
    )  # fmt: skip
    cells = f"{result['cells']:,} cells, {result['side_px']:,} px a side. "
    return table(header, rows) + "\n\n" + cells + on(result["machine"])


def dense_vs_crops(result: dict[str, Any]) -> str:
    """Cells a second both ways."""
    crops = (result["crops before"]["per_second"] + result["crops after"]["per_second"]) / 2
    rows = [(f"{result['dense']['per_second']:g}", f"{crops:.3g}", f"{result['dense is faster, per_second']:g}")]
    return table(("dense, cells/s", "a crop a cell, cells/s", "ratio"), rows) + "\n\n" + on(result["machine"])


def dense_accuracy(result: dict[str, Any]) -> str:
    """Mean r both ways, a row a seed."""
    rows = [
        (f"{r['seed']}", f"{r['dense']:.4f}", f"{r['crop']:.4f}", f"{r['difference']:.1e}") for r in result["seeds"]
    ]
    low, high = result["interval_95"]
    return (
        table(("seed", "mean r, dense", "mean r, a crop a cell", "difference"), rows)
        + f"\n\nMean difference {result['mean_difference']:.1e}, 95 % interval {low:.1e} to {high:.1e}; "
        f"{result['cells']:,} cells."
    )


def past_mini(result: dict[str, Any]) -> str:
    """Cells a second, and µs a cell of each stage."""
    stages = result["µs a cell, one thread"]
    rows = [(name, f"{micros:g}") for name, micros in stages.items()]
    return (
        f"**{result['median_cells_per_second']:,.0f} cells a second**, end to end "
        f"({result['rounds'][0]['cells']:,} cells, median of {len(result['rounds'])}). On one thread:\n\n"
        + table(("stage", "µs a cell"), rows)
        + f"\n\nDrawing the simulated slide is {result['µs a cell to draw the slide (part of read)']:g} µs of the "
        f"reading. {on(result['machine'])}"
    )


def scaling(result: list[dict[str, Any]]) -> str:
    """A row a size."""
    rows = [
        (
            f"{r['cells']:,}", f"{r['mm2']:g}", f"{r['seconds']:,.0f}", f"{r['cells_per_second']:,}",
            f"{r['gb_working']:.2f}", f"{r['gb_results']:.2f}", f"{r['gb_peak']:.2f}",
        )
        for r in result
    ]  # fmt: skip
    header = ("cells", "mm²", "seconds", "cells/s", "working memory, GB", "results, GB", "peak of the process, GB")
    return table(header, rows) + "\n\n" + on(result[-1])


def growth(result: list[dict[str, Any]]) -> str:
    """How the time grows, and the plot."""
    first, last = result[0], result[-1]
    power = math.log(last["cpu_seconds"] / first["cpu_seconds"]) / math.log(last["cells"] / first["cells"])
    return (
        f"\n\nProcessor time grows with the cells to the power of {power:.2f}.\n\n"
        "![Seconds and working memory over the number of cells](_static/scaling.png)"
    )


def dask_workers(result: dict[str, Any]) -> str:
    """Seconds of one and two workers, free and bound to a processor each."""
    said = {"free": "free to run on both processors", "bound": "each bound to one processor"}
    rows = [
        (
            said[way],
            *(", ".join(f"{s:g}" for s in result[way][f"seconds_{n}"]) for n in ("one_worker", "two_workers")),
            f"{result[way]['two_against_one']:g}",
        )
        for way in said
    ]
    return (
        table(("workers", "one worker, seconds", "two workers, seconds", "times as fast"), rows)
        + f"\n\n{result['cells']:,} cells; ratios are of medians; all output is equal to the bit. "
        f"{_without_dask(result)}{on(result['machine'])}"
    )


def _without_dask(result: dict[str, Any]) -> str:
    """What two processes reach that know nothing of each other."""
    found = result.get("without_dask")
    if found is None:
        return ""
    return (
        f"Two processes without Dask are {found['at_once_against_in_turn']:g} times as fast at once as one after the "
        f"other, and {found['twice_by_processor_time']:g} times by their processor time. "
    )


def resume(result: dict[str, Any]) -> str:
    """What became of the kills."""
    said = "identical to the bit" if result["identical_to_the_bit"] else "NOT identical"
    once = "each field once" if result["each_field_once"] else "fields lost or doubled"
    return (
        f"Killed {result['killed']} times, {result['fields_finished_before_the_last_run']} of {result['fields']} "
        f"fields finished by then; resumed: {said}, {once} ({result['cells']:,} cells)."
    )


def backbone_stages(result: list[dict[str, Any]]) -> str:
    """A row a resolution and stage."""
    stride = {"2": " (stride 8)", "3": " (16)", "4": " (16)"}
    rows = [
        (
            f"{r['mpp']:g}", r["stages"] + stride.get(r["stages"], ""),
            f"{r['spot']:.3f}", f"{r['spot and wide disc']:.3f}",
        )
        for r in result
    ]  # fmt: skip
    return table(("µm/px", "stage", "spot", "spot + wide disc"), rows)


def cpu_runtimes(result: dict[str, Any]) -> str:
    """A row a runtime."""
    rows = [
        (
            name, f"{r['ms_a_tile']:g}", f"{r['times_as_fast_as_PyTorch']:g}",
            f"{r['cosine_of_tokens_median']:.3f}", f"{r['cosine_of_tokens_lowest_percent']:.3f}",
        )
        for name, r in result.items()
        if isinstance(r, dict) and "ms_a_tile" in r
    ]  # fmt: skip
    header = ("runtime", "ms a tile", "times as fast", "cosine to PyTorch's tokens, median", "lowest hundredth")
    return table(header, rows) + "\n\n" + on(result["machine"])


def segmentation_memory(result: dict[str, Any]) -> str:
    """Nuclei, seconds and memory."""
    row = (f"{result['side_px']:,}", f"{result['nuclei']:,}", f"{result['seconds']:.0f}", f"{result['gb_peak']:.2f}")
    header = ("side, px", "nuclei", "seconds", "peak of the process, GB")
    return table(header, [row]) + "\n\n" + on(result["machine"])


SCALING: dict[str, Callable[[Any], str]] = {
    "reading": reading,
    "dense_vs_crops": dense_vs_crops,
    "dense_accuracy": dense_accuracy,
    "past_mini": past_mini,
    "scaling": lambda result: scaling(result) + growth(result),
    "scaling_streamed": scaling,
    "dask_workers": dask_workers,
    "dask_workers_slide": dask_workers,
    "resume": resume,
}
DECISIONS: dict[str, Callable[[Any], str]] = {"backbone_stages": backbone_stages, "cpu_runtimes": cpu_runtimes}
SEGMENTATION: dict[str, Callable[[Any], str]] = {"segmentation_memory": segmentation_memory}


if __name__ == "__main__":
    for page, tables in (("scaling.md", SCALING), ("decisions.md", DECISIONS), ("segmentation.md", SEGMENTATION)):
        fill(DOCS / page, tables, missing="*Not measured yet.*")
