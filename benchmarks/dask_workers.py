"""Two Dask workers against one, equal output.

    python benchmarks/dask_workers.py [--cells 100000] [--out dask_workers.json]

``past.tl.embed(client=…)`` with past-mini on a simulated slide. Each worker is a process with one thread; the figure
means something only where two processors are free (see the load that is printed). Workers are measured both ways, in
turn: free to run where the system puts them, and each bound to one processor, as a batch system does with a worker
that asked for one core. A free worker's threads that read ahead run on the second processor, so one has more than one.

Beside it, in turn with it: processor time of the calling process (with Dask's scheduler and the alignment check) and of
the workers, and what the machine allows: two processes that know nothing of each other, each with a quarter of the
cells, at once against one after the other. One such process has threads that read ahead, and keeps more than one
processor busy; so by the clock two are less than twice as fast, even where processors do not slow each other down. How
much they do is told by the ratio of processor time.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from simulated_slide import machine, report, slide

if TYPE_CHECKING:
    from pastpy.models import PAST


@cache
def past_mini() -> PAST:
    """The model, in one thread."""
    import torch

    from pastpy.tl._inputs import load_past

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return load_past("past-mini", "cpu")


def embed(n_cells: int, client: Any = None) -> tuple[np.ndarray, float]:
    """Embeddings and seconds."""
    import pastpy as past

    sdata, model = slide(n_cells), past_mini()
    start = time.perf_counter()
    past.tl.embed(sdata, model, modality="image", client=client, progress=False)
    return sdata["cells"].obsm["X_past"], time.perf_counter() - start


@dataclass
class OnWorkers:
    """Seconds with some workers, a value a round.

    Attributes
    ----------
    seconds
        By the clock.
    here
        Processor time of this process.
    workers
        Processor time of each worker.
    """

    seconds: list[float] = field(default_factory=list)
    here: list[float] = field(default_factory=list)
    workers: list[list[float]] = field(default_factory=list)

    def measure(self, n_cells: int, client: Any) -> np.ndarray:
        """Embed once more; returns the embeddings."""
        before, here = client.run(time.process_time), time.process_time()
        found, seconds = embed(n_cells, client)
        self.here.append(round(time.process_time() - here, 2))
        after = client.run(time.process_time)
        self.workers.append([round(after[worker] - before[worker], 2) for worker in after])
        self.seconds.append(round(seconds, 2))
        return found


@dataclass
class Apart:
    """Two processes without Dask, at once and one after the other; a value a round.

    Attributes
    ----------
    pools
        Of one process each.
    clock, processor
        Seconds both ways, and processor time of both processes.
    """

    pools: list[ProcessPoolExecutor]
    clock: dict[str, list[float]] = field(default_factory=lambda: {"at_once": [], "in_turn": []})
    processor: dict[str, list[float]] = field(default_factory=lambda: {"at_once": [], "in_turn": []})

    def measure(self, n_cells: int) -> None:
        """Embed in both processes, both ways."""
        for way in self.clock:
            start, waiting = time.perf_counter(), []
            for pool in self.pools:
                waiting.append(pool.submit(processor_time, n_cells))
                if way == "in_turn":
                    waiting[-1].result()
            spent = sum(each.result() for each in waiting)  # waits for both
            self.clock[way].append(round(time.perf_counter() - start, 2))
            self.processor[way].append(round(spent, 2))


def processor_time(n_cells: int) -> float:
    """Embed in this process; returns seconds of processor time."""
    start = time.process_time()
    embed(n_cells)
    return time.process_time() - start


def times_as_fast(slow: list[float], fast: list[float]) -> float:
    """Ratio of medians."""
    return round(float(np.median(slow) / np.median(fast)), 2)


def bind(processors: set[int]) -> None:
    """Let all threads of this process, and those to come, run on some processors only."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), processors)


def set_workers(n: int, cluster: Any, client: Any, bound: bool) -> None:
    """Have so many workers, ready to work."""
    here = os.path.dirname(os.path.abspath(__file__))
    cluster.scale(n)
    client.wait_for_workers(n)
    while len(client.nthreads()) != n:
        time.sleep(0.1)
    client.run(lambda: __import__("sys").path.insert(0, here))
    embed(2000, client)  # imports
    every = os.sched_getaffinity(0)
    for worker, own in zip(client.nthreads(), sorted(every), strict=False):
        client.run(bind, {own} if bound else every, workers=[worker])


def summary(runs: dict[int, OnWorkers]) -> dict[str, Any]:
    """Figures of one and of two workers."""
    return {
        "seconds_one_worker": runs[1].seconds,
        "seconds_two_workers": runs[2].seconds,
        "two_against_one": times_as_fast(runs[1].seconds, runs[2].seconds),
        "processor_seconds": {
            f"{name}_worker{'s' * (n > 1)}": {"calling_process": runs[n].here, "workers": runs[n].workers}
            for name, n in (("one", 1), ("two", 2))
        },
    }


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
    from distributed import Client, LocalCluster

    past_mini()
    on = {way: {1: OnWorkers(), 2: OnWorkers()} for way in ("free", "bound")}
    spawn = get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawn) as first,
        ProcessPoolExecutor(1, spawn) as second,
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        local, alone = embed(arguments.cells)
        apart = Apart([first, second])
        for pool in apart.pools:
            pool.submit(processor_time, 2000).result()  # imports
        for _ in range(arguments.rounds):
            for n in (2, 1):
                for way, runs in on.items():
                    set_workers(n, cluster, client, way == "bound")
                    found = runs[n].measure(arguments.cells, client)
                    assert found.tobytes() == local.tobytes(), "workers give what this process gives"
            apart.measure(arguments.cells // 4)
    result = {
        "machine": machine(),
        "cells": len(local),
        "seconds_this_process": round(alone, 2),
        **{way: summary(runs) for way, runs in on.items()},
        "without_dask": {
            "cells_of_each": arguments.cells // 4,
            "seconds_at_once": apart.clock["at_once"],
            "seconds_in_turn": apart.clock["in_turn"],
            "at_once_against_in_turn": times_as_fast(apart.clock["in_turn"], apart.clock["at_once"]),
            "twice_by_processor_time": round(
                2 * times_as_fast(apart.processor["in_turn"], apart.processor["at_once"]), 2
            ),
        },
        "equal_output": True,
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
