"""Time and memory of ``past.tl.embed`` with past-mini, from 5,000 to 1,000,000 cells (1 to 200 mm²), end to end.

    python benchmarks/scaling.py [--cells 5000 … 1000000] [--streamed] [--out scaling.json] [--plot scaling.png]

H&E at 0.5 µm/px with 5,000 cells a mm², a slide that is computed block by block when it is read. Every size runs in a
process of its own; memory is the process's peak, working memory what it adds to the input geometry and to the results,
which are in memory. With --streamed, results go to a zarr store (``resume=``) and cells are centroids with a radius.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from simulated_slide import MPP, machine, report, side_for, slide

#: Linux counts in KiB, macOS in bytes.
_UNIT = 1 if sys.platform == "darwin" else 1024


def resident() -> int:
    """Bytes that the process holds now."""
    import psutil

    return psutil.Process().memory_info().rss


class Watch:
    """The most that the process holds while it runs, sampled; ``ru_maxrss`` cannot be set back after the set-up."""

    def __init__(self) -> None:
        self.most, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, resident())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure(n_cells: int, *, streamed: bool) -> dict[str, Any]:
    """Embed in this process."""
    import pastpy as past

    warnings.simplefilter("ignore")
    model = past.models.load("past-mini")
    past.tl.embed(slide(200), model, modality="image", progress=False)  # imports
    sdata = slide(n_cells, outlines="circles" if streamed else "polygons")
    table = sdata["cells"]
    before = resident()
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        wall, cpu = time.perf_counter(), time.process_time()
        store = Path(folder) / "run.zarr" if streamed else None
        past.tl.embed(sdata, model, modality="image", resume=store, progress=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    results = sum(np.asarray(table.obsm[k]).nbytes for k in table.obsm)
    assert np.isfinite(table.obsm["X_past"]).all()
    return {
        **machine(),
        "cells": table.n_obs,
        "mm2": round((side_for(n_cells) * MPP / 1000) ** 2, 2),
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "cells_per_second": round(table.n_obs / wall),
        "cells_per_cpu_second": round(table.n_obs / cpu),
        "gb_before": round(before / 1e9, 3),
        "gb_results": round(results / 1e9, 3),
        "gb_working": round((watch.most - before - results) / 1e9, 3),
        "gb_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 1e9, 3),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds and working memory over the cells."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cells = np.array([r["cells"] for r in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for name, label in (("seconds", "by the clock"), ("cpu_seconds", "processor time")):
        left.loglog(cells, [r[name] for r in rows], "o-", label=label)
    left.loglog(cells, cells * rows[-1]["seconds"] / cells[-1], ":", color="0.5", label="linear")
    left.set(xlabel="cells (5,000 a mm²)", ylabel="seconds")
    left.legend()
    right.semilogx(cells, [r["gb_working"] for r in rows], "o-")
    right.set(xlabel="cells", ylabel="working memory, GB", ylim=(0, None))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run every size in a child, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000])
    parser.add_argument("--streamed", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, streamed=arguments.streamed)))
        return
    rows = []
    for n in arguments.cells:
        command = [sys.executable, __file__, "--child", str(n), *(["--streamed"] if arguments.streamed else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    first, last = rows[0], rows[-1]
    if last is not first:
        growth = np.log(last["cpu_seconds"] / first["cpu_seconds"]) / np.log(last["cells"] / first["cells"])
        print(f"processor time grows with cells to the power of {growth:.2f}")
    report(rows, arguments.out)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
