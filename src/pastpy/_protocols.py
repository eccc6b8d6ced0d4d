"""Names of the evaluation protocols on the command line; light, so that ``pastpy --help`` stays instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["PROTOCOLS", "protocol"]

#: Name → where its function is, and what it does.
PROTOCOLS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "nuclei": ("pastpy.bench._nuclei:run_nuclei", "detection on NuCLS tiles, leave one tile out"),
        "loso": ("pastpy.bench._runs:run_sections", "baselines, leave one section out (her2st, or a folder of stores)"),
        "lodo": ("pastpy.bench._runs:run_donors", "baselines, leave one donor out (a folder of stores and donors.csv)"),
        "mob": ("pastpy.bench._runs:run_mob", "baselines on spots of the mouse olfactory bulb, leave one section out"),
        "hest": ("pastpy.bench._runs:run_hest", "frozen encoders by the recipe of the HEST-Benchmark"),
        "deconvolution": (
            "pastpy.bench._runs_embedding:run_deconvolution", "cell-type proportions of held-out spots against a reference",
        ),
        "retrieval": (
            "pastpy.bench._runs_embedding:run_retrieval", "find a held-out spot's transcriptome by the one predicted",
        ),
        "probe": ("pastpy.bench._runs_embedding:run_probe", "tumour nuclei of NuCLS by a linear probe of frozen features"),
        "robustness": ("pastpy.bench._runs_embedding:run_robustness", "biology against section among neighbours"),
        "intervals": ("pastpy.bench._runs_intervals:run_intervals", "coverage of nested conformal intervals on sections"),
        "intervals-simulated": (
            "pastpy.bench._runs_intervals:run_intervals_simulated", "the same on held-out simulated donors",
        ),
    }
)  # fmt: skip


def protocol(name: str) -> Callable[[str | Path, str | Path | None], dict[str, Any]]:
    """The function of a protocol: takes the data folder and the JSON file to write, returns plain values."""
    module, function = PROTOCOLS[name][0].split(":")
    return getattr(import_module(module), function)
