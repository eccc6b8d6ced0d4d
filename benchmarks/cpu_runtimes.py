"""The image encoder of past-mini on a CPU: PyTorch (oneDNN) against OpenVINO in float32 and in int8.

    pip install openvino nncf
    python benchmarks/cpu_runtimes.py [--threads 1] [--out cpu_runtimes.json]

Tiles of 512 px of a simulated slide, the runtimes in turn. int8 is calibrated on other tiles of the slide; its price is
the cosine between its tokens and those of float32, over all tokens of the tiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from simulated_slide import draw, machine, report

TILE = 512

Run = Callable[[np.ndarray], np.ndarray]


def tiles(n: int, *, first: int) -> list[np.ndarray]:
    """RGB in [0, 1], float32 (1, 3, 512, 512), each from another place."""
    return [draw((first + i) * TILE, 0, TILE, TILE)[None].astype(np.float32) / 255 for i in range(n)]


def openvino(network: torch.nn.Module, threads: int, calibration: list[np.ndarray] | None) -> Run:
    """The network compiled by OpenVINO, quantised to int8 where tiles to calibrate with are given."""
    import openvino as ov

    model = ov.convert_model(network, example_input=torch.zeros(1, 3, TILE, TILE))
    if calibration is not None:
        import nncf

        model = nncf.quantize(model, nncf.Dataset(calibration), subset_size=len(calibration))
    compiled = ov.compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    )
    return lambda pixels: compiled(pixels)[0]


def seconds(run: Run, pixels: list[np.ndarray]) -> float:
    """Seconds a tile."""
    start = time.perf_counter()
    for tile in pixels:
        run(tile)
    return (time.perf_counter() - start) / len(pixels)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of tokens (1, channels, h, w)."""
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiles", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from pastpy.tl._inputs import load_past

    encoder = load_past("past-mini", "cpu").image_encoder
    network = torch.nn.Sequential()
    network.forward = encoder.tokens  # type: ignore[method-assign]
    network.add_module("encoder", encoder)

    def in_torch(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return encoder.tokens(torch.from_numpy(pixels)).numpy()

    shown = tiles(arguments.tiles, first=0)
    runs: dict[str, Run] = {
        "PyTorch, float32": in_torch,
        "OpenVINO, float32": openvino(network, arguments.threads, None),
        "OpenVINO, int8": openvino(network, arguments.threads, tiles(32, first=1000)),
    }
    for run in runs.values():
        run(shown[0])
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            spent[name].append(seconds(run, shown))
    median = {name: float(np.median(times)) for name, times in spent.items()}
    expected = [in_torch(tile) for tile in shown]
    result: dict[str, Any] = {"machine": machine(), "threads": arguments.threads}
    for name, run in runs.items():
        found = np.concatenate([cosine(run(t), e).ravel() for t, e in zip(shown, expected, strict=True)])
        result[name] = {
            "ms_a_tile": round(median[name] * 1e3, 1),
            "times_as_fast_as_PyTorch": round(median["PyTorch, float32"] / median[name], 2),
            "cosine_of_tokens_median": round(float(np.median(found)), 5),
            "cosine_of_tokens_lowest_percent": round(float(np.quantile(found, 0.01)), 5),
        }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
