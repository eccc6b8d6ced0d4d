"""Kill ``past.tl.embed`` with SIGKILL twenty times at random moments, resume it, and compare with a run left alone.

    python benchmarks/resume.py [--kills 20] [--cells 10000] [--out resume.json]

past-mini on a simulated slide. Children are forked from this process, so that each begins at once; this process itself
computes nothing before the last one is dead.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import scipy.sparse  # noqa: F401 (imported here once, not in every child)
import timm  # noqa: F401
import torch
import zarr
from simulated_slide import machine, report, slide

import pastpy as past
from pastpy.tl._inputs import load_past

if TYPE_CHECKING:
    import numpy as np
    from spatialdata import SpatialData

    from pastpy.models import PAST


def embed(sdata: SpatialData, model: PAST, store: Path | None) -> np.ndarray:
    """Embeddings."""
    past.tl.embed(sdata, model, modality="image", on_misaligned="ignore", resume=store, progress=False)
    return sdata["cells"].obsm["X_past"].copy()


def lines(store: Path) -> list[str]:
    """The manifest of finished fields."""
    manifest = store / "finished.jsonl"
    return manifest.read_text().splitlines() if manifest.exists() else []


def kill_one(sdata: SpatialData, model: PAST, store: Path, rng: random.Random) -> bool:
    """Begin in a child and kill it after at most one more field; whether it was killed."""
    child = os.fork()
    if child == 0:
        embed(sdata, model, store)
        os._exit(0)
    until, patience = len(lines(store)) + rng.randrange(2), time.monotonic() + 60
    while len(lines(store)) < until and time.monotonic() < patience:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.5))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # smaller fields, so that there is something between the kills
    past.engine.plan.CORE_UM, past.engine.plan.CORE_REACHES = 128.0, 0
    model = load_past("past-mini", "cpu")
    sdata, rng = slide(arguments.cells, chunk=512), random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "run.zarr"
        killed = sum(kill_one(sdata, model, store, rng) for _ in range(arguments.kills))
        before = len(lines(store))
        resumed = embed(sdata, model, store)
        fields = [json.loads(line)["field"] for line in lines(store)]
        n_fields = zarr.open_array(store / "embedding").shape[0]
    alone = embed(sdata, model, None)
    result = {
        "machine": machine(),
        "cells": len(alone),
        "fields": n_fields,
        "killed": killed,
        "fields_finished_before_the_last_run": before,
        "each_field_once": sorted(fields) == list(range(n_fields)),
        "identical_to_the_bit": resumed.tobytes() == alone.tobytes(),
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
