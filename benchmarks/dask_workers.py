"""Two Dask workers against one, equal output.

    python benchmarks/dask_workers.py [--cells 100000] [--out dask_workers.json]

``past.tl.embed(client=…)`` with past-mini on a simulated slide. Each worker is a process with one thread; the figure
means something only where two processors are free (see the load that is printed).
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from simulated_slide import machine, report, slide

if TYPE_CHECKING:
    from pastpy.models import PAST


def embed(n_cells: int, model: PAST, client: Any) -> tuple[np.ndarray, float]:
    """Embeddings and seconds."""
    import pastpy as past

    sdata = slide(n_cells)
    start = time.perf_counter()
    past.tl.embed(sdata, model, modality="image", client=client, progress=False)
    return sdata["cells"].obsm["X_past"], time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    # one thread a worker, and for the comparison here
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from distributed import Client, LocalCluster

    import pastpy as past

    torch.set_num_threads(1)
    model = past.models.load("past-mini")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        here = os.path.dirname(os.path.abspath(__file__))
        client.run(lambda: __import__("sys").path.insert(0, here))
        local, alone = embed(arguments.cells, model, None)
        for n in (2, 1) * arguments.rounds:
            cluster.scale(n)
            client.wait_for_workers(n)
            while len(client.nthreads()) != n:
                time.sleep(0.1)
            client.run(lambda: __import__("sys").path.insert(0, here))
            embed(2000, model, client)  # imports
            found, spent = embed(arguments.cells, model, client)
            seconds[n].append(spent)
            assert found.tobytes() == local.tobytes(), "workers give what this process gives"
    result = {
        "machine": machine(),
        "cells": len(local),
        "seconds_this_process": round(alone, 2),
        "seconds_one_worker": [round(s, 2) for s in seconds[1]],
        "seconds_two_workers": [round(s, 2) for s in seconds[2]],
        "two_against_one": round(float(np.median(seconds[1]) / np.median(seconds[2])), 2),
        "equal_output": True,
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
