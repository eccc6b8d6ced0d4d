"""Peak memory of ``pp.segment_nuclei`` on a large lazy image.

The 1500 × 1500 px HGSC image (0.5 µm/px) is repeated lazily, so that the slide itself is never in memory, and segmented
in a process of its own, whose peak resident memory is the figure.

    python benchmarks/segmentation_memory.py [--data FOLDER] [--repeat 5] [--block 1536] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from simulated_slide import machine, report

if TYPE_CHECKING:
    from spatialdata import SpatialData

MPP = 0.5


def lazy_slide(path: Path, repeat: int) -> SpatialData:
    """The image, repeated along both sides, as SpatialData over a dask array."""
    import dask.array as da
    import numpy as np
    from PIL import Image
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel

    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB")).transpose(2, 0, 1)
    tiled = da.tile(da.from_array(pixels, chunks=(3, 750, 750)), (1, repeat, repeat))
    sdata = SpatialData(images={"he": Image2DModel.parse(tiled, dims=("c", "y", "x"))})
    sdata.attrs["past"] = {"mpp": {"he": MPP}}
    return sdata


def measure(path: Path, repeat: int, block_px: int) -> dict[str, float]:
    """Segment in this process and report its peak memory."""
    import resource

    import pastpy as past

    sdata = lazy_slide(path, repeat)
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    start = time.perf_counter()
    past.pp.segment_nuclei(sdata, block_px=block_px)
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "side_px": sdata["he"].sizes["x"],
        "nuclei": sdata["cells"].n_obs,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "gb_before": round(before / 1e9, 2),
        "gb_peak": round(usage.ru_maxrss * unit / 1e9, 2),
    }


def main() -> None:
    """Read the arguments, run the child and print its figures."""
    default = os.environ.get("PASTPY_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
    parser = argparse.ArgumentParser(description="Peak memory of past.pp.segment_nuclei on a large lazy image.")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with hgsc/hgsc_nest.jpg")
    parser.add_argument("--repeat", type=int, default=5, help="copies of the image along each side")
    parser.add_argument("--block", type=int, default=1536, help="block_px")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    image = arguments.data / "hgsc" / "hgsc_nest.jpg"
    if not image.is_file():
        parser.error(f"{image} is not there; pass --data")
    if arguments.child:
        print(json.dumps(measure(image, arguments.repeat, arguments.block)))
        return
    run = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--child"], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    report({"machine": machine(), **json.loads(run.stdout.splitlines()[-1])}, arguments.out)


if __name__ == "__main__":
    main()
