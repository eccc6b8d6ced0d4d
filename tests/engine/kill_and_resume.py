"""Kill a run again and again, resume it, and compare with one that was left alone.

    python kill_and_resume.py FOLDER N

Prints one line of JSON. Children are forked from this process, whose imports they share; before the fork it starts no
thread. Each is killed after a random number of finished fields and a random delay, so at any point of a field.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse  # noqa: F401 (imported here once, not in every child)
import torch
import tqdm  # noqa: F401
import zarr
from torch import nn
from xarray import DataArray

from pastpy.engine import FieldReader, MemorySink, Region, UnitShapes, ZarrSink, run


class Encoder:
    """One convolution."""

    stride = alignment = 8
    halo, token_centre, channels = 0, 4.0, 4

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Conv2d(3, 4, 8, stride=8)

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens."""
        return self.network(pixels)


def go(sink: MemorySink | ZarrSink) -> None:
    """Run over a small image with 600 round units, in some hundred fields."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 640, 640), dtype=np.uint8)
    units = UnitShapes(
        rng.uniform(0, 640, (600, 2)), np.full(600, 6.0), np.zeros((0, 4)), np.zeros(601, dtype=np.int64)
    )
    run(
        FieldReader([DataArray(pixels, dims=("c", "y", "x"))], mpp=0.5, target_mpp=0.5), units, Encoder(),
        [Region("unit", "shape"), Region("around", "disc", 10.0)],
        lambda pooled, _: {"a": pooled.flatten(1), "b": pooled[:, 0].tanh()}, sink,
        target_mpp=0.5, device="cpu", core_px=64, progress=False,
    )  # fmt: skip


def lines(path: Path) -> list[str]:
    """The manifest."""
    manifest = path / "finished.jsonl"
    return manifest.read_text().splitlines() if manifest.exists() else []


def kill_one(path: Path, rng: random.Random) -> int:
    """Fork a run and kill it; returns how it ended: the signal, or 0 if it was faster."""
    child = os.fork()
    if child == 0:
        go(ZarrSink(path, 600, {"test": 1}))
        os._exit(0)
    until = len(lines(path)) + rng.randrange(5)
    while len(lines(path)) < until and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def main() -> None:
    """Kill, resume, compare."""
    folder, n = Path(sys.argv[1]), int(sys.argv[2])
    path, rng = folder / "run.zarr", random.Random(0)
    signals = [kill_one(path, rng) for _ in range(n)]
    before = len(lines(path))
    resumed, alone = ZarrSink(path, 600, {"test": 1}), MemorySink(600)
    go(resumed)
    go(alone)
    fields = [json.loads(line)["field"] for line in lines(path)]
    print(
        json.dumps(
            {
                "signals": signals,
                "killed": sum(s == signal.SIGKILL for s in signals),
                "finished_before_the_last_run": before,
                "fields": len(fields),
                "each_field_once": sorted(fields) == list(range(zarr.open_array(path / "a").shape[0])),
                "identical": all(
                    np.isfinite(alone[k]).any() and resumed[k].tobytes() == alone[k].tobytes() for k in ("a", "b")
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
