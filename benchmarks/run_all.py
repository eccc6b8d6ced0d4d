"""Run the engine's benchmarks one after the other, each in a process of its own that leaves a JSON file.

    python benchmarks/run_all.py                       # about 45 minutes on two idle cores
    python benchmarks/run_all.py --quick --out /some/folder   # a minute or two: that everything runs
    python benchmarks/run_all.py --only reading resume

By default the files go to docs/_data and the plot to docs/_static; ``python scripts/make_scaling.py`` then writes the
tables of docs/scaling.md. One that fails does not stop the others; the exit code counts the failures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"

#: Name of the JSON file → script, options, options of a quick run.
RUNS = {
    "reading": ("reading.py", "", "--side 2048 --cells 1500 --rounds 1"),
    "dense_vs_crops": ("dense_vs_crops.py", "", "--cells 400 --crops 10"),
    "past_mini": ("past_mini.py", "", "--cells 3000 --rounds 1"),
    "dask_workers": ("dask_workers.py", "", "--cells 3000 --rounds 1"),
    "dask_workers_slide": ("dask_workers.py", "--cells 400000 --rounds 1", "--cells 3000 --rounds 1"),
    "resume": ("resume.py", "", "--kills 3 --cells 2000"),
    "scaling": ("scaling.py", "", "--cells 1000 4000"),
    "scaling_streamed": ("scaling.py", "--streamed --cells 100000 1000000", "--streamed --cells 1000"),
}


def main() -> int:
    """Run them; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--quick", action="store_true", help="small sizes, whose figures mean nothing; needs --out")
    parser.add_argument("--out", type=Path, help="folder for the JSON files and the plot")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out is None:
        parser.error("--quick needs --out: its figures are not for the pages")
    data, pictures = (arguments.out,) * 2 if arguments.out else (DOCS / "_data", DOCS / "_static")
    failed = []
    for name in arguments.only:
        script, full, quick = RUNS[name]
        options = [*(quick if arguments.quick else full).split(), "--out", str(data / f"{name}.json")]
        if name == "scaling":
            options += ["--plot", str(pictures / "scaling.png")]
        print(f"== {script} {' '.join(options)}", flush=True)
        start = time.perf_counter()
        if subprocess.run([sys.executable, str(HERE / script), *options], check=False).returncode:
            failed.append(name)
        print(f"== {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
